"""Processes that are killed, stopped or terminated: their verified bytes are used, and wrong ones never kept."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

from modelfetch.store.chunks import CHUNK
from modelfetch.transfer.journal import ChunkChecksum, parse_journal
from modelfetch.transfer.partial import Partial
from tests.cases import first
from tests.transfer.processes import finish, start, wait_for
from tests.transfer.server import Conn, Origin, Request, paced, stall_after
from tests.transfer.world import World, digest_of, payload

if TYPE_CHECKING:
    from pathlib import Path

DATA = payload(3 * CHUNK + 5_000_000, seed=3)
SHORT = DATA[: 2 * CHUNK + 6_000_000]


pace = paced(300_000, 0.005)
"""About 60 MB per second, so that there is a middle to be killed in."""


def test_a_killed_process_loses_at_most_a_chunk_per_connection(world: World) -> None:
    random_ = random.Random(5)
    connections, kills = 2, 0
    with Origin(DATA, default=pace) as origin:
        while kills < 6:
            sent = origin.sent
            process = start(world.root / "store", origin.url, DATA, f"connections={connections}")
            goal = sent + random_.randrange(1_000_000, 12_000_000)
            wait_for(lambda goal=goal, process=process: origin.sent >= goal or process.poll() is not None)  # type: ignore[misc]
            if process.poll() is not None:
                break
            process.kill()
            process.communicate()
            kills += 1
            assert not list(world.store.blobs())
        code, result = finish(start(world.root / "store", origin.url, DATA))
        assert (code, result["action"]) == (0, "resumed")
        (blob,) = world.store.blobs()
        assert blob.path.read_bytes() == DATA
        in_flight = 8_000_000  # what the sockets held when a process was killed was sent, but never received
        assert origin.sent - len(DATA) <= kills * (connections * CHUNK + in_flight)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_transfer_within_a_second_and_keeps_its_progress(world: World, number: int, code: int) -> None:
    with Origin(DATA, default=pace) as origin:
        process = start(world.root / "store", origin.url, DATA)
        wait_for(lambda: origin.sent > 5_000_000)
        before = time.monotonic()
        process.send_signal(number)
        exit_code, _ = finish(process)
        assert exit_code == code
        assert time.monotonic() - before < 1.0
        kept = _kept(world)
        assert kept > 1_000_000
        exit_code, result = finish(start(world.root / "store", origin.url, DATA))
        assert exit_code == 0
        assert world.fetch(data=DATA).action == "present"
        # What the sockets held was sent, but never received: what counts is what the second run received.
        assert result["bytes_fetched"] <= len(DATA) - kept + 8 * 2**20  # one megabyte for each of eight connections


def test_a_signal_ends_a_wait_for_headers_and_for_a_connection(world: World) -> None:
    def silent(_conn: Conn, _request: Request, origin: Origin) -> None:
        origin.stop.wait(30)

    with Origin(DATA, default=silent) as origin:
        process = start(world.root / "store", origin.url, DATA)
        wait_for(lambda: bool(origin.requests))
        before = time.monotonic()
        process.terminate()
        assert finish(process)[0] == 143
        assert time.monotonic() - before < 1.0


def _journal(world: World) -> dict[int, ChunkChecksum]:
    (path,) = (world.root / "store" / "ingest").glob("*.json")
    return dict(parse_journal(path.read_bytes()).checksums)


def _kept(world: World) -> int:
    """The bytes that the journal lists."""
    return sum(checksum.length for checksum in _journal(world).values())


def _interrupted(world: World, origin: Origin) -> Path:
    """A partial with two chunks done and a third begun."""
    process = start(world.root / "store", origin.url, SHORT, "connections=1")
    wait_for(lambda: any((world.root / "store/ingest").glob("*.json")) and _kept(world) > 2 * CHUNK)
    process.terminate()
    assert finish(process)[0] == 143
    part = world.partial()
    assert part is not None
    return part


@pytest.fixture(scope="module")
def left_over(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """The bytes of a partial file and of its journal; the port in it is not that of the next origin."""
    world = World(root=tmp_path_factory.mktemp("left"))
    with Origin(SHORT, default=stall_after(2 * CHUNK + 4_000_000)) as origin:
        part = _interrupted(world, origin)
        return part.read_bytes(), part.with_suffix(".json").read_bytes()


def _resume(world: World, part: bytes, journal: bytes) -> tuple[int, str]:
    """The bytes that a run fetches with this partial file, and its reported action."""
    folder = world.store.folder("ingest")
    name = digest_of(SHORT).hex
    (folder / f"{name}.part").write_bytes(part)
    (folder / f"{name}.json").write_bytes(journal)
    with Origin(SHORT) as origin:
        fetched = world.fetch(origin, data=SHORT)
    assert fetched.blob.path.read_bytes() == SHORT
    assert not list(folder.iterdir())
    return fetched.bytes_fetched, fetched.action


def test_resume_does_not_fetch_complete_chunks_again(world: World, left_over: tuple[bytes, bytes]) -> None:
    part, journal = left_over
    fetched, action = _resume(world, part, journal)
    assert action == "resumed"
    assert fetched == len(SHORT) - sum(checksum.length for checksum in parse_journal(journal).checksums.values())
    assert fetched < len(SHORT) - 2 * CHUNK


def test_resume_refetches_a_damaged_chunk(world: World, left_over: tuple[bytes, bytes]) -> None:
    part, journal = left_over
    honest, _ = _resume(world, part, journal)
    damaged = bytearray(part)
    damaged[CHUNK + 777] ^= 4
    world.store.remove(next(iter(world.store.blobs())).digest)
    fetched, _ = _resume(world, bytes(damaged), journal)
    assert fetched == honest + CHUNK


def test_resume_refetches_two_damaged_chunks(world: World, left_over: tuple[bytes, bytes]) -> None:
    """The second one is not part of what is hashed in order any more, and is compared all the same."""
    part, journal = left_over
    damaged = bytearray(part)
    damaged[777] ^= 1
    damaged[CHUNK + 777] ^= 1
    kept = sum(checksum.length for checksum in parse_journal(journal).checksums.values()) - 2 * CHUNK
    assert _resume(world, bytes(damaged), journal) == (len(SHORT) - kept, "resumed" if kept else "fetched")


def test_a_new_owner_does_not_write_to_the_open_file_of_a_suspended_one(
    world: World, left_over: tuple[bytes, bytes]
) -> None:
    part, journal = left_over
    path = world.store.folder("ingest") / "x.part"
    path.write_bytes(part)
    path.with_suffix(".json").write_bytes(journal)
    with path.open("r+b") as sleeper:
        heir = Partial(path, algorithms=("sha256",), size=len(SHORT), predecessor_may_be_alive=True)
        assert not os.path.samestat(os.fstat(heir.fd), os.fstat(sleeper.fileno()))
        sleeper.write(b"what it writes when it wakes goes nowhere")
        sleeper.flush()
        assert heir.trust() == sum(checksum.length for checksum in parse_journal(journal).checksums.values())
        heir.close(keep=True)


def test_a_partial_file_that_became_a_blob_before_a_kill_is_not_written_to(
    world: World, left_over: tuple[bytes, bytes]
) -> None:
    path = world.store.folder("ingest") / "x.part"
    path.write_bytes(left_over[0])
    path.with_suffix(".json").write_bytes(left_over[1])
    blob = path.with_name("blob")
    blob.hardlink_to(path)
    heir = Partial(path, algorithms=("sha256",), size=len(SHORT))
    assert not os.path.samestat(os.fstat(heir.fd), blob.stat())
    assert heir.trust() > 0
    heir.close(keep=True)
    assert blob.read_bytes() == left_over[0]


def test_a_truncated_journal_keeps_the_chunks_that_it_still_lists(world: World, left_over: tuple[bytes, bytes]) -> None:
    part, journal = left_over
    lines = journal.splitlines(keepends=True)
    torn = b"".join(lines[:2]) + lines[2][:20]
    fetched, action = _resume(world, part, torn)
    (kept,) = parse_journal(torn).checksums.values()  # how many bytes the first line covers depends on the buffers
    assert kept.length <= CHUNK
    assert (fetched, action) == (len(SHORT) - kept.length, "resumed")


@pytest.mark.parametrize(
    "journal",
    first(2, [b'{"chunk":0,"length":16777216,"xxh3":"00"}\n', b"{" * 100_000, b"", b"\x00" * 500, b"[]\n{}\n"]),
)
def test_a_garbage_journal_means_a_complete_download(
    world: World, left_over: tuple[bytes, bytes], journal: bytes
) -> None:
    assert _resume(world, left_over[0], journal) == (len(SHORT), "fetched")


def test_resume_refetches_the_missing_end_of_a_truncated_partial_file(
    world: World, left_over: tuple[bytes, bytes]
) -> None:
    part, journal = left_over
    assert _resume(world, part[: CHUNK + 5], journal) == (len(SHORT) - CHUNK, "resumed")


def test_a_partial_file_that_is_too_long_is_truncated(world: World, left_over: tuple[bytes, bytes]) -> None:
    part, journal = left_over
    longer = part.ljust(len(SHORT) + CHUNK, b"x")
    beyond = {"chunk": 7, "length": 5, "xxh3": "0" * 16}
    assert _resume(world, longer, journal + json.dumps(beyond).encode())[1] == "resumed"


def test_wrong_bytes_with_a_matching_journal_are_found_by_the_digest(world: World) -> None:
    """The xxh3 fits, the bytes are another file's: the final digest decides, and all of it is fetched again."""
    import xxhash

    wrong = payload(CHUNK, seed=99)
    checksum = {"chunk": 0, "length": CHUNK, "xxh3": xxhash.xxh3_64_hexdigest(wrong)}
    fetched, action = _resume(world, wrong, json.dumps(checksum).encode())
    assert (fetched, action) == (2 * len(SHORT) - CHUNK, "fetched")
