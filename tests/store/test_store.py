"""The store contains only verified content."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfetch.core.digest import Digest, new_hasher
from modelfetch.core.events import Event, Notice
from modelfetch.errors import DestinationError, DiskError, ModelfetchError
from modelfetch.store import Store
from modelfetch.store import store as store_module
from modelfetch.store.chunks import CHUNK, FileHash, chunk_count, chunk_span, read_into
from modelfetch.store.index import record_path
from modelfetch.store.ingest import add_file
from modelfetch.store.locks.lock import LockLostError
from modelfetch.store.record import BlobRecord
from tests.examples import any_text, examples
from tests.placement.crashes import killed_at

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = b"weights " * 20_000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def admit_again(store: Store, *, blake: bool = False) -> int:
    """Admit the bytes of `DATA` from a new file, as after a download whose digest was not known; returns its inode."""
    part = store.tmp()
    with part.open("x+b") as file:
        file.write(DATA)
        file.flush()
        digests = {"sha256": Digest.sha256(DATA)} | (
            {"blake3": Digest("blake3", blake3(DATA).hexdigest())} if blake else {}
        )
        store.admit(part, file.fileno(), digests, ("0" * 16,))
        inode = os.fstat(file.fileno()).st_ino
    assert not part.exists()
    return inode


def test_a_whole_blob_stays_if_its_bytes_arrive_again(store: Store, tmp_path: Path) -> None:
    blob = store.add_bytes(DATA)
    (tmp_path / "placed").hardlink_to(blob.path)
    record = store.record(blob.digest)
    assert record is not None
    admit_again(store, blake=True)
    assert blob.path.samefile(tmp_path / "placed")
    again = store.record(blob.digest)
    assert again is not None
    assert (again.chunks, again.mtime_ns) == (record.chunks, record.mtime_ns)
    assert store.peek(Digest("blake3", blake3(DATA).hexdigest())) == blob


@pytest.mark.parametrize("hidden", [True, False])
def test_a_damaged_blob_is_replaced_if_its_bytes_arrive_again(store: Store, *, hidden: bool) -> None:
    blob = store.add_bytes(DATA)
    before = blob.path.stat()
    blob.path.chmod(0o644)
    blob.path.write_bytes(b"x" + DATA[1:])
    if hidden:
        os.utime(blob.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    inode = admit_again(store)
    assert blob.path.stat().st_ino == inode
    assert store.read(blob.digest) == DATA


def test_reading_a_store_creates_no_files(store: Store) -> None:
    digest = Digest.sha256(DATA)
    assert store.find(digest) is None
    assert store.peek(digest) is None
    assert store.read(digest) is None
    assert store.record(digest) is None
    assert not list(store.blobs())
    assert not store.path.exists()


def test_an_added_blob_is_read_only_and_has_a_record(store: Store) -> None:
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


def test_adding_a_blob_again_keeps_the_first_file(store: Store) -> None:
    first = store.add_bytes(DATA)
    inode = first.path.stat().st_ino
    assert store.add_bytes(DATA).path.stat().st_ino == inode


def test_an_empty_file_can_be_a_blob(store: Store) -> None:
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
    blob = add_file(store, path, digest=other)[0]
    assert store.find(other) == store.peek(other) == blob
    store.index.write_alias(git, blob.digest)
    assert store.find(git) == blob
    assert store.read(other) == DATA
    os.utime(blob.path, ns=(1, 1))
    assert store.find(other) == blob
    store.remove(blob.digest)
    assert store.find(other) is None
    assert store.find(git) is None


def test_a_wrong_alias_is_detected(store: Store) -> None:
    blob = store.add_bytes(DATA)
    wrong = Digest("blake3", "0" * 64)
    store.index.write_alias(wrong, blob.digest)
    os.utime(blob.path, ns=(1, 1))
    assert store.read(wrong) is None


@pytest.mark.parametrize("hardlinks", [True, False])
@pytest.mark.parametrize("other", [DATA[:100], None])
def test_a_process_that_is_suspended_before_it_stores_a_file_stores_its_own(
    store: Store, monkeypatch: pytest.MonkeyPatch, other: bytes | None, *, hardlinks: bool
) -> None:
    """Its lock is taken over meanwhile, so the name of its partial file is another file's, or no file's."""
    part = store.tmp()
    part.write_bytes(DATA)

    def suspended() -> None:
        part.unlink()
        if other is not None:
            part.write_bytes(other)

    if not hardlinks:
        monkeypatch.setattr(os, "link", refusing(os.link, errno.EPERM))
    with part.open("rb") as mine:
        blob = store.admit(part, mine.fileno(), {"sha256": Digest.sha256(DATA)}, (), ensure_owned=suspended)
    assert blob.path.read_bytes() == DATA
    assert store.peek(blob.digest) == blob
    assert [path.read_bytes() for path in part.parent.iterdir()] == ([] if other is None else [other])
    assert part.exists() == (other is not None)


def test_a_file_gets_its_name_in_a_store_without_hardlinks(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refusing(os.link, errno.EPERM))
    part = store.tmp()
    part.write_bytes(DATA)
    with part.open("rb") as mine:
        blob = store.admit(part, mine.fileno(), {"sha256": Digest.sha256(DATA)}, ())
        assert os.path.samestat(blob.path.stat(), os.fstat(mine.fileno()))
    assert not list(part.parent.iterdir())


def test_removing_takes_the_record_along(store: Store) -> None:
    blob = store.add_bytes(DATA)
    assert store.remove(blob.digest)
    assert not store.remove(blob.digest)
    assert not list(blob.path.parent.iterdir())


def test_temporary_names_are_unique(store: Store) -> None:
    assert store.tmp() != store.tmp()
    assert not store.tmp().exists()


@given(st.integers(0, 2**50), st.integers(0, 2**62), st.lists(st.text("0123456789abcdef", min_size=16, max_size=16)))
def test_a_record_is_read_as_written(size: int, mtime_ns: int, chunks: list[str]) -> None:
    record = BlobRecord(size=size, mtime_ns=mtime_ns, chunks=tuple(chunks), digests={"blake3": "0" * 64})
    assert BlobRecord.parse(record.dump()) == record


@given(
    st.binary(max_size=100)
    | st.recursive(st.none() | st.integers() | any_text(), lambda v: st.lists(v) | st.dictionaries(any_text(), v)).map(
        lambda v: json.dumps(v).encode()
    )
)
def test_an_invalid_record_is_ignored(data: bytes) -> None:
    assert BlobRecord.parse(data) is None


@settings(max_examples=examples(8))
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


# --- odd file systems ------------------------------------------------------------------------------------------


def refusing(call: Callable[..., object], number: int) -> Callable[..., None]:
    """Return a system call that a file system refuses."""

    def refuse(*_arguments: object, **_keywords: object) -> None:
        raise OSError(number, os.strerror(number), "/the/file")

    return refuse


@pytest.mark.parametrize(
    ("operation", "number"),
    [
        *(("chmod", number) for number in (errno.EPERM, errno.EACCES, errno.EROFS, errno.EOPNOTSUPP, errno.ENOSYS)),
        *(("fsync", number) for number in (errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)),
    ],
)
def test_an_unsupported_operation_is_reported_once_and_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, number: int
) -> None:
    events: list[Event] = []
    store = Store(tmp_path / "store", sink=events.append)
    monkeypatch.setattr(os, operation, refusing(getattr(os, operation), number))
    if operation == "chmod":
        monkeypatch.setattr(os, "fchmod", refusing(os.fchmod, number))
    for data in (DATA, b"more", b"and more"):
        assert store.read(store.add_bytes(data).digest) == data
    notices = [event for event in events if isinstance(event, Notice)]
    assert len(notices) == 1
    assert operation in notices[0].message


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_disk_error_is_raised(store: Store, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "fsync", refusing(os.fsync, number))
    with pytest.raises(DiskError):
        store.add_bytes(DATA)
    assert not list(store.blobs())


@pytest.fixture
def _two_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a union mount with ``ingest`` on one branch and ``blobs`` on the other."""
    replace = Path.replace

    def crossing(self: Path, target: Path) -> Path:
        if ("ingest" in self.parts) != ("ingest" in Path(target).parts):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(self))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", crossing)


@pytest.mark.usefixtures("_two_branches")
@pytest.mark.parametrize("way", ["bytes", "small file", "file"])
def test_a_store_that_is_spread_over_two_branches_of_a_union_takes_blobs(
    store: Store, tmp_path: Path, way: str
) -> None:
    data = DATA if way != "small file" else b"small"
    (tmp_path / "file").write_bytes(data)
    blob = (
        store.add_bytes(data) if way == "bytes" else add_file(store, tmp_path / "file", digest=Digest.sha256(data))[0]
    )
    assert blob.path.read_bytes() == data
    assert blob.path.stat().st_mode & 0o777 == 0o444
    assert store.peek(blob.digest) == blob  # the record describes the copy
    assert not list((store.path / "ingest").iterdir())
    assert sorted(path.name for path in blob.path.parent.iterdir()) == [blob.digest.hex, f"{blob.digest.hex}.json"]
    other = Digest("blake3", blake3(data).hexdigest())
    store.index.write_alias(other, blob.digest)
    assert store.read(other) == data
    store.index.remember("0" * 64, blob.digest)
    assert store.index.recall("0" * 64) is not None


@pytest.mark.usefixtures("_two_branches")
def test_a_wrong_copy_to_another_branch_is_not_stored(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaging(fd: int, start: int, end: int, sink: Callable[[memoryview], object]) -> bool:
        return read_into(fd, start, end, lambda piece: sink(memoryview(bytes(len(piece)))))

    monkeypatch.setattr(store_module, "read_into", damaging)
    with pytest.raises(DiskError):
        store.add_bytes(DATA)
    assert not list(store.blobs())


# --- obstacles at a file's path --------------------------------------------------------------------------------


def obstruct(path: Path, kind: str) -> None:
    """Create something at the path of a file that can't be read as a file."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(2**40)


@pytest.mark.parametrize("kind", ["FIFO", "folder", "link", "huge file"])
def test_a_blob_with_an_unreadable_record_is_hashed_again(store: Store, kind: str) -> None:
    blob = store.add_bytes(DATA)
    obstruct(record_path(blob.path), kind)
    assert store.peek(blob.digest) is None
    assert store.find(blob.digest) == blob
    assert store.read(blob.digest) == DATA


@pytest.mark.parametrize("kind", ["FIFO", "folder", "link"])
def test_anything_but_a_file_in_the_place_of_a_blob_is_an_error(store: Store, kind: str) -> None:
    blob = store.add_bytes(DATA)
    obstruct(blob.path, kind)
    assert store.peek(blob.digest) is None
    assert store.read(blob.digest) is None
    with pytest.raises(ModelfetchError):
        store.find(blob.digest)


@pytest.mark.parametrize("kind", ["FIFO", "folder", "link", "huge file"])
def test_an_unreadable_alias_is_ignored(store: Store, kind: str) -> None:
    blob = store.add_bytes(DATA)
    other = Digest("blake3", "1" * 64)
    store.index.write_alias(other, blob.digest)
    store.index.remember("1" * 64, blob.digest)
    for path in (store.path / "blobs/blake3/11" / other.hex, store.path / "blobs/name/11" / ("1" * 64)):
        assert path.is_file()
        obstruct(path, kind)
    assert store.find(other) is None
    assert store.index.recall("1" * 64) is None


# --- leftovers of killed runs ----------------------------------------------------------------------------------


def test_temporary_files_of_killed_runs_are_removed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest = store.folder("ingest")
    left = ["tmp-0123.part", "tmp-0123.zip", f"{'0' * 64}.damaged", f".{'0' * 64}.json.0123abcd"]
    for name in (*left, "kept.part", "kept.json"):
        (ingest / name).touch()
    Store(store.path).folder("ingest")
    assert len(list(ingest.iterdir())) == 6  # recent ones may belong to another process
    monkeypatch.setattr("modelfetch.core.temp_files._ABANDONED_AFTER", -1.0)
    Store(store.path).folder("ingest")
    assert sorted(path.name for path in ingest.iterdir()) == ["kept.json", "kept.part"]


def test_clearing_a_store_leaves_foreign_files(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.add_bytes(DATA)
    store.clear()
    assert not store.path.exists()
    store.add_bytes(DATA)
    (store.path / "notes.txt").write_text("mine")
    store.clear()
    assert {path.name for path in store.path.iterdir()} == {"notes.txt", "CACHEDIR.TAG"}
    assert not store.is_foreign()


@pytest.mark.parametrize("kind", ["file", "link", "full folder", "other tag"])
def test_other_files_in_a_store_are_foreign(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "store"
    if kind == "file":
        path.write_text("mine")
    elif kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.mkdir()
        (path / ("CACHEDIR.TAG" if kind == "other tag" else "mine")).write_text("Signature: another's")
    assert Store(path).is_foreign()


def test_a_store_of_another_user_is_foreign_unless_the_folder_above_is_theirs_too(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that all may write, such as `/tmp`, it could hold links to any folder."""
    store.add_bytes(DATA)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert not store.is_foreign()
    found, parent = Path.stat, store.path.parent

    def of_third(self: Path, **named: Any) -> Any:
        return SimpleNamespace(st_uid=6789) if self == parent else found(self, **named)

    monkeypatch.setattr(Path, "stat", of_third)
    assert store.is_foreign()


def test_a_store_and_an_empty_folder_are_not_foreign(store: Store) -> None:
    assert not store.is_foreign()
    store.path.mkdir()
    assert not store.is_foreign()
    store.add_bytes(DATA)
    assert not store.is_foreign()


def test_a_folder_whose_creation_or_removal_was_cut_off_is_not_foreign(tmp_path: Path) -> None:
    """At any call that changes the disk, by a kill or by an error of this call."""
    for error in (None, errno.EIO):
        for at in range(100):
            store = Store(tmp_path / f"{error}-{at}")
            with killed_at(at, error=error) as killer, contextlib.suppress(ModelfetchError, OSError):
                store.add_bytes(DATA)
                store.clear()
            again = Store(store.path)
            assert not again.is_foreign(), (at, error)
            again.add_bytes(DATA)
            assert (again.path / "CACHEDIR.TAG").stat().st_size > 100
            again.clear()
            assert not again.path.exists()
            if not killer.struck:
                break
        assert at > 10


def test_nothing_is_stored_after_the_lock_was_lost(store: Store) -> None:
    part = store.tmp()
    part.write_bytes(DATA)

    def lost() -> None:
        raise LockLostError("x")

    with part.open("rb") as mine, pytest.raises(LockLostError):
        store.admit(part, mine.fileno(), {"sha256": Digest.sha256(DATA)}, (), ensure_owned=lost)
    assert not list(store.blobs())
    assert part.exists()
