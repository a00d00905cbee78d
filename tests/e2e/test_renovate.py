"""The real Renovate, configured as in the guide, proposes to change a pin when its repository has moved."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.demo.hub import Hub
from modelfetch.demo.models import embedding, lora, vae
from modelfetch.demo.world import World
from tests.e2e import peers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.program import Modelfetch

GUIDE = peers.REPOSITORY / "docs/guides/renovate.md"


@pytest.fixture
def hub() -> Iterator[Hub]:
    world = World()
    world.hf_repo("acme/vae", {"vae.safetensors": vae()})
    world.hf_repo("acme/lora", {"lora.safetensors": lora()})
    with Hub(world) as running:
        yield running


def configuration(hub: Hub) -> dict[str, Any]:
    """The guide's configuration, for the embedded hub."""
    (text,) = re.findall(r"```json\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    found: dict[str, Any] = json.loads(text.replace("https://huggingface.co/api", f"{hub.endpoint}/api"))
    return found


def renovate(folder: Path, name: str = "renovate", **environment: str) -> list[dict[str, Any]]:
    """What one of Renovate's programs logs."""
    node = peers.renovate()
    done = subprocess.run(
        [node / "bin" / "node", node / "node_modules" / ".bin" / name],
        cwd=folder,
        env={
            "PATH": f"{node / 'bin'}:/usr/bin:/bin",
            "HOME": str(folder / "home"),
            "RENOVATE_BASE_DIR": str(folder / "home" / "renovate"),
            "LOG_FORMAT": "json",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def proposed(folder: Path) -> dict[str, tuple[str, str]]:
    """The changes that Renovate would propose: for each entry the text to replace, and the new commit."""
    logged = renovate(folder, RENOVATE_PLATFORM="local", LOG_LEVEL="debug")
    (found,) = (line["config"] for line in logged if line["msg"] == "packageFiles with updates")
    dependencies = [dep for file in found["regex"] for dep in file["deps"]]
    return {dep["depName"]: (dep["replaceString"], u["newDigest"]) for dep in dependencies for u in dep["updates"]}


def test_a_repo_that_moved_becomes_a_change_of_its_pin(modelfetch: Modelfetch, hub: Hub) -> None:
    folder = modelfetch.cwd
    (folder / "renovate.json").write_text(json.dumps(configuration(hub)))
    program = modelfetch.with_environment(HF_ENDPOINT=hub.endpoint)
    for link in ("hf://acme/vae/vae.safetensors", "hf://acme/lora/lora.safetensors"):
        program.report("add", link)
    manifest = folder / "models.yaml"
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=folder, check=True)
    subprocess.run(["git", "add", "renovate.json", "models.yaml"], cwd=folder, check=True)
    renovate(folder, "renovate-config-validator")

    assert proposed(folder) == {}
    program.report("pin", "models.yaml", "--check")

    new = hub.world.repos["acme/vae"].commit({"vae.safetensors": embedding()})
    ((name, (old, commit)),) = proposed(folder).items()
    assert (name, commit) == ("vae", new)
    report = program.report("pin", "models.yaml", "--check", exit_code=1)
    states = {model["name"]: model["artifacts"][0]["action"] for model in report["models"]}
    assert states == {"vae": "changed", "lora": "present"}

    # What Renovate writes, and the command that the configuration runs after it.
    manifest.write_text(manifest.read_text().replace(old, re.sub("@[0-9a-f]{40}", f"@{commit}", old)))
    (rule,) = configuration(hub)["packageRules"]
    (command,) = rule["postUpgradeTasks"]["commands"]
    words = command.replace("{{{packageFile}}}", "models.yaml").replace("{{{depName}}}", name).split()
    program.report("plan", "models.yaml", exit_code=65)
    program.report(*words[1:])
    program.report("pin", "models.yaml", "--check")
    program.report("sync", "models.yaml")
