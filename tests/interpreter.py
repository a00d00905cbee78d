"""Python processes that start in milliseconds: they are forked from one that has imported all of modelfetch.

A test of signals, exit codes or several processes needs real ones, and the imports take longer than what it tests.
These are complete: they have their own environment, folder, streams and threads, and end as `python` does. For a test
of the start itself (closed streams, locales, what is imported) use `subprocess`.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[1]


class Process:
    """`python` with these arguments (``-m MODULE …`` or ``-c CODE …``), to be used like `subprocess.Popen`.

    What it writes is kept in files, unless another descriptor is given.
    """

    def __init__(
        self,
        *arguments: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> None:
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - closed by `communicate`
        streams = (
            self._out.fileno() if stdout is None else stdout,
            self._err.fileno() if stderr is None else stderr,
        )
        request = {"start": arguments, "cwd": str(cwd or Path.cwd()), "env": dict(os.environ if env is None else env)}
        self.pid: int = _server().ask(request, streams)
        self.returncode: int | None = None
        self._written: tuple[str, str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.communicate()

    def poll(self) -> int | None:
        """Return the exit code, or the negative number of the signal that killed it; None while it runs."""
        if self.returncode is None:
            self.returncode = _server().ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float = 60) -> int:
        if self.poll() is None:
            descriptor = os.pidfd_open(self.pid)
            try:
                if not select.select([descriptor], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(str(self.pid), timeout)
            finally:
                os.close(descriptor)
        code = self.poll()
        assert code is not None
        return code

    def communicate(self, timeout: float = 60) -> tuple[str, str]:
        """Wait for the end, and return what it wrote to stdout and stderr."""
        self.wait(timeout)
        if self._written is None:
            self._written = (_text(self._out), _text(self._err))
        return self._written

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(*arguments: str, timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
    """Like `subprocess.run`, with the options of `Process`."""
    with Process(*arguments, **options) as process:
        out, err = process.communicate(timeout)
        return subprocess.CompletedProcess(arguments, process.wait(), out, err)


def _text(file: Any) -> str:
    with file:
        file.seek(0)
        return str(file.read().decode("utf-8", "backslashreplace"))


class _Server:
    """The process that forks the others, and waits for them."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "tests.interpreter"]
            self._process = subprocess.Popen(command, stdin=theirs.fileno(), cwd=ROOT)
        self._replies = self._socket.makefile()
        self._lock = threading.Lock()

    def ask(self, request: Mapping[str, Any], descriptors: Sequence[int] = ()) -> Any:
        data = json.dumps(request).encode()
        with self._lock:
            self._socket.sendall(len(data).to_bytes(4))
            socket.send_fds(self._socket, [b"."], descriptors)
            self._socket.sendall(data)
            return json.loads(self._replies.readline())

    def close(self) -> None:
        self._replies.close()
        self._socket.close()
        self._process.wait()


@functools.cache
def _server() -> _Server:
    server = _Server()
    atexit.register(server.close)
    return server


def _serve(connection: socket.socket) -> None:
    for name in ("blake3", "netrc", "platformdirs", "ruamel.yaml", "huggingface_hub.hf_api"):
        importlib.import_module(name)
    for found in pkgutil.walk_packages(importlib.import_module("modelfetch").__path__, "modelfetch."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        del sys.modules[name]  # it reads its settings when it is imported; what it imports itself can stay
    assert threading.active_count() == 1, "a fork takes no thread along"
    gc.freeze()
    while size := connection.recv(4, socket.MSG_WAITALL):
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 2)
        request = json.loads(connection.recv(int.from_bytes(size), socket.MSG_WAITALL))
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            reply = os.waitstatus_to_exitcode(status) if pid else None
        else:
            reply = os.fork()
            if reply == 0:
                connection.close()
                _become(request, descriptors)
                return
        for descriptor in descriptors:
            os.close(descriptor)
        connection.sendall(json.dumps(reply).encode() + b"\n")


def _become(request: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    """Become the requested interpreter."""
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    null = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate((null, *descriptors)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # Whether a stream is a pipe, a file or a terminal is found out when it is opened.
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    kind, what, *rest = request["start"]
    sys.argv = ["-c" if kind == "-c" else what, *rest]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - as `python -c` does


if __name__ == "__main__":
    _serve(socket.socket(fileno=os.dup(0)))
