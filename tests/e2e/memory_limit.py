"""Limits on memory and processes for programs of a test, as the Docker Engine sets them for a container."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.cache import PeerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A control group of version 1 or 2."""

    folder: Path
    version: int

    def command(self, *command: str) -> list[str]:
        """A command that joins the group before it starts."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs"), *command]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryGroup(Group):
    """A group with a limit on memory."""

    @property
    def peak(self) -> int:
        """The most memory that it has had, in bytes, the page cache included."""
        return int((self.folder / ("memory.peak", "memory.max_usage_in_bytes")[self.version == 1]).read_text())

    @property
    def killed(self) -> int:
        """How many of its processes the kernel has killed for memory."""
        text = (self.folder / ("memory.events", "memory.oom_control")[self.version == 1]).read_text()
        return int(dict(line.split() for line in text.splitlines())["oom_kill"])


@contextmanager
def memory_limit(size: int) -> Iterator[MemoryGroup]:
    """A group that gets so many bytes of memory, and no swap; its programs must have ended when the block ends.

    Raises:
        PeerUnavailableError: There are no memory groups, or they can't be made here (it takes root).
    """
    with _folder("memory") as (folder, version):
        group = MemoryGroup(folder=folder, version=version)
        # In this order: version 1 refuses a sum of memory and swap that is below the memory.
        for name in ("memory.max",) if version == 2 else ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
            if (folder / name).exists():
                (folder / name).write_text(str(size))
        if (swap := folder / "memory.swap.max").exists():
            swap.write_text("0")
        yield group


@contextmanager
def process_limit(count: int) -> Iterator[Group]:
    """A group that may have so many processes and threads; raises as `memory_limit` does."""
    with _folder("pids") as (folder, version):
        (folder / "pids.max").write_text(str(count))
        yield Group(folder=folder, version=version)


@contextmanager
def _folder(controller: str) -> Iterator[tuple[Path, int]]:
    """The folder of a new group, and the version of control groups."""
    version = 2 if (_ROOT / "cgroup.controllers").exists() else 1
    folder = (_ROOT if version == 2 else _ROOT / controller) / f"modelfetch-e2e-limit-{os.getpid()}"
    try:
        if version == 2:
            (_ROOT / "cgroup.subtree_control").write_text(f"+{controller}")
        folder.mkdir()
    except OSError as error:
        raise PeerUnavailableError(f"no limit on {controller} for this test: {error}") from error
    try:
        yield folder, version
    finally:
        folder.rmdir()
