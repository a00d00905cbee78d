"""Several processes that need one file: one fetches, the others wait, and a dead or suspended one is replaced."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from modelfetch.store.chunks import CHUNK
from tests.cases import THOROUGH, first
from tests.transfer.processes import finish, start, start_as_pid_1, wait_for
from tests.transfer.server import Conn, Origin, Request, head, paced
from tests.transfer.world import World, payload

if TYPE_CHECKING:
    from pathlib import Path

DATA = payload(CHUNK + 6_000_000, seed=4)


pace = paced(200_000, 0.01)
"""About 20 MB per second."""


@pytest.mark.parametrize(
    ("noflock", "data"), [("", DATA), ("noflock=1", None)], ids=["flock, digest", "no flock, no digest"]
)
def test_eight_processes_download_a_file_once(world: World, noflock: str, data: bytes | None) -> None:
    ready, everyone_waits = world.root / "ready", threading.Event()
    ready.mkdir()

    def held(conn: Conn, request: Request, origin: Origin) -> None:
        everyone_waits.wait(60)
        pace(conn, request, origin)

    with Origin(DATA, default=held) as origin:
        # the start of eight interpreters on a busy machine takes longer than a short-lived heartbeat
        options = [*filter(None, [noflock]), "connections=1", "stale=30", f"ready={ready}"]
        everyone = [start(world.root / "store", origin.url, data, *options)]
        wait_for(lambda: bool(origin.requests))
        everyone += [start(world.root / "store", origin.url, data, *options) for _ in range(7)]
        wait_for(lambda: len(list(ready.iterdir())) == 8, timeout=60)
        everyone_waits.set()
        results = [finish(process) for process in everyone]
    assert [code for code, _ in results] == [0] * 8
    assert sorted(result["action"] for _, result in results) == ["fetched"] + ["present"] * 7
    assert origin.sent == len(DATA)
    (blob,) = world.store.blobs()
    assert blob.path.read_bytes() == DATA


@pytest.mark.parametrize("noflock", ["", "noflock=1"], ids=["flock", "no flock"])
def test_a_killed_owner_is_replaced_and_its_work_used(world: World, noflock: str) -> None:
    options = [*filter(None, [noflock]), "connections=1", "stale=30"]
    with Origin(DATA, default=pace) as origin:
        owner = start(world.root / "store", origin.url, DATA, *options)
        wait_for(lambda: origin.sent > 7_000_000)
        heir = start(world.root / "store", origin.url, DATA, *options)
        time.sleep(0.4)
        owner.kill()
        owner.communicate()
        killed = time.monotonic()
        code, result = finish(heir)
        assert (code, result["action"]) == (0, "resumed")
        assert result["bytes_fetched"] < len(DATA) - CHUNK // 4
        assert time.monotonic() - killed < 10, "a dead process of this machine is not waited for"
    (blob,) = world.store.blobs()
    assert blob.path.read_bytes() == DATA


def test_a_slow_owner_is_waited_for(world: World) -> None:
    def very_slow(conn: Conn, request: Request, origin: Origin) -> None:
        status, fields, begin, end = origin.fields(request)
        conn.send(head(status, fields))
        for at in range(begin, end, 2_000_000):
            conn.send(origin.data[at : min(at + 2_000_000, end)])
            if origin.stop.wait(0.25):
                return

    with Origin(DATA, default=very_slow) as origin:
        owner = start(world.root / "store", origin.url, DATA, "connections=1", "stale=1.2")
        wait_for(lambda: bool(origin.requests))
        waiter = start(world.root / "store", origin.url, DATA, "connections=1", "stale=1.2")
        assert finish(owner)[1]["action"] == "fetched"
        assert finish(waiter)[1]["action"] == "present"
        assert len(origin.requests) == 1


def test_waiting_ends_at_the_lock_timeout(world: World) -> None:
    with Origin(DATA, default=pace) as origin:
        owner = start(world.root / "store", origin.url, DATA, "connections=1", "stale=30")
        wait_for(lambda: bool(origin.requests))
        code, result = finish(start(world.root / "store", origin.url, DATA, "lock_timeout=0.1", "stale=30"))
        assert (code, result["code"]) == (75, "lock-timeout")
        assert finish(owner)[0] == 0


@pytest.mark.parametrize("noflock", ["", "noflock=1"], ids=["flock", "no flock"])
def test_a_suspended_owner_is_replaced_and_writes_nothing_when_resumed(world: World, noflock: str) -> None:
    options = [*filter(None, [noflock]), "connections=1", "stale=0.5"]
    with Origin(DATA, default=pace) as origin:
        owner = start(world.root / "store", origin.url, DATA, *options)
        wait_for(lambda: origin.sent > CHUNK)
        owner.send_signal(signal.SIGSTOP)
        try:
            code, result = finish(start(world.root / "store", origin.url, DATA, *options))
        finally:
            owner.send_signal(signal.SIGCONT)
        assert (code, result["action"]) == (0, "resumed")
        (blob,) = world.store.blobs()
        assert blob.path.read_bytes() == DATA
        finish(owner)  # whatever it says, it changed nothing
        assert blob.path.read_bytes() == DATA
        assert world.store.peek(blob.digest) is not None
        assert not list((world.root / "store" / "ingest").glob("*.part"))


@pytest.mark.parametrize("noflock", ["", "noflock=1"], ids=["flock", "no flock"])
def test_a_resumed_owner_does_not_touch_the_files_of_the_new_owner(world: World, noflock: str) -> None:
    """It ends with an error or goes on waiting; the other one's partial file and journal stay and are resumed."""
    options = [*filter(None, [noflock]), "connections=1", "stale=0.5"]
    with Origin(DATA, default=pace) as origin:
        owner = start(world.root / "store", origin.url, DATA, *options)
        wait_for(lambda: origin.sent > CHUNK)
        owner.send_signal(signal.SIGSTOP)
        other = start(world.root / "store", origin.url, DATA, *options)
        wait_for(lambda: len(origin.requests) > 1)
        owner.send_signal(signal.SIGTERM)
        owner.send_signal(signal.SIGCONT)
        assert finish(owner)[0] in (0, 143)
        other.kill()
        other.communicate()
        before = origin.sent
        code, result = finish(start(world.root / "store", origin.url, DATA, *options))
        assert (code, result["action"]) in ((0, "resumed"), (0, "present"))
        assert origin.sent - before < len(DATA)
    (blob,) = world.store.blobs()
    assert blob.path.read_bytes() == DATA


def can_unshare() -> bool:
    """Whether this user may make pid namespaces."""
    return subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True).returncode == 0


needs_namespaces = pytest.mark.skipif(not can_unshare(), reason="this user may not make pid namespaces")


@needs_namespaces
@THOROUGH
@pytest.mark.parametrize("noflock", ["noflock=1"], ids=["no flock"])
def test_owners_with_pid_1_in_different_namespaces_are_distinguished(world: World, noflock: str) -> None:
    """As init containers are: the pid in the lock file is the waiter's own, and is ignored."""
    options = [*filter(None, [noflock]), "connections=1", "stale=30"]
    with Origin(DATA, default=pace) as origin:
        first = start_as_pid_1(world.root / "store", origin.url, DATA, *options)
        wait_for(lambda: origin.sent > 0)
        others = [start_as_pid_1(world.root / "store", origin.url, DATA, *options) for _ in range(2)]
        results = [finish(process) for process in (first, *others)]
    assert [code for code, _ in results] == [0] * 3
    assert sorted(result["action"] for _, result in results) == ["fetched"] + ["present"] * 2
    assert origin.sent == len(DATA)


@needs_namespaces
@pytest.mark.parametrize(("noflock", "stale"), first(1, [("noflock=1", "0.6"), ("", "30")]))
def test_a_killed_pid_1_is_replaced(world: World, noflock: str, stale: str) -> None:
    options = [*filter(None, [noflock]), "connections=1", f"stale={stale}"]
    with Origin(DATA, default=pace) as origin:
        owner = start_as_pid_1(world.root / "store", origin.url, DATA, *options)
        wait_for(lambda: origin.sent > CHUNK)
        owner.kill()
        owner.communicate()
        code, result = finish(start_as_pid_1(world.root / "store", origin.url, DATA, *options))
        assert (code, result["action"]) == (0, "resumed")
    (blob,) = world.store.blobs()
    assert blob.path.read_bytes() == DATA


def test_an_artifact_requested_several_times_in_one_process_is_fetched_once(world: World) -> None:
    with Origin(DATA) as origin:
        results = world.fetch_all(*[world.artifact(origin, data=DATA)] * 5)
        assert {result.blob.path for result in results} == {results[0].blob.path}
        assert origin.sent < 2 * len(DATA)  # of a range that another connection took over, some bytes are on their way


def test_modes_in_the_store_ignore_the_umask(world: World, tmp_path: Path) -> None:
    code = f"""
import os; os.umask(0o077)
from pathlib import Path
from modelfetch.store import Store
Store(Path({str(tmp_path / "made")!r})).add_bytes(b"x" * 10)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    made = tmp_path / "made"
    assert {oct(p.stat().st_mode & 0o777) for p in [made, *made.rglob("*")] if p.is_dir()} == {"0o755"}
    (blob,) = (p for p in made.rglob("*") if p.is_file() and len(p.name) == 64)
    assert oct(blob.stat().st_mode & 0o777) == "0o444"
    assert (made / "CACHEDIR.TAG").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("threads", [2, 3, 4, 5, 7])
def test_a_low_thread_limit_is_enough(world: World, threads: int) -> None:
    """As many as a container with a small pids.max allows; the main thread is one of them."""
    with Origin(DATA) as origin:
        code, result = finish(start(world.root / "store", origin.url, DATA, f"threads={threads}", "grow=1"))
    assert (code, result["action"]) == (0, "fetched")
    assert origin.sent < 2 * len(DATA)


def test_where_no_thread_can_be_started_the_limit_is_named(world: World) -> None:
    with Origin(DATA) as origin:
        code, result = finish(start(world.root / "store", origin.url, DATA, "threads=1"))
    assert (code, result["code"]) == (75, "no-resources")
    assert "thread" in result["message"]


@pytest.mark.parametrize("memory", [0, 2**20, 2**24, 2**25, 2**26, 2**27])
def test_a_low_memory_limit_is_enough_or_named_in_the_error(world: World, memory: int) -> None:
    """Address space beyond what the imports need: a thread's stack takes 8 MiB of it."""
    with Origin(DATA) as origin:
        code, result = finish(start(world.root / "store", origin.url, DATA, f"memory={memory}"))
    assert (code, result.get("code")) in ((0, None), (75, "no-resources"))
    if code:
        assert "RLIMIT_AS" in result["message"]
    else:
        (blob,) = world.store.blobs()
        assert blob.path.read_bytes() == DATA
    if memory == 2**27:
        assert code == 0
