"""A kill loses at most a piece of a chunk for each connection, wherever in a chunk it started."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelfetch.store.chunks import CHUNK
from modelfetch.transfer.partial import Partial
from modelfetch.transfer.writer import _STEP, SegmentWriter
from tests.examples import examples

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 2 * CHUNK + 12_345
DATA = bytes(bytearray(i * 31 % 251 for i in range(65_537)) * (SIZE // 65_537 + 1))[:SIZE]
DIGEST = hashlib.sha256(DATA).hexdigest()


def opened(folder: Path) -> Partial:
    return Partial(folder / "x.part", algorithms=("sha256",), size=SIZE)


def bring(partial: Partial, start: int, end: int, *, piece: int = 300_000) -> None:
    writer = SegmentWriter(partial, start)
    for at in range(start, end, piece):
        writer.take(memoryview(DATA)[at : min(at + piece, end)])
    # no close: the process is killed


def test_a_connection_that_started_inside_a_chunk_loses_at_most_one_piece(tmp_path: Path) -> None:
    first = opened(tmp_path)
    bring(first, CHUNK // 2 + 777, CHUNK - 5_000)
    again = opened(tmp_path)
    assert CHUNK // 2 - 5_777 - 2 * _STEP <= again.trust() < CHUNK // 2


def test_a_chunk_written_by_several_connections_is_checked_as_a_whole(tmp_path: Path) -> None:
    first = opened(tmp_path)
    bring(first, CHUNK // 2 + 1, CHUNK)
    bring(first, 0, CHUNK // 2 + 1)
    assert opened(tmp_path).trust() == CHUNK


@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, CHUNK)), min_size=1, max_size=4), st.data())
def test_a_damaged_partial_file_is_completed_correctly(
    tmp_path: Path, ways: list[tuple[int, int]], data: st.DataObject
) -> None:
    for name in ("x.part", "x.json"):
        (tmp_path / name).unlink(missing_ok=True)
    first = opened(tmp_path)
    for start, length in ways:
        bring(first, start, min(SIZE, start + length))
    with (tmp_path / "x.part").open("r+b") as file:  # a bit flips at rest
        at = data.draw(st.integers(0, SIZE - 1))
        file.seek(at)
        old = file.read(1) or b"\0"
        file.seek(at)
        file.write(bytes([old[0] ^ 1]))
    again = opened(tmp_path)
    again.trust()
    for start, end in again.missing():
        bring(again, start, end or SIZE)
    again.prefix.catch_up(again.fd, again.reach)
    assert again.prefix.digests()["sha256"].hex == DIGEST


def test_the_journal_of_a_partial_file_is_private(tmp_path: Path) -> None:
    journal = tmp_path / "x.json"
    journal.write_bytes(b"")
    journal.chmod(0o644)  # as an older version left it
    (tmp_path / "x.part").touch()
    bring(opened(tmp_path), 0, CHUNK)
    assert b"xxh3" in journal.read_bytes()
    assert journal.stat().st_mode & 0o777 == 0o600
