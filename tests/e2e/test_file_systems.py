"""Every command on real file systems: without hardlinks, symlinks or modes, full, read-only, or two disks in one."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.damage import flip
from tests.e2e.mounts import (
    CASELESS,
    EXT4,
    FILE_SYSTEMS,
    MIB,
    FileSystem,
    Share,
    mounted,
    overlaid,
    remount_read_only,
)
from tests.e2e.tree import assert_store_is_whole, contents, copy_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.program import Modelfetch

TIER = ("--tier", "demo")
COMFYUI = (*TIER, "--for", "comfyui")
SERVICES = ("comfyui", "diffrhythm", "immich", "ollama", "stable-diffusion", "whisper")


def served(root: Path) -> dict[str, dict[str, str]]:
    """What each service finds, links followed; huggingface_hub too has no `blobs` where it can't make symlinks."""
    return {
        name: {path: digest for path, digest in contents(root / name).items() if "/blobs/" not in f"/{path}"}
        for name in SERVICES
        if (root / name).is_dir()
    }


class On:
    """The program, with its root on a mounted file system."""

    def __init__(self, modelfetch: Modelfetch, root: Path) -> None:
        self.modelfetch = modelfetch
        self.root = root

    def report(self, *words: str, exit_code: int = 0) -> dict[str, Any]:
        return self.modelfetch.report(*words, "--root", str(self.root), exit_code=exit_code)

    def text(self, *words: str) -> str:
        done = self.modelfetch.run(*words, "--root", str(self.root))
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr


@pytest.mark.parametrize("kind", FILE_SYSTEMS, ids=lambda kind: kind.name)
def test_each_command_works_and_plan_predicts_copies(
    kind: FileSystem, modelfetch: Modelfetch, filled: Path, workplace: Path
) -> None:
    with mounted(kind, workplace) as point:
        on = On(modelfetch, point / "root")
        assert ("no link is possible" in on.text("plan", *TIER)) is not kind.hardlinks
        on.report("sync", *TIER)
        assert served(on.root) == served(filled)
        assert_store_is_whole(on.root)
        assert any(path.is_symlink() for path in (on.root / "whisper").rglob("*")) is kind.symlinks
        again = on.report("sync", *TIER)
        assert (again["requests"], again["bytes_fetched"]) == (0, 0)
        assert on.report("status", *TIER)["ok"]
        assert on.report("verify")["ok"]
        assert {entry["origin"] for entry in on.report("list")["entries"]} <= {"made", "blob"}
        assert on.report("prune", *TIER)["models"] == []
        assert on.report("remove", "llama-tiny")["ok"]
        assert not list((on.root / "ollama").rglob("sha256-*"))
        on.report("adopt", str(filled / "ollama" / "models"))
        on.report("sync", *TIER)
        assert served(on.root) == served(filled)


@pytest.mark.parametrize("options", [(), ("xino=off", "index=off")], ids=["inodes kept", "inodes change"])
def test_a_root_in_the_image_of_a_container_is_repaired_and_changed_there(
    modelfetch: Modelfetch, filled: Path, workplace: Path, options: tuple[str, ...]
) -> None:
    lower = copy_tree(filled, workplace / "lower")
    damaged = next(path for path in (lower / "comfyui").rglob("*.safetensors") if path.stat().st_nlink > 1)
    flip(damaged)
    with overlaid(lower, workplace, *options) as point:
        on = On(modelfetch, point)
        assert on.report("sync", *TIER)["requests"] == 0
        on.report("verify", exit_code=1)
        on.report("verify", "--repair", *TIER)
        assert served(on.root) == served(filled)
        on.report("remove", "llama-tiny")
        assert not list((on.root / "ollama").rglob("sha256-*"))
        on.report("sync", *TIER)
        assert served(on.root) == served(filled)
        assert on.report("status", *TIER)["ok"]
        assert not (on.root / ".modelfetch/displaced").exists()


@pytest.mark.parametrize("kind", CASELESS, ids=lambda kind: kind.name)
def test_without_upper_and_lower_case_a_file_of_another_spelling_is_the_users_own(
    kind: FileSystem, modelfetch: Modelfetch, filled: Path, workplace: Path
) -> None:
    wanted = next(path for path in (filled / "comfyui").rglob("*.safetensors") if path.is_file()).relative_to(filled)
    with mounted(kind, workplace) as point:
        on = On(modelfetch, point / "root")
        own = on.root / wanted.with_name(wanted.name.upper())
        own.parent.mkdir(parents=True)
        own.write_bytes(b"something else")
        report = on.report("sync", *COMFYUI, exit_code=73)
        assert {error["code"] for error in report["errors"]} == {"foreign-file"}
        assert own.read_bytes() == b"something else"
        own.write_bytes((filled / wanted).read_bytes())
        time.sleep(1.1)  # FUSE remembers for a second the size that it saw by the other spelling
        on.report("sync", *COMFYUI)
        assert on.report("status", *COMFYUI)["ok"]
        entries = [e for e in on.report("list")["entries"] if e["path"] and e["path"].lower() == str(wanted).lower()]
        assert [(entry["path"], entry["origin"]) for entry in entries] == [(str(wanted), "adopted")]
        on.report("remove", *{model["name"] for model in on.report("status", *COMFYUI)["models"]})
        assert own.read_bytes() == (filled / wanted).read_bytes()
        assert own.name.lower() in {path.name.lower() for path in own.parent.iterdir()}


@pytest.mark.parametrize("kind", CASELESS, ids=lambda kind: kind.name)
def test_without_upper_and_lower_case_prune_keeps_a_file_that_is_wanted_by_another_spelling(
    kind: FileSystem, modelfetch: Modelfetch, filled: Path, workplace: Path
) -> None:
    source = filled / "comfyui/models/loras/styles/ink.safetensors"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()

    def manifest(name: str) -> tuple[str, str]:
        model = {"name": "m", "source": f"file://{source}", "kind": "lora", "filename": name, "for": ["comfyui"]}
        file = workplace / "manifest.yaml"
        file.write_text(json.dumps({"version": 1, "models": [{**model, "digest": f"sha256:{digest}"}]}))
        return "--manifest", str(file)

    with mounted(kind, workplace) as point:
        on = On(modelfetch, point / "root")
        on.report("sync", *manifest("ink.safetensors"))
        on.report("sync", *manifest("INK.safetensors"))
        on.report("prune", *manifest("INK.safetensors"))
        assert on.report("status", *manifest("INK.safetensors"))["ok"]
        assert (point / "root/comfyui/models/loras/INK.safetensors").read_bytes() == source.read_bytes()


def test_a_disk_that_is_too_small_is_known_before_anything_is_fetched(modelfetch: Modelfetch, workplace: Path) -> None:
    with mounted(EXT4, workplace, size=16 * MIB) as point:
        on = On(modelfetch, point / "root")
        for command in ("plan", "sync"):
            report = on.report(command, *TIER, exit_code=74)
            assert {error["code"] for error in report["errors"]} == {"no-space"}
            assert report["bytes_fetched"] == 0
        for command in ("status", "verify", "list", "prune"):
            assert "Traceback" not in on.text(command)


def test_a_filled_root_that_became_read_only_is_read_and_refuses_every_change(
    modelfetch: Modelfetch, workplace: Path
) -> None:
    with mounted(EXT4, workplace, size=128 * MIB) as point:
        on = On(modelfetch, point / "root")
        on.report("sync", *TIER)
        before = contents(on.root)
        remount_read_only(point)
        assert on.report("sync", *TIER)["requests"] == 0
        for words in (("plan", *TIER), ("status", *TIER), ("verify",), ("list",), ("prune", "--dry-run")):
            on.report(*words)
        for words in (("remove", "llama-tiny"), ("adopt", str(workplace))):
            report = on.report(*words, exit_code=73)
            assert {error["code"] for error in report["errors"]} == {"not-writable"}
        assert contents(on.root) == before


@pytest.fixture
def share(workplace: Path) -> Iterator[Share]:
    share = Share(workplace)
    try:
        share.mount()
        yield share
    finally:
        share.unmount()


def start(modelfetch: Modelfetch, share: Share, *words: str) -> subprocess.Popen[str]:
    root = str(share.point / "root")
    return modelfetch.start(*words, "--root", root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_for_blob(share: Share) -> None:
    while not list(share.served.glob("root/.modelfetch/blobs/sha256/*/*")):
        time.sleep(0.05)


def test_a_share_that_drops_during_a_sync_ends_it_with_74_and_the_next_one_resumes(
    modelfetch: Modelfetch, filled: Path, share: Share
) -> None:
    with start(modelfetch, share, "sync", *TIER, "--limit-rate", "4MB") as process:
        wait_for_blob(share)
        share.send(signal.SIGKILL)
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 74, output
    # A call that is under way gets the other error (source: linux/fs/fuse/dev.c, ECONNABORTED and ENOTCONN).
    assert "Transport endpoint is not connected" in output or "Software caused connection abort" in output
    share.unmount()
    share.mount()
    report = On(modelfetch, share.point / "root").report("sync", *TIER)
    assert 0 < report["bytes_fetched"] < sum(path.stat().st_size for path in filled.rglob("*") if path.is_file())
    assert served(share.served / "root") == served(filled)
    assert_store_is_whole(share.served / "root")


def test_a_share_that_hangs_during_a_sync_delays_it(modelfetch: Modelfetch, filled: Path, share: Share) -> None:
    with start(modelfetch, share, "sync", *TIER, "--limit-rate", "20MB") as process:
        wait_for_blob(share)
        share.send(signal.SIGSTOP)
        time.sleep(2)
        assert process.poll() is None
        share.send(signal.SIGCONT)
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    assert served(share.served / "root") == served(filled)


def test_a_share_that_drops_during_any_other_command_loses_nothing(
    modelfetch: Modelfetch, filled: Path, share: Share
) -> None:
    on = On(modelfetch, share.point / "root")
    on.report("sync", *TIER)
    commands = (("verify",), ("verify", "--repair", *TIER), ("prune", *TIER), ("remove", "llama-tiny"), ("list",))
    codes = []
    for number, words in enumerate(commands):
        with start(modelfetch, share, *words) as process:
            time.sleep(0.4 + 0.1 * number)
            share.send(signal.SIGSTOP)  # what the command does next on the share waits, and then fails
            time.sleep(0.3)
            share.send(signal.SIGKILL)
            output = process.communicate(timeout=60)[0]
        codes.append(process.returncode)
        assert process.returncode in (0, 74), output
        assert "Traceback" not in output
        share.unmount()
        share.mount()
        on.report("sync", *TIER)
        assert served(share.served / "root") == served(filled), words
    assert 74 in codes
    assert on.report("verify")["ok"]
