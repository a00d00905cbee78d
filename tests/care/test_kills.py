"""SIGKILL at any moment of care's commands: what is not to go is still there, and the next run finishes the work."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from tests.care.conftest import flip
from tests.care.test_repair import large
from tests.pipeline.test_sync import ollama, sha256, vae

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.pipeline.conftest import Bench, Result

KILLS = int(os.environ.get("KILLS", "2"))
"""How often each command is killed; `KILLS=75` is a soak."""


def contents(root: Path) -> dict[str, str]:
    """The digest of every file below the services' folders."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and not path.is_relative_to(root / ".modelfetch")
    }


def many(bench: Bench, count: int = 60) -> dict[str, Any]:
    """A snapshot of many files."""
    files = {f"part-{number}.txt": b"%d" % number * 20_000 for number in range(count)}
    bench.world.hf_repo("acme/many", files)
    spec = [{"path": name, "size": len(data), "digest": sha256(data)} for name, data in files.items()]
    return {"name": "many", "kind": "snapshot", "source": "hf://acme/many", "for": ["whisper"], "files": spec}


def kill_after(words: list[str], seconds: float) -> bool:
    """Run the program and kill it; whether it was still at work."""
    process = subprocess.Popen(
        [sys.executable, "-m", "modelfetch", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def test_a_killed_removal_loses_nothing_that_is_to_stay(bench: Bench, care: Callable[..., Result]) -> None:
    models = many(bench), vae(bench), ollama(bench)
    manifest = bench.manifest(*models)
    assert bench.run("sync", manifest).code == 0
    mine = bench.root / "whisper/hub/mine.bin"
    mine.write_bytes(b"mine")
    whole = contents(bench.root)
    words = ["remove", "many", "--root", str(bench.root), "--json"]
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "modelfetch", *words, "--dry-run"], stdout=subprocess.DEVNULL, check=True)
    usual = time.monotonic() - started
    killed = 0
    generator = random.Random(14)
    for _ in range(KILLS):
        killed += kill_after(words, usual * generator.uniform(0.4, 1.0))
        left = contents(bench.root)
        assert left.items() <= whole.items()
        assert {path for path in whole if "acme--many" not in path} <= left.keys()
        assert care("remove", "many").code in (0, 2)
        assert not any("acme--many" in path for path in contents(bench.root))
        assert bench.run("sync", manifest).code == 0
        assert contents(bench.root) == whole
    assert killed > 0


def usual_seconds(words: list[str]) -> float:
    """How long a command takes that is left alone."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "modelfetch", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - started


def test_a_killed_repair_leaves_every_path_whole_and_the_next_one_finishes(
    bench: Bench, care: Callable[..., Result]
) -> None:
    entry, data = large(bench, chunks=3)
    assert bench.sync(entry).code == 0
    paths = [bench.root / "comfyui/large.bin", bench.root / "whisper/large.bin"]
    words = ["verify", "--repair", "--root", str(bench.root), "--json"]
    flip(paths[0])
    usual = usual_seconds(words)
    generator = random.Random(15)
    for number in range(KILLS):
        flip(paths[0], offset=number + 1)
        kill_after(words, usual * generator.uniform(0.5, 1.1))
        assert [path.stat().st_size for path in paths] == [len(data)] * 2
        assert care("verify", "--repair").code == 0
        assert [path.read_bytes() == data for path in paths] == [True, True]


def test_a_killed_adopt_or_dedupe_loses_no_file(bench: Bench, care: Callable[..., Result]) -> None:
    folders = [bench.folder / "one", bench.folder / "two"]
    for folder in folders:
        (folder / "models/checkpoints").mkdir(parents=True)
        for number in range(40):
            (folder / f"models/checkpoints/{number}.safetensors").write_bytes(b"%d" % number * 600_000)
    whole = [contents(folder) for folder in folders]
    names = [str(folder) for folder in folders]
    generator = random.Random(16)
    for words in (["adopt", *names], ["adopt", "--dedupe", "--no-dry-run", *names]):
        words += ["--root", str(bench.root), "--json"]
        for _ in range(KILLS):
            kill_after(words, generator.uniform(0.3, 1.2))
            assert [visible(folder) for folder in folders] == whole
        assert care(*words[:-3]).code == 0
        assert [visible(folder) for folder in folders] == whole


def visible(folder: Path) -> dict[str, str]:
    """What a program would load of a folder."""
    return {path: digest for path, digest in contents(folder).items() if "/.modelfetch-" not in path}
