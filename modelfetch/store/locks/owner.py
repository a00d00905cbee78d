"""The owner of a lock, as written in its file, and a check whether its process may still be alive."""

from __future__ import annotations

import functools
import json
import os
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process, identified across containers and machines.

    A pid is unique only within one boot of one kernel and one pid namespace: every init container is pid 1. ``started``
    (clock ticks since boot) distinguishes a process from a later one with the same pid.
    """

    nonce: str
    boot: str
    namespace: str
    pid: int
    started: str
    host: str

    def dump(self) -> bytes:
        """Return the owner as JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Owner | None:
        """Parse what `dump` returns; None for anything else."""
        try:
            raw = json.loads(data)
            owner = cls(**raw)
        except (ValueError, TypeError, RecursionError):
            return None
        texts = (owner.nonce, owner.boot, owner.namespace, owner.started, owner.host)
        return owner if type(owner.pid) is int and all(isinstance(text, str) for text in texts) else None

    @classmethod
    def me(cls) -> Owner:
        """Return an owner for this process, with a new nonce."""
        return replace(_this_process(os.getpid()), nonce=secrets.token_hex(8))

    def same_kernel(self) -> bool:
        """Return whether its process runs, or ran, on this machine since the last boot."""
        return bool(self.boot) and self.boot == boot_id()

    def is_dead(self) -> bool:
        """Return whether the process is known to have ended; False if unknown."""
        if not self.same_kernel() or not self.namespace or self.namespace != _namespace():
            return False
        started = _started(self.pid)
        return started != self.started if started else not Path(f"/proc/{self.pid}").exists()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@functools.cache
def _this_process(pid: int) -> Owner:
    started, host = _started(pid), os.uname().nodename
    return Owner(nonce="", boot=boot_id(), namespace=_namespace(), pid=pid, started=started, host=host)


@functools.cache
def boot_id() -> str:
    """Return the id of this kernel boot, empty if unknown (source: proc_sys_kernel(5))."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return the start time of a process in ticks since boot, empty if unknown (source: proc_pid_stat(5), field 22)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return fields[19]
    except (OSError, IndexError):
        return ""
