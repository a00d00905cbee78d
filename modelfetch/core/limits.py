"""Errors for system limits on threads, memory or open files; they name the limits."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import threading
from pathlib import Path

from modelfetch.core.units import format_size
from modelfetch.errors import RetryLaterError

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_CGROUP_LIMITS = {"pids": ("pids.max", "pids.max"), "memory": ("memory.max", "memory.limit_in_bytes")}
"""For each controller, the file with its limit in version 2 and in version 1 (source: cgroups(7))."""
_M_ARENA_MAX = -8  # a parameter of mallopt (source: malloc.h)
_LINKS = 12  # of a chain of exceptions
_START_SECONDS = 5.0  # a thread that has not started by then never will
_STACK = 1 << 20
"""Bytes of a thread's stack where the address space is limited."""
_UNMAPPED = ("failed to map segment", "annot allocate memory")
"""Messages of the dynamic linker if there is no memory for a library."""
_LEAST_FILES = 32
"""Open files that the program needs; `sync` with its default options opens about 40."""
_LEAST_ADDRESS_SPACE = 128 << 20
"""Bytes of address space that the program needs. `sync` was measured: it works in 100 MiB without TLS, and below that a
thread or a library may find no memory in a place where CPython ends the process (``pthread_exit``) or waits forever."""
_LEAST_DATA = 64 << 20
"""Bytes of writable memory that the program needs, stacks and the data of libraries included; measured as above."""
_LOOP_FILES = 3
"""Descriptors that an event loop opens: epoll and a pair of sockets."""
_UNLIMITED = 1 << 60
"""In version 1, unlimited is a number near 2**63."""


def limit_error(error: BaseException) -> RetryLaterError | None:
    """Return the typed error for a failure caused by a limit on threads, memory or open files; None for any other."""
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return _error("no further thread can be started", "pids", ("NPROC", "AS", "DATA"), "allow it more processes")
    if isinstance(error, OSError) and (error.errno in (errno.EMFILE, errno.ENFILE) or _lacks_files_for_lookup(error)):
        return _error("no further file can be opened", None, ("NOFILE",), "allow it more open files (`ulimit -n`)")
    if _lacks_memory(error):
        return _error("there is not enough memory", "memory", ("AS", "DATA"), "allow it more memory")
    return None


def limit_behind(error: BaseException) -> RetryLaterError | None:
    """Return what `limit_error` does, also for an error that another one hides, as HTTP libraries do.

    It is not permanent, since other transfers of the run end and free what they use.
    """
    link: BaseException | None = error
    for _ in range(_LINKS):
        if link is None:
            break
        if (found := limit_error(link)) is not None:
            found.permanent = False
            return found
        link = link.__cause__ or link.__context__
    return None


def raise_limit(error: BaseException) -> None:
    """Raise the typed error of a limit; does nothing for any other failure, which the caller handles.

    Callers take an OSError for a fact about a path: a file is missing, not theirs, or damaged. That a limit was reached
    says nothing about it.
    """
    if (limit := limit_error(error)) is not None:
        raise limit from error


def open_descriptor(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    """Open a file or folder as `os.open` does, but raise a limit's typed error (see `raise_limit`).

    Raises:
        RetryLaterError: No further file can be opened, or memory is lacking (``no-resources``).
        OSError: As `os.open` does.
    """
    try:
        return os.open(path, flags, mode, dir_fd=dir_fd)
    except OSError as error:
        raise_limit(error)
        raise


def require_minimum() -> None:
    """Check that this process may use the least memory and files that any work needs.

    Raises:
        RetryLaterError: A limit is lower (``no-resources``).
    """
    least = {
        "AS": (_LEAST_ADDRESS_SPACE, "there is not enough memory", "allow it more memory (`ulimit -v`)"),
        "DATA": (_LEAST_DATA, "there is not enough memory", "allow it more memory (`ulimit -d`)"),
        "NOFILE": (_LEAST_FILES, "too few files can be opened", "allow it more open files (`ulimit -n`)"),
    }
    for name, (minimum, what, hint) in least.items():
        soft, _ = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
        if soft != resource.RLIM_INFINITY and soft < minimum:
            needed = minimum if name == "NOFILE" else format_size(minimum)
            message = f"{what} ({_process_limit(name)[0]}; it needs at least {needed})"
            raise RetryLaterError(message, code="no-resources", hint=hint)


def require_files_of_loop() -> None:
    """Check that an event loop can be made: asyncio prints a traceback about one that can't.

    Raises:
        RetryLaterError: No further file can be opened (``no-resources``).
    """
    with contextlib.ExitStack() as closing:
        for _ in range(_LOOP_FILES):
            closing.callback(os.close, open_descriptor(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def save_address_space() -> None:
    """Use less of RLIMIT_AS and RLIMIT_DATA, if there is such a limit, before any thread is started.

    glibc reserves 64 MiB for the allocations of each thread, and 8 MiB for its stack, so a few threads would use up
    what the limit allows although they need a small part of it.
    """
    limits = [resource.getrlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    if all(limit == resource.RLIM_INFINITY for limit in limits):
        return
    import ctypes

    from modelfetch.core import libc

    threading.stack_size(_STACK)
    threading.Thread.start = _start  # type: ignore[method-assign,assignment]
    if (mallopt := libc.function("mallopt", ctypes.c_int, ctypes.c_int, ctypes.c_int)) is not None:
        mallopt(_M_ARENA_MAX, 1)


class _Started(threading.Event):
    """The event that a thread has started; a wait without a time limit ends in an error instead of never."""

    def wait(self, timeout: float | None = None) -> bool:
        is_set = super().wait(_START_SECONDS if timeout is None else timeout)
        if timeout is None and not is_set:
            raise RuntimeError("can't start new thread")
        return is_set


_start_thread = threading.Thread.start


def _start(thread: threading.Thread) -> None:
    """Start a thread. CPython waits forever for a thread that lacks the memory to start."""
    if not thread._started.is_set():  # type: ignore[attr-defined]
        thread._started = _Started()  # type: ignore[attr-defined]
    _start_thread(thread)


def _lacks_files_for_lookup(error: OSError) -> bool:
    """Whether a host name was not found because its lookup could open no file."""
    if not isinstance(error, socket.gaierror):
        return False
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as second:
        return second.errno in (errno.EMFILE, errno.ENFILE)
    return False


def _lacks_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM or "malloc failure" in str(error)  # that of OpenSSL
    if isinstance(error, ImportError) and any(text in str(error) for text in _UNMAPPED):
        return True
    # CPython raises other errors too where handling a MemoryError takes memory.
    if isinstance(error, SystemError | ImportError) and error.__context__ is not None:
        return _lacks_memory(error.__context__)
    return isinstance(error, MemoryError)


def _error(what: str, controller: str | None, limits: tuple[str, ...], hint: str) -> RetryLaterError:
    known: list[str] = []
    with contextlib.suppress(MemoryError, SystemError):  # reading them takes memory
        known = _cgroup_limit(controller) if controller else []
        known += [text for name in limits for text in _process_limit(name)]
    named = f" ({', '.join(known)})" if known else ""
    return RetryLaterError(f"{what}{named}", code="no-resources", hint=f"{hint}, or try lower --jobs and --connections")


def _cgroup_limit(controller: str) -> list[str]:
    """The limit of this process's own group, of either version, as a container sees it or as its host does."""
    names = _CGROUP_LIMITS[controller]
    folders = [(0, _CGROUPS), (1, _CGROUPS / controller)]
    with contextlib.suppress(OSError, ValueError):
        for line in _OWN_CGROUP.read_text(encoding="ascii").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                folders.insert(0, (0, _CGROUPS / path.lstrip("/")))
            elif controller in controllers.split(","):
                folders.insert(0, (1, _CGROUPS / controller / path.lstrip("/")))
    for version, folder in folders:
        with contextlib.suppress(OSError, ValueError):
            value = (folder / names[version]).read_text(encoding="ascii").strip()
            if value.isdigit() and int(value) < _UNLIMITED:
                return [f"the container's {names[version]} is {value}"]
    return []


def _process_limit(name: str) -> list[str]:
    soft, _ = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
    if soft == resource.RLIM_INFINITY:
        return []
    return [f"RLIMIT_{name} is {format_size(soft) if name in ('AS', 'DATA') else soft}"]
