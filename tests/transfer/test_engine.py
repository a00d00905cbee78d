"""The engine's interface: many artifacts, mirrors, other digests, local files, cancelling."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from blake3 import blake3

from modelfetch.config.options import Options
from modelfetch.core.artifact import Artifact, Location
from modelfetch.core.digest import Digest, new_hasher
from modelfetch.core.events import SourceFailed, TransferEnded, TransferFinished, TransferProgress, TransferStarted
from modelfetch.errors import IntegrityError, InterruptedSync, NotFoundError, UnreachableError
from modelfetch.http import Http, Timeouts
from modelfetch.store.chunks import CHUNK
from modelfetch.transfer import Engine
from modelfetch.transfer.prefix_hash import PrefixHasher
from tests.transfer.processes import wait_for
from tests.transfer.server import Conn, Origin, Request, answering, drop_after, head, normally, stall_after
from tests.transfer.world import World, payload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from modelfetch.transfer import Fetched

DATA = payload(300_000)
BIG = payload(2 * CHUNK + 5_000_000, seed=41)


def git_sha1(data: bytes) -> Digest:
    hasher = new_hasher("git-sha1", len(data))
    hasher.update(data)
    return Digest("git-sha1", hasher.hexdigest())


@pytest.mark.parametrize("make", [lambda d: Digest("blake3", blake3(d).hexdigest()), git_sha1])
@pytest.mark.parametrize("size", [len(DATA), None])
def test_other_digests_decide_as_well(world: World, make: Callable[[bytes], Digest], size: int | None) -> None:
    with Origin(DATA, scripts=[drop_after(100_000)]) as origin:
        fetched = world.fetch(origin, digest=make(DATA), size=size)
        assert fetched.blob.digest == Digest.sha256(DATA)
        assert world.fetch(origin, digest=make(DATA), size=size).action == "present"
        assert len(origin.requests) == 2
        with pytest.raises(IntegrityError):
            world.fetch(origin, digest=make(b"other"), size=size)


def test_no_request_is_sent_for_a_blob_in_the_store(world: World) -> None:
    world.store.add_bytes(DATA)
    with Origin(DATA) as origin:
        fetched = world.fetch(origin, data=DATA)
        assert (fetched.action, fetched.bytes_fetched, fetched.served_by) == ("present", 0, None)
        assert not origin.requests


def test_bytes_included_in_a_resolution_are_stored(world: World) -> None:
    artifact = world.artifact("http://127.0.0.1:9/manifest", data=b"{}", content=b"{}")
    fetched = world.fetch_all(artifact)[0]
    assert (fetched.action, fetched.blob.path.read_bytes()) == ("present", b"{}")
    assert world.fetch_all(artifact)[0] == fetched


def test_an_empty_file_is_fetched(world: World) -> None:
    with Origin(b"") as origin:
        assert world.fetch(origin, data=b"").blob.size == 0
        assert world.fetch(origin, path="empty.txt").blob.size == 0


def test_many_artifacts_are_fetched_at_once_with_events_for_each(world: World) -> None:
    datas = [payload(20_000 + n, seed=n) for n in range(60)]

    def by_name(conn: Conn, request: Request, origin: Origin) -> None:
        conn.answer(200, {}, datas[int(request.target[1:])])

    with Origin(b"", default=by_name) as origin:
        base = origin.url.rpartition("/")[0]
        artifacts = [world.artifact(f"{base}/{n}", data=data, path=f"{n}.bin") for n, data in enumerate(datas)]
        fetched = world.fetch_all(*artifacts)
        assert origin.connections <= 16
    assert [one.blob.digest for one in fetched] == [Digest.sha256(data) for data in datas]
    assert len(world.events_of(TransferStarted)) == len(world.events_of(TransferFinished)) == 60
    assert not list((world.root / "store" / "locks").iterdir())
    assert not list((world.root / "store" / "ingest").iterdir())


def test_connections_serve_one_file_after_the_other(world: World) -> None:
    data = payload(700_000)
    world.options = Options(jobs=2)
    with Origin(data) as origin:
        base = origin.url.rpartition("/")[0]
        world.fetch_all(*(world.artifact(f"{base}/{n}", path=f"{n}.bin", size=len(data)) for n in range(30)))
        assert origin.connections <= 8
        assert len(origin.requests) == 30


@pytest.mark.parametrize(("jobs", "most"), [(1, 1), (3, 3)])
def test_jobs_bound_the_large_files(world: World, jobs: int, most: int) -> None:
    size = 5_000_000
    at_once, seen = [0], [0]
    lock = threading.Lock()

    def counted(conn: Conn, request: Request, origin: Origin) -> None:
        with lock:
            at_once[0] += 1
            seen[0] = max(seen[0], at_once[0])
        time.sleep(0.05)
        with lock:
            at_once[0] -= 1
        normally(conn, request, origin)

    data = payload(size)
    world.options = Options(jobs=jobs)
    with Origin(data, default=counted) as origin:
        base = origin.url.rpartition("/")[0]
        world.fetch_all(*(world.artifact(f"{base}/{n}", path=f"{n}.bin", size=size) for n in range(6)))
    assert seen[0] == most


# --- mirrors ---------------------------------------------------------------------------------------------------


def with_mirrors(world: World, artifact: Artifact, *mirrors: Callable[[], Awaitable[Sequence[Location]]]) -> Fetched:
    http = Http(timeouts=Timeouts(connect=1, headers=1, idle=1))

    async def run() -> Fetched:
        engine = Engine(http=http, store=world.store, sink=world.events.append, tuning=world.tuning)
        try:
            return await engine.fetch(artifact, mirrors, label="x")
        finally:
            await engine.close()

    try:
        return asyncio.run(run())
    finally:
        http.close()


def test_mirrors_are_resolved_only_when_needed(world: World) -> None:
    asked = []

    def mirror(name: str, *urls: str) -> Callable[[], Awaitable[Sequence[Location]]]:
        async def ask() -> Sequence[Location]:
            asked.append(name)
            await asyncio.sleep(0)
            if not urls:
                raise NotFoundError("the mirror has no such model", uri="https://mirror.example/x")
            return [Location(uri=url, url=url) for url in urls]

        return ask

    with Origin(DATA, scripts=[answering(404)]) as bad, Origin(DATA) as good:
        artifact = world.artifact(bad, data=DATA)
        fetched = with_mirrors(world, artifact, mirror("first"), mirror("second", good.url), mirror("third", good.url))
    assert fetched.served_by == good.url
    assert asked == ["first", "second"]
    assert [event.source for event in world.events_of(SourceFailed)] == [bad.url, "https://mirror.example/x"]


def test_a_mirrors_error_counts_among_the_others(world: World) -> None:
    async def none() -> Sequence[Location]:
        raise NotFoundError("no")

    with Origin(DATA, default=answering(500)) as bad, pytest.raises(NotFoundError):
        with_mirrors(world, world.artifact(bad, data=DATA), none)
    with pytest.raises(NotFoundError):
        with_mirrors(world, world.artifact(data=DATA), none)


# --- local files -----------------------------------------------------------------------------------------------


def local(world: World, path: Path, **changes: object) -> Fetched:
    uri = path.as_uri()
    return world.fetch(uri, **changes)  # type: ignore[arg-type]


def test_a_local_file_is_transferred_like_a_remote_one(world: World, tmp_path: Path) -> None:
    path = tmp_path / "a model.bin"
    path.write_bytes(DATA)
    fetched = local(world, path, data=DATA)
    assert (fetched.action, fetched.bytes_fetched, fetched.served_by) == ("fetched", len(DATA), path.as_uri())
    assert fetched.blob.path.read_bytes() == DATA
    assert fetched.blob.path.stat().st_ino != path.stat().st_ino


def test_a_local_file_on_a_failing_disk_is_unreachable_and_no_error_of_the_store(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(DATA)
    inode, preadv = path.stat().st_ino, os.preadv

    def fail(fd: int, *args: Any) -> int:
        if os.fstat(fd).st_ino == inode:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return preadv(fd, *args)

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(UnreachableError, match=r"model\.bin can't be read: Input/output error"):
        local(world, path, data=DATA)


def test_a_local_file_with_wrong_bytes_is_refused(world: World, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(DATA)
    with pytest.raises(IntegrityError):
        local(world, path, size=len(DATA), digest=Digest.sha256(b"other"))
    with pytest.raises(IntegrityError) as caught:
        local(world, path, size=5)
    assert caught.value.code == "size-mismatch"
    with pytest.raises(NotFoundError):
        local(world, tmp_path / "missing")
    with pytest.raises(NotFoundError):
        local(world, tmp_path)


# --- repair ----------------------------------------------------------------------------------------------------


def test_of_a_damaged_blob_only_the_damaged_chunks_are_fetched(world: World, tmp_path: Path) -> None:
    with Origin(BIG) as origin:
        blob = world.fetch(origin, data=BIG).blob
        placed = tmp_path / "placed"
        placed.hardlink_to(blob.path)
        blob.path.chmod(0o644)
        with blob.path.open("r+b") as file:
            file.seek(CHUNK + 99)
            file.write(b"damage")
        damaged = placed.read_bytes()
        before = len(origin.requests)
        again = world.fetch(origin, data=BIG)
        assert (again.action, again.bytes_fetched) == ("resumed", CHUNK)
        spans = [request.span(len(BIG)) or (0, len(BIG)) for request in origin.requests[before:]]
        # On a busy machine a slow connection's rest is requested a second time.
        assert (min(start for start, _ in spans), max(end for _, end in spans)) == (CHUNK, 2 * CHUNK)
        assert again.blob.path.read_bytes() == BIG
        assert placed.read_bytes() == damaged, "another name's bytes are not written to"
        assert not list((world.root / "store" / "ingest").iterdir())


def test_a_truncated_blob_is_completed(world: World) -> None:
    with Origin(BIG) as origin:
        blob = world.fetch(origin, data=BIG).blob
        blob.path.chmod(0o644)
        with blob.path.open("r+b") as file:
            file.truncate(CHUNK + 5)
        again = world.fetch(origin, data=BIG)
        assert again.bytes_fetched == len(BIG) - CHUNK
        assert again.blob.path.read_bytes() == BIG


# --- cancelling ------------------------------------------------------------------------------------------------


def dripping(conn: Conn, request: Request, origin: Origin) -> None:
    """A megabyte at once, then next to nothing."""
    status, fields, start, end = origin.fields(request)
    conn.send(head(status, fields) + origin.data[start : start + 1_000_000])
    at = start + 1_000_000
    while at < end and not origin.stop.wait(0.05):
        conn.send(origin.data[at : at + 1])
        at += 1


def test_a_cancelled_transfer_ends_at_once_and_keeps_its_progress(world: World) -> None:
    with Origin(BIG, scripts=[dripping]) as origin:
        http = Http()

        async def run() -> float:
            engine = Engine(http=http, store=world.store, sink=world.events.append, tuning=world.tuning)
            task = asyncio.create_task(engine.fetch(world.artifact(origin, data=BIG), label="x"))
            await asyncio.to_thread(wait_for, lambda: bool(world.events_of(TransferProgress)))
            start = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await engine.close()
            return time.monotonic() - start

        assert asyncio.run(run()) < 1.0
        http.close()
        assert world.events_of(TransferEnded)
        fetched = world.fetch(origin, data=BIG)
        assert fetched.action == "resumed"
        assert fetched.blob.path.read_bytes() == BIG


def test_a_cancelled_engine_raises_in_every_fetch(world: World) -> None:
    with Origin(BIG, default=dripping) as origin:
        base = origin.url.rpartition("/")[0]
        threading.Timer(0.3, lambda: world.cancel.set(code="terminated", exit_code=143)).start()
        with pytest.raises(InterruptedSync) as caught:
            world.fetch_all(*(world.artifact(f"{base}/{n}", path=f"{n}") for n in range(3)))
    assert caught.value.exit_code == 143


def test_a_second_caller_continues_when_the_first_is_cancelled(world: World) -> None:
    with Origin(DATA, scripts=[stall_after(None)]) as origin:
        http = Http()

        async def run() -> Fetched:
            engine = Engine(http=http, store=world.store, tuning=world.tuning)
            artifact = world.artifact(origin, data=DATA)
            first = asyncio.create_task(engine.fetch(artifact, label="x"))
            await asyncio.to_thread(wait_for, lambda: bool(origin.requests))
            second = asyncio.create_task(engine.fetch(artifact, label="x"))
            await asyncio.sleep(0.1)
            first.cancel()
            try:
                return await second
            finally:
                await engine.close()

        assert asyncio.run(run()).blob.path.read_bytes() == DATA
        http.close()


def test_a_transfer_does_not_block_the_loop(world: World) -> None:
    with Origin(BIG) as origin:
        http = Http()
        longest = 0.0

        async def run() -> None:
            nonlocal longest
            engine = Engine(http=http, store=world.store, tuning=world.tuning)
            task = asyncio.create_task(engine.fetch(world.artifact(origin, data=BIG), label="x"))
            while not task.done():
                start = time.monotonic()
                await asyncio.sleep(0.001)
                longest = max(longest, time.monotonic() - start)
            await engine.close()

        asyncio.run(run())
        http.close()
    assert longest < 0.5


def test_a_host_that_is_down_is_unreachable(world: World) -> None:
    with Origin(DATA) as origin:
        pass
    with pytest.raises(UnreachableError):
        world.fetch(origin, data=DATA)


def test_bytes_are_hashed_in_order_for_any_order_of_arrival(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    prefix = PrefixHasher(("sha256",), len(DATA))
    prefix.feed(100_000, memoryview(DATA)[100_000:200_000])  # not yet its turn
    assert prefix.position == 0
    prefix.feed(0, memoryview(DATA)[:100_000])
    with path.open("rb") as file:
        prefix.catch_up(file.fileno(), lambda _at: 200_000)
        prefix.feed(200_000, memoryview(DATA)[200_000:])
        prefix.catch_up(file.fileno(), lambda _at: len(DATA))
    assert prefix.digests()["sha256"] == Digest.sha256(DATA)
