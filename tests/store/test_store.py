"""The store: what is in it is right, or is not in it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfetch.core.digest import Digest, new_hasher
from modelfetch.errors import DestinationError, IntegrityError, ModelfetchError
from modelfetch.store import Store
from modelfetch.store.chunks import CHUNK, FileHash, chunk_count, chunk_span
from modelfetch.store.record import Record

if TYPE_CHECKING:
    from pathlib import Path

DATA = b"weights " * 20_000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_nothing_is_made_by_looking(store: Store) -> None:
    digest = Digest.sha256(DATA)
    assert store.find(digest) is None
    assert store.peek(digest) is None
    assert store.read(digest) is None
    assert store.record(digest) is None
    assert not list(store.blobs())
    assert not store.path.exists()


def test_what_is_added_is_found_read_only_and_with_its_record(store: Store) -> None:
    blob = store.add_bytes(DATA)
    assert blob.digest == Digest.sha256(DATA)
    assert blob.path == store.path / "blobs" / "sha256" / blob.digest.hex[:2] / blob.digest.hex
    assert blob.path.stat().st_mode & 0o777 == 0o444
    assert store.find(blob.digest) == store.peek(blob.digest) == blob
    assert store.find(blob.digest, len(DATA)) == blob
    assert store.find(blob.digest, 5) is None
    assert store.read(blob.digest) == DATA
    record = json.loads(blob.path.with_name(blob.path.name + ".json").read_bytes())
    assert (record["size"], record["mtime_ns"], len(record["chunks"])) == (len(DATA), blob.path.stat().st_mtime_ns, 1)
    assert (store.path / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55")
    assert list(store.blobs()) == [blob]
    assert not list((store.path / "ingest").iterdir())


def test_adding_twice_keeps_the_first(store: Store) -> None:
    first = store.add_bytes(DATA)
    inode = first.path.stat().st_ino
    assert store.add_bytes(DATA).path.stat().st_ino == inode


def test_an_empty_file_is_a_blob(store: Store) -> None:
    assert store.find(store.add_bytes(b"").digest) is not None


def test_a_touched_blob_is_hashed_again_and_trusted_again(store: Store) -> None:
    blob = store.add_bytes(DATA)
    os.utime(blob.path, ns=(1, 1))
    assert store.peek(blob.digest) is None
    assert store.find(blob.digest) == blob
    assert store.peek(blob.digest) == blob


@pytest.mark.parametrize(
    "record", [None, b"", b"garbage", b"{}", b"[]", b'{"size": "x", "mtime_ns": 1, "chunks": [], "digests": {}}']
)
def test_a_blob_without_a_good_record_is_hashed_again(store: Store, record: bytes | None) -> None:
    blob = store.add_bytes(DATA)
    beside = blob.path.with_name(blob.path.name + ".json")
    beside.unlink() if record is None else beside.write_bytes(record)
    assert store.peek(blob.digest) is None
    assert store.find(blob.digest) == blob
    assert store.peek(blob.digest) == blob


@pytest.mark.parametrize("damage", ["flipped", "shorter", "longer", "empty"])
def test_a_damaged_blob_is_removed(store: Store, damage: str) -> None:
    blob = store.add_bytes(DATA)
    blob.path.chmod(0o644)
    bad = {"flipped": b"X" + DATA[1:], "shorter": DATA[:-1], "longer": DATA + b"x", "empty": b""}[damage]
    blob.path.write_bytes(bad)
    assert store.read(blob.digest) is None
    assert store.find(blob.digest) is None
    assert not list(store.blobs())


def test_a_blob_that_is_a_symlink_is_not_followed(store: Store, tmp_path: Path) -> None:
    blob = store.add_bytes(DATA)
    (tmp_path / "elsewhere").write_bytes(DATA)
    blob.path.unlink()
    blob.path.symlink_to(tmp_path / "elsewhere")
    store.path.joinpath("blobs/sha256", blob.digest.hex[:2], blob.digest.hex + ".json").unlink()
    with pytest.raises(DestinationError):
        store.find(blob.digest)


def test_a_blob_is_found_by_its_other_digests(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    other = Digest("blake3", blake3(DATA).hexdigest())
    hasher = new_hasher("git-sha1", len(DATA))
    hasher.update(DATA)
    git = Digest("git-sha1", hasher.hexdigest())
    assert store.find(other) is None
    blob = store.add_file(path, other)
    assert store.find(other) == store.peek(other) == blob
    store.alias(blob, git)
    assert store.find(git) == blob
    assert store.read(other) == DATA
    os.utime(blob.path, ns=(1, 1))
    assert store.find(other) == blob
    store.remove(blob.digest)
    assert store.find(other) is None
    assert store.find(git) is None


def test_an_alias_that_lies_is_found_out(store: Store) -> None:
    blob = store.add_bytes(DATA)
    wrong = Digest("blake3", "0" * 64)
    store.alias(blob, wrong)
    os.utime(blob.path, ns=(1, 1))
    assert store.read(wrong) is None


def test_a_file_is_kept_and_stays_where_it_was(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    path.chmod(0o640)
    blob = store.add_file(path, Digest.sha256(DATA))
    assert blob.path.read_bytes() == path.read_bytes() == DATA
    shared = blob.path.samefile(path)
    assert path.stat().st_mode & 0o777 == (0o444 if shared else 0o640)
    assert blob.path.stat().st_mode & 0o777 == 0o444


def test_a_file_whose_mode_is_not_ours_to_change_is_copied(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    path.chmod(0o640)

    chmod = type(path).chmod

    def refuse(self: Path, mode: int) -> None:
        if self.name.startswith("tmp-"):
            raise PermissionError(1, "Operation not permitted")
        chmod(self, mode)

    monkeypatch.setattr(type(path), "chmod", refuse)
    blob = store.add_file(path, None)
    assert not blob.path.samefile(path)
    assert (path.stat().st_mode & 0o777, blob.path.stat().st_mode & 0o777) == (0o640, 0o444)
    assert not list((store.path / "ingest").iterdir())


def test_a_small_file_is_copied_never_linked(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"small")
    blob = store.add_file(path, None)
    assert blob.path.stat().st_ino != path.stat().st_ino
    path.write_bytes(b"other")
    assert store.read(blob.digest) == b"small"


def test_a_temporary_file_of_the_store_becomes_a_read_only_blob(store: Store) -> None:
    path = store.tmp()
    path.write_bytes(DATA)
    blob = store.add_file(path, None)
    path.unlink()
    assert blob.path.stat().st_mode & 0o777 == 0o444
    assert blob.path.stat().st_nlink == 1


def test_a_linked_file_that_is_changed_later_is_no_longer_a_blob(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    blob = store.add_file(path, None)
    path.write_bytes(DATA[::-1])
    found = store.find(blob.digest)
    assert found is None or found.path.read_bytes() == DATA


def test_a_file_with_another_digest_is_not_kept(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    with pytest.raises(IntegrityError):
        store.add_file(path, Digest.sha256(b"other"))
    assert not list(store.blobs())
    assert not list((store.path / "ingest").iterdir())


def test_a_file_that_does_not_exist_is_a_typed_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ModelfetchError):
        store.add_file(tmp_path / "missing", None)


def test_a_file_that_another_process_put_in_its_place_is_not_stored(store: Store) -> None:
    """A sleeper wakes up, and the partial file has its name but is another's."""
    part = store.tmp()
    part.write_bytes(DATA)
    with part.open("rb") as mine:
        part.unlink()
        part.write_bytes(DATA[:100])
        with pytest.raises(ModelfetchError):
            store.admit(part, mine.fileno(), {"sha256": Digest.sha256(DATA)}, ())
    assert not list(store.blobs())
    assert part.read_bytes() == DATA[:100]


def test_removing_takes_the_record_along(store: Store) -> None:
    blob = store.add_bytes(DATA)
    assert store.remove(blob.digest)
    assert not store.remove(blob.digest)
    assert not list(blob.path.parent.iterdir())


def test_temporary_names_are_fresh(store: Store) -> None:
    assert store.tmp() != store.tmp()
    assert store.tmp(".zip").suffix == ".zip"
    assert not store.tmp().exists()


@given(st.integers(0, 2**50), st.integers(0, 2**62), st.lists(st.text("0123456789abcdef", min_size=16, max_size=16)))
def test_a_record_says_what_was_written_into_it(size: int, mtime_ns: int, chunks: list[str]) -> None:
    record = Record(size=size, mtime_ns=mtime_ns, chunks=tuple(chunks), digests={"blake3": "0" * 64})
    assert Record.parse(record.dump()) == record


@given(
    st.binary(max_size=100)
    | st.recursive(st.none() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)).map(
        lambda v: json.dumps(v).encode()
    )
)
def test_garbage_is_no_record(data: bytes) -> None:
    assert Record.parse(data) is None


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 3 * CHUNK // 2), min_size=1, max_size=4))
def test_chunks_do_not_depend_on_the_pieces_that_bytes_come_in(pieces: list[int]) -> None:
    data = bytes(sum(pieces))
    whole, parts = FileHash("sha256", size=len(data)), FileHash("sha256", size=len(data))
    whole.update(memoryview(data))
    at = 0
    for piece in pieces:
        parts.update(memoryview(data)[at : at + piece])
        at += piece
    assert whole.finish() == parts.finish()
    assert len(whole.chunks) == chunk_count(len(data))
    assert chunk_span(chunk_count(len(data)) - 1, len(data))[1] == len(data)
