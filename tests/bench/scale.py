"""How planning, syncing, status and repair grow with the number of models and files: n, 2n and 4n of each.

As a program it serves them: it prints its addresses as JSON, and runs until it is terminated.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from modelfetch.demo.hub import Hub  # noqa: E402 - the tree is no package that is installed
from modelfetch.demo.world import World  # noqa: E402
from tests.bench.measure import Run, say, timed  # noqa: E402
from tests.damage import flip  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MODELS = (200, 400, 800)
FILES = (1000, 2000, 4000)
STEPS = (
    *("plan", "first sync", "status", "sync after a comment was added", "sync, nothing to do"),
    "repair of every second file",
)
_COMMANDS = {"plan": ["plan"], "status": ["status"], "repair of every second file": ["verify", "--repair"]}


@dataclass(frozen=True, kw_only=True)
class Growth:
    """The CPU seconds and peak memory (bytes) of one step for n, 2n and 4n of something.

    The seconds are those of the fastest run, as what else the machine does can double them; the peak is the highest.
    """

    what: str
    step: str
    counts: tuple[int, ...]
    seconds: tuple[float, ...]
    peaks: tuple[int, ...]

    @property
    def worst(self) -> float:
        """The largest factor from one number to twice as many."""
        return max(after / before for before, after in zip(self.seconds, self.seconds[1:], strict=False))


def scale_race(python: Path, work: Path, rounds: int) -> list[Growth]:
    """Measure each step for each number of models and of files, below ``work`` or in memory if there is room."""
    with _served() as endpoints, tempfile.TemporaryDirectory(dir=_memory() or work) as folder:
        work = Path(folder)
        found = []
        for what, counts in (("models", MODELS), ("files of one model", FILES)):
            turns = [[_measure(python, work, what, count, endpoints) for count in counts] for _ in range(rounds)]
            for step in STEPS:
                runs = [[turn[at][step] for turn in turns] for at in range(len(counts))]
                seconds = tuple(min(run.cpu for run in same) for same in runs)
                peaks = tuple(max(run.peak for run in same) for same in runs)
                found.append(Growth(what=what, step=step, counts=counts, seconds=seconds, peaks=peaks))
        return found


def _memory() -> Path | None:
    """A folder in memory, if there is one with room: on a disk, the file system's own time is measured as well.

    ext4 without a journal, for instance, skips each inode freed in the last minutes when it makes a file.
    """
    folder = Path("/dev/shm")  # noqa: S108 - a folder of its own is made below it
    return folder if folder.is_dir() and shutil.disk_usage(folder).free >= 2**30 else None


def _measure(python: Path, work: Path, what: str, count: int, endpoints: Mapping[str, str]) -> dict[str, Run]:
    manifest, root = work / "many.yaml", work / "many-root"
    models = _models(count, endpoints["files"]) if what == "models" else [_snapshot(count)]
    text = json.dumps({"version": 1, "tier": "many", "models": models}, indent=0)
    manifest.write_text(text, encoding="utf-8")
    shutil.rmtree(root, ignore_errors=True)
    found = {}
    for step in STEPS:
        say(f"scale: {count} {what}, {step}")
        if "comment" in step:
            manifest.write_text(f"# a comment\n{text}", encoding="utf-8")
        if "repair" in step:
            _damage(root)
        command: list[str | Path] = [python.with_name("modelfetch"), *_COMMANDS.get(step, ["sync"])]
        options: list[str | Path] = ["--manifest", manifest, "--root", root, "-q"]
        found[step] = timed([*command, *options], {"HF_ENDPOINT": endpoints["hf"]})
    shutil.rmtree(root)
    return found


def _damage(root: Path) -> None:
    """Flip a byte in every second file that was placed."""
    placed = sorted(
        path
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and root / ".modelfetch" not in path.parents
    )
    for path in placed[::2]:
        flip(path, offset=2)


def _models(count: int, base: str) -> list[dict[str, object]]:
    return [
        {
            "name": f"m{number}",
            "kind": "file",
            "path": f"models/{number}.json",
            "source": f"{base}m{number}.json",
            "size": len(data := _body(number)),
            "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
            "for": ["comfyui"],
        }
        for number in range(count)
    ]


def _snapshot(count: int) -> dict[str, object]:
    return {"name": "many", "kind": "snapshot", "source": f"hf://bench/m{count}", "for": ["whisper"]}


def _body(number: int) -> bytes:
    return b'{"number": %d}' % number


@contextlib.contextmanager
def _served() -> Iterator[dict[str, str]]:
    """Run the hub as a separate process; yields its addresses."""
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


def main() -> None:
    """Serve until terminated."""
    world = World()
    for number in range(max(MODELS)):
        world.file(f"m{number}.json", _body(number), content_type="application/json")
    for count in FILES:
        world.hf_repo(f"bench/m{count}", {f"d{n // 500}/f{n}.json": _body(n) for n in range(count)})
    with Hub(world) as hub:
        sys.stdout.write(json.dumps({"hf": hub.endpoint, "files": hub.files}) + "\n")
        sys.stdout.flush()
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
