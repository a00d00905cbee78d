"""A folder of things that are slow to build, kept between runs."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Taken while the tests are collected: later each test has an empty home and no proxy.
ENVIRONMENT = dict(os.environ)
CACHE = Path(ENVIRONMENT.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelfetch-e2e"


class PeerUnavailableError(Exception):
    """A real program that a test needs is not available here."""


def build_once(name: str, build: Callable[[Path], None]) -> Path:
    """The folder ``name`` of the cache; ``build`` fills it if it is not there yet.

    The name holds the version. Two runs at once build it once; a build that fails or is killed leaves no folder.

    Raises:
        PeerUnavailableError: As ``build`` raises it.
    """
    target = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=CACHE, prefix=f".{name}-", ignore_cleanup_errors=True) as temporary:
                built = Path(temporary, "built")
                built.mkdir()
                build(built)
                built.rename(target)
    return target


def program(name: str, package: str) -> Path:
    """The program ``name``, which Debian's ``package`` brings.

    Raises:
        PeerUnavailableError: It is not on this machine.
    """
    found = shutil.which(name, path=ENVIRONMENT.get("PATH", "") + os.pathsep + "/usr/sbin:/usr/lib/openssh")
    if found is None:
        raise PeerUnavailableError(f"{name} is not on this machine: `apt-get install {package}` (.ci/run does it)")
    return Path(found)


def must_run(*command: str | Path, environment: Mapping[str, str] | None = None, seconds: float = 1800) -> str:
    """Run a build step and return its output.

    Raises:
        PeerUnavailableError: It failed, with its last lines.
    """
    try:
        done = subprocess.run(
            [str(part) for part in command],
            env={**ENVIRONMENT, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerUnavailableError(f"{command[0]}: {error}") from error
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-20:])
        raise PeerUnavailableError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{last}")
    return done.stdout
