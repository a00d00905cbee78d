"""What a partial file still needs."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from modelfetch.core.digest import Digest
from modelfetch.transfer.fetch import key_of
from modelfetch.transfer.journal import Identity
from modelfetch.transfer.partial import Partial
from modelfetch.transfer.writer import SegmentWriter
from tests.transfer.server import Origin
from tests.transfer.world import World, payload

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

MIB = 2**20
DATA = payload(4 * MIB, seed=41)
OTHER = payload(4 * MIB, seed=42)


def partial_with(path: Path, *ranges: tuple[int, int], identity: Identity | None = None) -> Partial:
    """A partial file of unknown size that has these ranges of `DATA`."""
    partial = Partial(path, algorithms=("sha256",), size=None)
    if identity is not None:
        partial.identify(identity)
    for start, end in ranges:
        writer = SegmentWriter(partial, start)
        writer.take(memoryview(DATA)[start:end])
        writer.close()
    return partial


def test_what_is_there_is_not_missing_while_the_size_is_unknown(tmp_path: Path) -> None:
    partial = partial_with(tmp_path / "x.part", (MIB, 2 * MIB))
    assert partial.missing() == [(0, MIB), (2 * MIB, None)]
    partial.close(keep=True)


def test_bytes_behind_a_gap_are_not_fetched_again_without_a_digest(tmp_path: Path) -> None:
    with Origin(OTHER, etag='"1"') as origin:  # other bytes under the same ETag
        world = World(root=tmp_path)
        artifact = world.artifact(origin)
        identity = Identity(uri=origin.url, url=origin.url, etag='"1"', modified=None, size=len(DATA))
        path = world.store.folder("ingest") / f"{key_of(artifact)}.part"
        partial_with(path, (MIB, 2 * MIB), (3 * MIB, 4 * MIB), identity=identity).close(keep=True)
        blob = world.fetch_all(artifact)[0].blob
        found = blob.path.read_bytes()
        assert found[MIB : 2 * MIB] == DATA[MIB : 2 * MIB]
        assert found[:MIB] == OTHER[:MIB]
        assert blob.digest == Digest.sha256(found)
        assert origin.sent <= 2 * MIB


def test_an_error_of_the_disk_on_close_hides_no_other_and_leaves_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = partial_with(tmp_path / "a.part", (0, 10))
    partial.identify(Identity(uri="u", url="u", etag='"x"'))
    real, closed = os.close, set[int]()

    def failing(fd: int) -> None:
        real(fd)
        closed.add(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "close", failing)
        partial.close(keep=True)
    assert partial._journal_fd >= 0
    assert {partial.fd, partial._journal_fd} <= closed
