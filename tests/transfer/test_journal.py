from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from modelfetch.store.chunks import CHUNK
from modelfetch.transfer.journal import ChunkChecksum, Identity, checksum_line, identity_line, parse_journal
from tests.cases import each
from tests.examples import any_text

identities = st.builds(
    Identity,
    uri=any_text(max_size=20),
    url=any_text(max_size=20),
    etag=st.none() | any_text(max_size=10),
    modified=st.none() | any_text(max_size=10),
    size=st.none() | st.integers(0, 2**50),
)
checksums = st.integers(0, CHUNK - 1).flatmap(
    lambda skip: st.builds(
        ChunkChecksum,
        chunk=st.integers(0, 1000),
        skip=st.just(skip),
        length=st.integers(1, CHUNK - skip),
        xxh3=st.integers(0, 2**64 - 1).map("{:016x}".format),
    )
)


@given(identities, st.lists(checksums, max_size=5))
def test_a_journal_is_read_as_written(identity: Identity, written: list[ChunkChecksum]) -> None:
    journal = parse_journal(identity_line(identity) + b"".join(map(checksum_line, written)))
    assert journal.identity == identity
    assert journal.checksums == {checksum.span[0]: checksum for checksum in written}


@given(st.binary(max_size=200))
def test_a_garbage_journal_lists_no_invalid_chunk(data: bytes) -> None:
    for checksum in parse_journal(data).checksums.values():
        assert 0 < checksum.length <= CHUNK


@given(identities, st.lists(checksums, max_size=4), st.data())
def test_a_damaged_journal_lists_no_additional_chunk(
    identity: Identity, written: list[ChunkChecksum], data: st.DataObject
) -> None:
    text = bytearray(identity_line(identity) + b"".join(map(checksum_line, written)))
    for _ in range(data.draw(st.integers(0, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    parse_journal(bytes(text[: data.draw(st.integers(0, len(text)))]))


@each(
    "line",
    [
        {"chunk": -1, "length": 5, "xxh3": "0" * 16},
        {"chunk": True, "length": 5, "xxh3": "0" * 16},
        {"chunk": 0, "length": CHUNK + 1, "xxh3": "0" * 16},
        {"chunk": 0, "length": 0, "xxh3": "0" * 16},
        {"chunk": 0, "length": CHUNK, "skip": 1, "xxh3": "0" * 16},
        {"chunk": 0, "length": 5, "skip": -1, "xxh3": "0" * 16},
        {"chunk": 0, "length": 5, "skip": CHUNK, "xxh3": "0" * 16},
        {"chunk": 0, "length": 5, "xxh3": "0" * 15},
        {"chunk": 0, "length": 5, "xxh3": 5},
        {"chunk": 10**30, "length": 5, "xxh3": "0" * 16},
        {"chunk": 0.5, "length": 5, "xxh3": "0" * 16},
        {"modelfetch": 2, "uri": "a", "url": "b"},
        {"modelfetch": 1, "uri": 5, "url": "b"},
        {"modelfetch": 1, "uri": "a", "url": "b", "size": -1},
        {"modelfetch": 1, "uri": "a", "url": "b", "etag": 5},
    ],
)
def test_lines_that_make_no_sense_are_left_out(line: dict[str, object]) -> None:
    journal = parse_journal(json.dumps(line).encode())
    assert (journal.identity, journal.checksums) == (None, {})


def test_a_weak_etag_is_no_validator_and_hides_the_date() -> None:
    assert Identity(uri="", url="", etag='"a"', modified="d").validator == '"a"'
    assert Identity(uri="", url="", etag='W/"a"', modified="d").validator is None
    assert Identity(uri="", url="", modified="d").validator == "d"
