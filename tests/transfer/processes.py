"""Starting drivers, and reading what became of them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelfetch.core.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]


def start(
    store: Path, url: str, data: bytes | None, *options: str, before: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    """Start a driver for a file whose bytes are known, or not."""
    digest, size = ("-", "-") if data is None else (str(Digest.sha256(data)), str(len(data)))
    command = [*before, sys.executable, "-m", "tests.transfer.driver", str(store), url, digest, size, *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes], timeout: float = 60) -> tuple[int, dict[str, Any]]:
    """Its exit code, and what it printed."""
    out, err = process.communicate(timeout=timeout)
    assert not err, err.decode()
    return process.returncode, json.loads(out) if out.strip() else {}


def wait_for(condition: Callable[[], bool], timeout: float = 20) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.005)
