"""Start drivers and read their results."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from tests.interpreter import ROOT, Process
from tests.transfer.world import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def start(store: Path, url: str, data: bytes | None, *options: str) -> Process:
    """Start a driver for a file whose bytes are known, or not."""
    return Process(*_arguments(store, url, data, *options), cwd=ROOT)


def start_as_pid_1(store: Path, url: str, data: bytes | None, *options: str) -> subprocess.Popen[str]:
    """Start a driver that is the first process of its pid namespace, as that of a container is."""
    before = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable)
    command = [*before, *_arguments(store, url, data, *options)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _arguments(store: Path, url: str, data: bytes | None, *options: str) -> list[str]:
    digest, size = ("-", "-") if data is None else (str(digest_of(data)), str(len(data)))
    return ["-m", "tests.transfer.driver", str(store), url, digest, size, *options]


def finish(process: Process | subprocess.Popen[str], timeout: float = 60) -> tuple[int, dict[str, Any]]:
    """Its exit code, and what it printed."""
    out, err = process.communicate(timeout=timeout)
    assert not err, err
    return process.wait(), json.loads(out) if out.strip() else {}


def wait_for(condition: Callable[[], bool], timeout: float = 20) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.005)
