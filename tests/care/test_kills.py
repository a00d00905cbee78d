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

from tests.pipeline.test_sync import ollama, sha256, vae

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.pipeline.conftest import Bench, Result

KILLS = int(os.environ.get("KILLS", "3"))


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
        killed += kill_after(words, usual * generator.uniform(0.5, 1.3))
        left = contents(bench.root)
        assert left.items() <= whole.items()
        assert {path for path in whole if "acme--many" not in path} <= left.keys()
        assert care("remove", "many").code in (0, 2)
        assert not any("acme--many" in path for path in contents(bench.root))
        assert bench.run("sync", manifest).code == 0
        assert contents(bench.root) == whole
    assert killed >= KILLS // 2
