"""The built wheel, alone in an environment outside the repository."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

from tests.e2e.tree import assert_store_is_whole, contents

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.program import Modelfetch

CONSUMERS = {"ollama", "stable-diffusion", "comfyui", "whisper", "diffrhythm"}


def test_help_names_the_commands(modelfetch: Modelfetch) -> None:
    done = modelfetch.run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for command in ("sync", "plan", "status", "fetch", "pin", "fit", "tiers", "env", "schema"):
        assert command in done.stdout


def test_the_demo_tier_fills_every_consumer_in_an_empty_folder(modelfetch: Modelfetch) -> None:
    report = modelfetch.report("sync", "--tier", "demo")
    assert report["ok"]
    assert report["errors"] == []
    assert report["bytes_fetched"] > 0
    for consumer in CONSUMERS:
        assert contents(modelfetch.root / consumer), f"{consumer}/ is empty"
    assert_store_is_whole(modelfetch.root)


def test_the_demo_shows_a_broken_connection_after_which_no_byte_is_sent_twice(modelfetch: Modelfetch) -> None:
    done = modelfetch.run("sync", "--tier", "demo", "--json")
    assert done.returncode == 0, done.stderr
    assert "continuing where it stopped" in done.stderr
    (checkpoint,) = [model for model in json.loads(done.stdout)["models"] if model["name"] == "sd-tiny"]
    (artifact,) = checkpoint["artifacts"]
    assert artifact["bytes_fetched"] == artifact["size"]
    assert modelfetch.run("status", "--tier", "demo").returncode == 0


def test_a_second_sync_sends_no_request_and_changes_nothing(modelfetch: Modelfetch) -> None:
    modelfetch.report("sync", "--tier", "demo")
    before = contents(modelfetch.root)
    report = modelfetch.report("sync", "--tier", "demo")
    assert (report["requests"], report["bytes_fetched"]) == (0, 0)
    assert {artifact["action"] for model in report["models"] for artifact in model["artifacts"]} == {"present"}
    assert contents(modelfetch.root) == before


def test_the_package_is_imported_without_the_tools_of_its_developers(script: Path, workplace: Path) -> None:
    code = "import modelfetch; modelfetch.sync, modelfetch.retrieve, modelfetch.load_manifest, modelfetch.Digest"
    done = subprocess.run(
        [script.with_name("python"), "-W", "error", "-c", code],
        cwd=workplace,
        env={"PATH": os.environ["PATH"], "HOME": str(workplace)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
