"""A network that leads nowhere, with a name server that records which hosts programs look for."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.cache import PeerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEW_MOUNTS, _NEW_NETWORK = 0x00020000, 0x40000000  # CLONE_NEWNS, CLONE_NEWNET of <linux/sched.h>
_POLL = 0.2
_HEADER = 12  # bytes before the question of a DNS message (RFC 1035, 4.1.1)


@contextmanager
def no_network() -> Iterator[list[str]]:
    """Run the block, and every program that it starts, in a network with nothing but loopback.

    Yields the names that were looked up so far; each of them got the answer that it does not exist.

    Raises:
        PeerUnavailableError: Namespaces can't be made here (it takes root).
    """
    server = _NameServer()
    server.start()
    try:
        with _own_namespaces():
            server.bind()
            yield server.names
    finally:
        server.stop()


@contextmanager
def _own_namespaces() -> Iterator[None]:
    """Give this thread a network with loopback only, and its own mounts with this machine as the name server."""
    folder = Path.cwd()
    before = [os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY) for kind in ("net", "mnt")]
    try:
        _call("unshare", _NEW_MOUNTS | _NEW_NETWORK)
        try:
            with tempfile.NamedTemporaryFile("w", prefix="resolv-") as settings:
                settings.write("nameserver 127.0.0.1\n")
                settings.flush()
                for command in (
                    ("ip", "link", "set", "lo", "up"),
                    ("mount", "--make-rprivate", "/"),
                    ("mount", "--bind", settings.name, "/etc/resolv.conf"),
                ):
                    subprocess.run(command, check=True)
                yield
        finally:
            for namespace in before:
                _call("setns", namespace, 0)
            os.chdir(folder)
    finally:
        for namespace in before:
            os.close(namespace)


def _call(function: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments):
        raise PeerUnavailableError(f"{function}: {os.strerror(ctypes.get_errno())}")


class _NameServer(threading.Thread):
    """Answers each query with NXDOMAIN.

    Its thread starts before the namespaces are made: one that starts in them shares them, and they can't be left.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.names: list[str] = []
        self._bound, self._stopped = threading.Event(), threading.Event()
        self._socket: socket.socket | None = None

    def bind(self) -> None:
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        self._socket.settimeout(_POLL)
        self._bound.set()

    def stop(self) -> None:
        self._stopped.set()
        self._bound.set()
        self.join()
        if self._socket is not None:
            self._socket.close()

    def run(self) -> None:
        self._bound.wait()
        while self._socket is not None and not self._stopped.is_set():
            with contextlib.suppress(TimeoutError):
                message, client = self._socket.recvfrom(512)
                name, end = _question(message)
                if name not in self.names:
                    self.names.append(name)
                # The same id and question, and the flags of a response whose name does not exist.
                head = message[:2] + b"\x81\x83" + message[4:6] + bytes(6)
                self._socket.sendto(head + message[_HEADER:end], client)


def _question(message: bytes) -> tuple[str, int]:
    """The name of a query, and where its question ends: after the name come two bytes each of type and class."""
    labels, at = [], _HEADER
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode(errors="replace"))
        at += 1 + length
    return ".".join(labels), at + 5
