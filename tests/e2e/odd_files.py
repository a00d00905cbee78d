"""Run commands on a root in which one file after the other is replaced by something odd; see `test_odd_files`.

Usage: odd_files.py FOLDER ODDITY. Prints a line for each command that ended badly; ends with 1 where one hangs.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.cli.app import run
from modelfetch.cli.fastpath.check import attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GIB = 2**30
MEMORY = 3 * GIB
HANGS_AFTER = 30.0
LARGE, SMALL = b"weights!" * 10_000, b'{"small": true}'
DEEP = 20_000


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        # What is placed is hashed, which takes time; what is only read must be refused for its size.
        file.truncate(GIB if ".modelfetch" in path.parts and "blobs" not in path.parts else 8 * 2**20)


ODDITIES: dict[str, Callable[[Path], None]] = {
    "FIFO": os.mkfifo,
    "folder": lambda path: (path / "x").mkdir(parents=True),
    "dangling link": lambda path: path.symlink_to("/nowhere/at/all"),
    "loop of links": lambda path: path.symlink_to(path.name),
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "device that blocks": lambda path: path.symlink_to("/dev/ptmx"),
    "huge file": _sparse,
    "empty file": lambda path: path.touch(),
    "garbage": lambda path: _write(path, bytes(range(256)) * 40),
    "deep JSON": lambda path: _write(path, b"[" * DEEP + b"]" * DEEP),
    "deep YAML": lambda path: _write(path, b"a: " + b"{a: " * DEEP + b"1" + b"}" * DEEP),
    "other JSON": lambda path: _write(path, b'{"version": 1, "placements": [], "resolved": 7, "checked": {"a": 5}}'),
}


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def build(folder: Path) -> None:
    """A root with two placed files, one partial file, and all files of modelfetch's own."""
    sources = folder / "sources"
    sources.mkdir(parents=True)
    models = []
    for name, data in (("large.bin", LARGE), ("small.json", SMALL)):
        (sources / name).write_bytes(data)
        models.append(
            {
                "name": name.partition(".")[0],
                "kind": "file",
                "path": f"models/{name}",
                "source": (sources / name).as_uri(),
                "size": len(data),
                "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
                "for": ["comfyui"],
            }
        )
    (folder / "base.yaml").write_text(json.dumps({"version": 1, "tier": "base", "models": models}))
    (folder / "models.yaml").write_text(json.dumps({"version": 1, "tier": "odd", "extends": "base.yaml"}))
    for name in ("token", "netrc", "docker/config.json", ".env"):
        (folder / "home" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "home" / name).write_text("")
    assert _run(folder, "sync", "--quiet") == 0
    assert _run(folder, "verify") == 0
    own = folder / "root/.modelfetch"
    digest = hashlib.sha256(b"never fetched").hexdigest()
    for name in (f"ingest/{digest}.part", f"ingest/{digest}.json", "in-place.json", "journal/comfyui.jsonl"):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).touch()


def targets(folder: Path) -> Iterator[str]:
    """Every file of the root and around it, and locks that exist only during a run."""
    for name in ("consumer-comfyui.lock", "consumer-comfyui.lock.taking", "removing.lock", "checks.lock"):
        yield f"root/.modelfetch/locks/{name}"
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "sources" not in path.parts:
            yield str(path.relative_to(folder))


READING = (("status",), ("list",), ("prune", "--dry-run"), ("remove", "large", "--dry-run"), ("plan",))
WRITING = (("sync",), ("sync", "--refresh"), ("verify",), ("env", "--update", "home/.env"))
"""Each of these starts from the odd root: it may repair it."""


def main(folder: Path, oddity: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    build(folder / "whole")
    for target in list(targets(folder / "whole")):
        for words in (*READING, *WRITING):
            if words[0] == "env" and not target.endswith((".env", ".yaml")):
                continue
            odd = folder / "odd"
            if words == READING[0] or words in WRITING:
                os.chdir(folder)
                subprocess.run(["rm", "-rf", odd], check=True)
                subprocess.run(["cp", "-a", folder / "whole", odd], check=True)
                (odd / target).unlink(missing_ok=True)
                ODDITIES[oddity](odd / target)
            case = f"{oddity} for {target}: {' '.join(words)}"
            code = _run(odd, *words, case=case)
            if code not in (0, 1, 65, 73, 74, 75, 77, 78) and (code, words[0]) != (2, "remove"):
                sys.stdout.write(f"{case}: {code}\n")


def _run(folder: Path, *words: str, case: str = "") -> int:
    os.chdir(folder)
    home = str(folder / "home")
    os.environ |= {
        "HOME": home,
        "HF_TOKEN_PATH": f"{home}/token",
        "CIVITAI_API_TOKEN_FILE": f"{home}/token",
        "NETRC": f"{home}/netrc",
        "DOCKER_CONFIG": f"{home}/docker",
    }
    root = ["--lock-timeout", "0.2"] if words[0] in ("sync", "verify", "prune", "remove") else []
    root += ["--root", "root"] if words[0] != "env" else []
    argv = [*words, *root]
    if words[0] not in ("list", "prune", "remove", "verify"):
        argv += ["--manifest", "models.yaml"]
    sys.stderr.write(f"{case}\n")
    sys.stderr.flush()
    faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = attempt(argv)
            code = run(argv) if code is None else code
    except BaseException as error:
        sys.stdout.write(f"{case}: {error!r}\n")
        code = 70
    faulthandler.cancel_dump_traceback_later()
    if code == 70 or (not case and code):
        sys.stdout.write(f"{case}: {code}: {err.getvalue()[-1500:]}\n")
    return code


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), sys.argv[2])
