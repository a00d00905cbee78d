"""Large manifests: the event loop gets its turn, and the work grows with the number of files, not with its square."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from typing import TYPE_CHECKING

import modelfetch
from modelfetch.pipeline import execute

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path
    from typing import Any

    import pytest

COMMIT = "1" * 40


def write_manifest(folder: Path, models: list[dict[str, Any]]) -> Path:
    path = folder / "many.yaml"
    path.write_text(json.dumps({"version": 1, "tier": "many", "models": models}))
    return path


def local_files(folder: Path, count: int) -> list[dict[str, Any]]:
    models = []
    for number in range(count):
        source = folder / f"source-{number}.txt"
        source.write_text(f"model {number}")
        models.append(
            {
                "name": f"m{number}",
                "kind": "file",
                "path": f"notes/{number}.txt",
                "source": source.as_uri(),
                "for": ["comfyui"],
            }
        )
    return models


def snapshot(count: int) -> dict[str, Any]:
    files = [
        {"path": f"d{n % 50}/f{n}.json", "size": 10, "digest": f"sha256:{hashlib.sha256(b'%d' % n).hexdigest()}"}
        for n in range(count)
    ]
    return {"name": "many", "kind": "snapshot", "source": f"hf://a/b@{COMMIT}", "for": ["whisper"], "files": files}


def longest_gap(work: Coroutine[Any, Any, object]) -> tuple[float, float]:
    """The longest time between two turns of the loop, and the whole time: in seconds of this process's CPU."""
    gaps: list[float] = []

    async def watch() -> None:
        while True:
            before = time.process_time()
            await asyncio.sleep(0.001)
            gaps.append(time.process_time() - before)

    async def main() -> float:
        started = time.process_time()
        watcher = asyncio.create_task(watch())
        await work
        watcher.cancel()
        return time.process_time() - started

    total = asyncio.run(main())
    return max(gaps), total


def test_planning_thousands_of_files_does_not_block_the_loop(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, [snapshot(600)])
    gap, total = longest_gap(modelfetch.plan_async(manifest=path, root=tmp_path / "root", offline=True))
    assert gap < 0.15
    assert gap < total / 3


def test_syncing_hundreds_of_models_does_not_block_the_loop(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, local_files(tmp_path, 100))
    gap, total = longest_gap(modelfetch.sync_async(manifest=path, root=tmp_path / "root"))
    assert gap < 0.15
    assert gap < total / 3
    assert (tmp_path / "root/comfyui/notes/99.txt").read_text() == "model 99"


def test_a_few_models_and_files_are_in_progress_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "_MODELS_AT_ONCE", 4)
    monkeypatch.setattr(execute, "_FILES_AT_ONCE", 4)
    path = write_manifest(tmp_path, local_files(tmp_path, 60))
    most = 0

    async def main() -> modelfetch.Report:
        async def watch() -> None:
            nonlocal most
            while True:
                await asyncio.sleep(0.001)
                most = max(most, len(asyncio.all_tasks()))

        watcher = asyncio.create_task(watch())
        try:
            return await modelfetch.sync_async(manifest=path, root=tmp_path / "root")
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher

    assert asyncio.run(main()).ok
    assert most < 30
