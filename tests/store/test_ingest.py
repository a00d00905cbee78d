"""Existing files are added to the store and stay unchanged."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.core.digest import Digest
from modelfetch.errors import IntegrityError, ModelfetchError
from modelfetch.store import Blob, Store, ingest
from modelfetch.store.ingest import add_file

if TYPE_CHECKING:
    from pathlib import Path


DATA = b"weights " * 20_000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_file_is_kept_and_stays_where_it_was(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    path.chmod(0o640)
    blob, _ = add_file(store, path, digest=Digest.sha256(DATA))
    assert blob.path.read_bytes() == path.read_bytes() == DATA
    shared = blob.path.samefile(path)
    assert path.stat().st_mode & 0o777 == (0o444 if shared else 0o640)
    assert blob.path.stat().st_mode & 0o777 == 0o444


def test_a_file_whose_mode_cannot_be_changed_is_copied(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    path.chmod(0o640)

    fchmod = os.fchmod

    def refuse(fd: int, mode: int) -> None:
        if os.fstat(fd).st_nlink > 1:
            raise PermissionError(1, "Operation not permitted")
        fchmod(fd, mode)

    monkeypatch.setattr(os, "fchmod", refuse)
    blob, _ = add_file(store, path)
    assert not blob.path.samefile(path)
    assert (path.stat().st_mode & 0o777, blob.path.stat().st_mode & 0o777) == (0o640, 0o444)
    assert not list((store.path / "ingest").iterdir())


def test_a_small_file_is_copied_never_linked(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"small")
    blob, _ = add_file(store, path)
    assert blob.path.stat().st_ino != path.stat().st_ino
    path.write_bytes(b"other")
    assert store.read(blob.digest) == b"small"


def test_a_temporary_file_of_the_store_becomes_a_read_only_blob(store: Store) -> None:
    path = store.tmp()
    path.write_bytes(DATA)
    blob, _ = add_file(store, path)
    path.unlink()
    assert blob.path.stat().st_mode & 0o777 == 0o444
    assert blob.path.stat().st_nlink == 1


def test_a_linked_file_that_is_changed_later_is_no_longer_a_blob(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    blob, _ = add_file(store, path)
    path.write_bytes(DATA[::-1])
    found = store.find(blob.digest)
    assert found is None or found.path.read_bytes() == DATA


def test_a_file_with_another_digest_is_not_kept(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    with pytest.raises(IntegrityError):
        add_file(store, path, digest=Digest.sha256(b"other"))
    assert not list(store.blobs())
    assert not list((store.path / "ingest").iterdir())


def test_a_file_that_does_not_exist_is_a_typed_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ModelfetchError):
        add_file(store, tmp_path / "missing")


@pytest.mark.parametrize("kind", ["FIFO", "folder"])
def test_only_a_regular_file_can_be_added(store: Store, tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "file") if kind == "FIFO" else (tmp_path / "file").mkdir()
    with pytest.raises(ModelfetchError) as caught:
        add_file(store, tmp_path / "file")
    assert caught.value.exit_code == 73


def test_a_file_that_is_replaced_while_it_is_added_is_not_trusted(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its service writes to it after it was hashed: the record describes the hashed bytes."""
    path = tmp_path / "file"
    path.write_bytes(DATA)
    admit = Store.admit

    def late(self: Store, part: Path, fd: int, *arguments: Any, **keywords: Any) -> Blob:
        path.write_bytes(DATA[::-1])
        os.utime(path, ns=(5, 5))
        return admit(self, part, fd, *arguments, **keywords)

    monkeypatch.setattr(Store, "admit", late)
    blob, _ = add_file(store, path)
    found = store.find(blob.digest)
    assert found is None or found.path.read_bytes() == DATA


def test_a_link_that_shows_another_size_than_its_file_is_replaced_by_a_copy(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    link = os.link

    def link_and_grow(source: Path, target: Path, **options: Any) -> None:
        link(source, target, **options)
        os.truncate(target, len(DATA) + 50)

    monkeypatch.setattr(ingest, "try_reflink", lambda *_: False)
    monkeypatch.setattr(os, "link", link_and_grow)
    blob, how = add_file(store, path)
    assert how == "copy"
    assert not blob.path.samefile(path)
