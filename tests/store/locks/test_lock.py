"""Locks: one owner, who is replaced if dead and waited for if alive."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from modelfetch.core.cancel import Cancel
from modelfetch.core.events import Event, Waiting
from modelfetch.errors import DestinationError, DiskError, InterruptedSync, RetryLaterError
from modelfetch.store.locks import heartbeat as heartbeat_module
from modelfetch.store.locks import lock as lock_module
from modelfetch.store.locks.heartbeat import HeartbeatThread
from modelfetch.store.locks.lock import LockLostError, LockTiming, lock
from modelfetch.store.locks.owner import Owner
from tests.cases import THOROUGH, first

KILLS = int(os.environ.get("KILLS", "20"))
"""The processes that are killed with the lock; `make e2e` kills 300."""
TIMING = LockTiming(heartbeat=0.05, stale=0.4, report_interval=0.1, poll=0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "key.lock"


@pytest.fixture(params=["flock", "no flock", "flock unsupported"])
def flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with a flock that works, one that has no effect, and one that fails."""

    def unsupported(_fd: int, _operation: int) -> None:
        raise OSError(95, "not supported")

    if request.param == "no flock":
        monkeypatch.setattr(fcntl, "flock", lambda _fd, _operation: None)
    elif request.param == "flock unsupported":
        monkeypatch.setattr(fcntl, "flock", unsupported)
    return str(request.param)


@pytest.mark.parametrize("name", ["pwrite", "open"])
def test_a_lock_whose_file_is_lost_each_time_is_an_error(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path.parent.mkdir()

    def lost(*_: object) -> int:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(os, name, lost)
    with pytest.raises(DiskError, match="locking"), lock(path, label="x", timing=TIMING):
        pass


def test_a_lock_is_a_file_that_names_its_owner_and_goes_away(path: Path, flock: str) -> None:
    with lock(path, label="x", timing=TIMING) as held:
        owner = Owner.parse(path.read_bytes())
        assert owner is not None
        assert owner.pid == os.getpid()
        assert not held.waited
        assert not held.predecessor_may_be_alive
    assert list(path.parent.iterdir()) == []


def test_only_one_of_many_threads_holds_the_lock(path: Path, flock: str) -> None:
    inside, most, entered = [0], [0], [0]

    def work() -> None:
        for _ in range(8):
            with lock(path, label="x", timing=LockTiming(heartbeat=0.05, stale=30, report_interval=9, poll=0.001)):
                inside[0] += 1
                entered[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.001)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most[0], entered[0]) == (1, 48)


def test_a_waiter_names_the_living_owner(path: Path, flock: str) -> None:
    events: list[Event] = []
    with (
        lock(path, label="x", timing=TIMING),
        pytest.raises(RetryLaterError) as caught,
        lock(path, label="the model", timeout=1.5, sink=events.append, timing=TIMING),
    ):
        raise AssertionError("two owners")
    assert (caught.value.code, caught.value.exit_code) == ("lock-timeout", 75)
    waiting = [event for event in events if isinstance(event, Waiting)]
    assert waiting[0].label == "the model"
    assert str(os.getpid()) in waiting[0].owner
    assert waiting[0].key == "key"


def test_a_timeout_of_zero_does_not_wait(path: Path, flock: str) -> None:
    with (
        lock(path, label="x", timing=TIMING),
        pytest.raises(RetryLaterError, match=r"kept the lock for 0\.\ds"),
        lock(path, label="x", timeout=0, timing=TIMING),
    ):
        raise AssertionError("two owners")


def test_waiting_can_be_cancelled(path: Path, flock: str) -> None:
    cancel = Cancel()
    threading.Timer(0.1, cancel.set).start()
    with (
        lock(path, label="x", timing=TIMING),
        pytest.raises(InterruptedSync),
        lock(path, label="x", cancel=cancel, timing=TIMING),
    ):
        raise AssertionError("two owners")


def left_behind(path: Path, owner: Owner | bytes, *, age: float = 0.0) -> None:
    """Create a lock file whose owner does not hold flock."""
    path.parent.mkdir(parents=True)
    path.write_bytes(owner if isinstance(owner, bytes) else owner.dump())
    then = time.time() - age
    os.utime(path, (then, then))


def somebody(**changes: object) -> Owner:
    me = Owner.me()
    fields = {name: getattr(me, name) for name in ("nonce", "boot", "namespace", "pid", "started", "host")}
    return Owner(**(fields | {"nonce": "0" * 16} | changes))


def seconds_to_get(path: Path, stale: float = TIMING.stale) -> tuple[float, bool]:
    start = time.monotonic()
    with lock(path, label="x", timing=dataclasses.replace(TIMING, stale=stale)) as held:
        return time.monotonic() - start, held.predecessor_may_be_alive


def assert_replaced_at_once(path: Path) -> None:
    """The owner is replaced long before its heartbeats would be overdue, also on a busy machine."""
    seconds, predecessor_may_be_alive = seconds_to_get(path, stale=30)
    assert seconds < 5
    assert not predecessor_may_be_alive


def test_a_dead_process_of_this_namespace_is_replaced_at_once(path: Path, flock: str) -> None:
    left_behind(path, somebody(pid=2**22 - 3, started="1"))
    assert_replaced_at_once(path)


def test_a_later_process_with_the_same_pid_is_not_taken_for_the_owner(path: Path, flock: str) -> None:
    left_behind(path, somebody(started="17"))
    assert_replaced_at_once(path)


def test_a_pid_of_another_namespace_is_ignored(path: Path, flock: str) -> None:
    """It is this process's own pid, as between containers where every process is pid 1."""
    left_behind(path, somebody(namespace="pid:[1]", pid=2**22 - 3))
    if flock == "flock":
        assert_replaced_at_once(path)
    else:
        seconds, predecessor_may_be_alive = seconds_to_get(path)
        assert 0.3 < seconds < 2
        assert predecessor_may_be_alive


def test_an_owner_on_another_machine_is_replaced_only_after_its_heartbeats_stop(path: Path, flock: str) -> None:
    """Its flock may be known only to its own kernel."""
    left_behind(path, somebody(boot="another-boot", pid=2**22 - 3))
    seconds, predecessor_may_be_alive = seconds_to_get(path)
    assert 0.3 < seconds < 2
    assert predecessor_may_be_alive


def test_an_owner_without_recent_heartbeats_is_replaced_at_once(path: Path, flock: str) -> None:
    left_behind(path, somebody(boot="another-boot"), age=100)
    assert seconds_to_get(path, stale=30)[0] < 5


def test_a_wrong_clock_does_not_make_an_owner_stale(path: Path, flock: str) -> None:
    """Its heartbeats have old timestamps, but they advance."""
    left_behind(path, somebody(boot="another-boot"))
    stop = threading.Event()

    def beat() -> None:
        stamp = time.time() - 0.2
        while not stop.wait(0.05):
            stamp += 0.001
            os.utime(path, (stamp, stamp))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(RetryLaterError), lock(path, label="x", timeout=1.2, timing=TIMING):
            raise AssertionError("two owners")
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("content", [b"", b"garbage", b"{}", b"[1]", b'{"nonce": 5}'])
def test_a_lock_file_without_an_owner_becomes_stale(path: Path, flock: str, content: bytes) -> None:
    left_behind(path, content)
    if flock == "flock":
        assert_replaced_at_once(path)
    else:
        assert seconds_to_get(path)[0] < 5


def test_one_of_many_waiting_processes_replaces_a_dead_owner(path: Path, flock: str) -> None:
    left_behind(path, somebody(boot="another-boot"), age=100)
    inside, most, heirs = [0], [0], []

    def work() -> None:
        with lock(path, label="x", timing=LockTiming(heartbeat=0.05, stale=5, report_interval=9, poll=0.002)) as held:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            heirs.append(held.predecessor_may_be_alive)
            time.sleep(0.01)
            inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
    assert sorted(heirs) == [False] * 7 + [True]


@pytest.mark.parametrize("options", first(1, [(("noflock=1",),), ((),)]))
def test_processes_that_are_killed_with_the_lock_are_never_followed_by_two_owners(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    timing = ("heartbeat=0.05", "stale=30", "poll=0.005")
    result = contend(tmp_path, "8", str(KILLS), "1", "kill=0.3", *timing, *options)
    assert result["violations"] == []
    assert result["lost"] == 0  # a process that was not suspended is not replaced
    assert result["acquired"] > 1.5 * KILLS


@THOROUGH
def test_suspended_processes_never_own_the_lock_together_with_another(tmp_path: Path) -> None:
    result = contend(tmp_path, "6", "6", "1", "heartbeat=0.05", "stale=0.3", "poll=0.002", "suspend=0.2", "kill=0.04")
    assert result["violations"] == []
    assert result["suspended"] > 5
    assert result["lost"] > 0  # some detected that they were replaced


def contend(folder: Path, *arguments: str) -> Any:
    command = [sys.executable, "-m", "tests.store.locks.contenders", str(folder), *arguments]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True, timeout=90
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


def left_by_two(path: Path) -> None:
    """Create a lock of a dead owner, as two processes find it at once."""
    left_behind(path, somebody(pid=2**22 - 3, started="1"))


def test_an_owner_that_was_replaced_between_two_looks_is_not_replaced_again(
    path: Path, flock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the second process acts, the owner that it found dead has been replaced."""
    left_by_two(path)
    original = lock_module._Waiter._owner_state

    def slow(waiter: lock_module._Waiter, fd: int) -> object:
        state = original(waiter, fd)
        monkeypatch.setattr(lock_module._Waiter, "_owner_state", original)
        faster.append(others.enter_context(lock(path, label="faster", timing=TIMING)))
        return state

    faster: list[lock_module.Held] = []
    with contextlib.ExitStack() as others:
        monkeypatch.setattr(lock_module._Waiter, "_owner_state", slow)
        with pytest.raises(RetryLaterError), lock(path, label="x", timeout=0.05, timing=TIMING):
            raise AssertionError("two owners")
        assert faster[0].still_owned()


def test_a_resumed_owner_detects_at_once_that_it_was_replaced(path: Path, flock: str) -> None:
    with lock(path, label="x", timing=LockTiming(heartbeat=60, stale=60)) as held:
        assert held.still_owned()
        path.unlink()
        path.write_bytes(b"another's")
        held.check()  # the cheap check relies on the last heartbeat
        assert not held.still_owned()
        with pytest.raises(LockLostError):
            held.ensure_owned()
        with pytest.raises(LockLostError):
            held.check()


def test_an_owner_resumed_in_time_is_not_replaced(path: Path, flock: str) -> None:
    """Its heartbeat is renewed while no process can be about to replace it."""
    with lock(path, label="x", timing=LockTiming(heartbeat=60, stale=1.0)) as held:
        guard = path.with_name(path.name + ".taking")
        guard.write_bytes(Owner.me().dump())  # another process is about to replace it, but then does not
        time.sleep(0.6)
        threading.Timer(0.1, lambda: guard.unlink(missing_ok=True)).start()
        start = time.monotonic()
        assert held.still_owned()
        assert time.monotonic() - start > 0.05 or flock == "flock"
        assert not guard.exists()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_files_of_a_process_that_died_while_replacing_an_owner_are_ignored(path: Path, flock: str, kind: str) -> None:
    left_behind(path, somebody(boot="another-boot"), age=100)
    guard = path.with_name(path.name + ".taking")
    if kind == "file":
        guard.write_bytes(somebody(pid=2**22 - 3, started="1").dump())
    else:
        guard.mkdir()
        os.utime(guard, (time.time() - 100, time.time() - 100))
    assert seconds_to_get(path)[0] < 1
    assert list(path.parent.iterdir()) == []


def test_temporary_files_of_killed_processes_are_removed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_behind(path, somebody(pid=2**22 - 3, started="1"))
    (path.parent / ".key.lock.0123abcd").touch()
    monkeypatch.setattr("modelfetch.core.temp_files._ABANDONED_AFTER", -1.0)
    with lock(path, label="x", timing=TIMING):
        assert [found.name for found in path.parent.iterdir()] == ["key.lock"]


def test_a_lock_needs_no_thread_for_its_heartbeat(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(heartbeat_module, "heartbeats", HeartbeatThread())
    monkeypatch.setattr(lock_module, "heartbeats", heartbeat_module.heartbeats)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with lock(path, label="x", timing=LockTiming(heartbeat=0.05, stale=0.2)) as held:
        before = path.stat().st_mtime_ns
        time.sleep(0.15)
        held.check()
        assert path.stat().st_mtime_ns > before


def test_an_owner_detects_that_its_lock_was_taken(path: Path, flock: str) -> None:
    with lock(path, label="x", timing=TIMING) as held:
        held.check()
        path.unlink()
        path.write_bytes(b"another's")
        time.sleep(0.2)
        with pytest.raises(LockLostError):
            held.check()
    assert path.read_bytes() == b"another's"


def test_a_heartbeat_renews_the_lock_file(path: Path, flock: str) -> None:
    with lock(path, label="x", timing=TIMING):
        first = path.stat().st_mtime_ns
        time.sleep(0.3)
        assert path.stat().st_mtime_ns > first


@pytest.mark.parametrize("exists", [False, True])
def test_a_link_in_the_place_of_a_lock_is_refused_and_not_written_through(path: Path, *, exists: bool) -> None:
    target = path.parent.parent / "precious"
    path.parent.mkdir()
    path.symlink_to(target)
    if exists:
        target.write_text("precious")
    with pytest.raises(DestinationError), lock(path, label="x", timeout=1.0):
        pass
    assert target.read_text() == "precious" if exists else not target.exists()


@pytest.mark.parametrize("kind", ["FIFO", "folder", "socket"])
def test_anything_but_a_file_in_the_place_of_a_lock_is_refused_at_once(path: Path, kind: str) -> None:
    path.parent.mkdir()
    with contextlib.ExitStack() as stack:
        if kind == "FIFO":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX))).bind(str(path))
        start = time.monotonic()
        with pytest.raises(DestinationError) as caught, lock(path, label="x", timeout=30):
            pass
    assert time.monotonic() - start < 5
    assert str(path) in caught.value.message


def test_a_lock_that_can_not_be_written_is_not_held(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor if its file can't be removed either: the next attempt of the same process waited for the open file."""

    def fail(*_: object, **_options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("pwrite", "unlink"):
        monkeypatch.setattr(os, name, fail)
    with pytest.raises(DestinationError), lock(path, label="it"):
        pass
    monkeypatch.undo()
    with lock(path, label="it", timeout=0.0):
        pass
