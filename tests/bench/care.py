"""Verify beside sha256sum, and list as placements grow: `python tests/bench/care.py [--size MIB] [--placements N]`."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = [sys.executable, "-m", "modelfetch"]
MIB = 1 << 20


def store_of(root: Path, files: int, size: int) -> None:
    """A root whose store holds this many blobs of a size in bytes."""
    unit = os.urandom(min(size, MIB))
    for number in range(files):
        head = number.to_bytes(8, "big")
        data = (head + unit[8:]) if size <= MIB else None
        part = root / "part"
        hasher = hashlib.sha256()
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            for chunk in [data] if data is not None else [head + unit[8:], *[unit] * (size // MIB - 1)]:
                file.write(chunk)
                hasher.update(chunk)
        digest = hasher.hexdigest()
        blob = root / ".modelfetch/blobs/sha256" / digest[:2] / digest
        blob.parent.mkdir(parents=True, exist_ok=True)
        part.replace(blob)


def seconds(command: list[str | Path]) -> float:
    """How long a command takes."""
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - started


def verify_race(work: Path, files: int, size: int) -> tuple[float, float]:
    """Seconds of `modelfetch verify` and of `sha256sum` over the same files; the better of two runs each."""
    root = work / f"verify-{files}"
    store_of(root, files, size)
    blobs = [str(path) for path in root.rglob("blobs/sha256/??/*") if path.suffix != ".json"]
    ours = min(seconds([*PROGRAM, "verify", "--root", root]) for _ in range(2))
    theirs = min(seconds(["sha256sum", *blobs]) for _ in range(2))
    return ours, theirs


def list_seconds(work: Path, count: int) -> float:
    """Seconds of `modelfetch list` over this many placements."""
    root = work / f"list-{count}"
    folder = root / "comfyui/models/loras"
    folder.mkdir(parents=True)
    placements = {}
    for number in range(count):
        path = folder / f"{number}.safetensors"
        path.write_bytes(b"%d" % number)
        found = path.stat()
        placements[f"comfyui/models/loras/{path.name}"] = {
            "digest": "sha256:" + hashlib.sha256(b"%d" % number).hexdigest(),
            "size": found.st_size,
            "mtime_ns": found.st_mtime_ns,
            "how": "copy",
            "made": True,
            "model": f"m{number}",
            "manifests": ["bench"],
        }
    receipt = root / ".modelfetch/receipts/comfyui.json"
    receipt.parent.mkdir(parents=True)
    receipt.write_text(
        json.dumps({"version": 1, "consumer": "comfyui", "placements": placements, "resolved": {}}), encoding="ascii"
    )
    return min(seconds([*PROGRAM, "list", "--json", "--root", root]) for _ in range(2))


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096, help="MiB to verify, in 1 and in 200 files")
    parser.add_argument("--placements", type=int, default=10_000, help="the largest number of placements to list")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="modelfetch-bench-") as name:
        work = Path(name)
        for files in (1, 200):
            ours, theirs = verify_race(work, files, arguments.size * MIB // files // MIB * MIB)
            ratio = ours / theirs
            sys.stdout.write(f"verify {files} files: {ours:.2f} s, sha256sum {theirs:.2f} s, ratio {ratio:.2f}\n")
        for count in (arguments.placements // 4, arguments.placements // 2, arguments.placements):
            sys.stdout.write(f"list {count} placements: {list_seconds(work, count):.2f} s\n")


if __name__ == "__main__":
    main()
