"""What is good in a damaged blob becomes a partial file: only the rest is fetched again."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from modelfetch.core.fs import copy_bytes, try_reflink
from modelfetch.store.chunks import chunk_span
from modelfetch.store.index import beside, write_whole
from modelfetch.transfer.journal import ChunkChecksum, mark_line

if TYPE_CHECKING:
    from pathlib import Path

    from modelfetch.core.digest import Digest
    from modelfetch.store.record import Record
    from modelfetch.store.store import Store


def reuse_intact_chunks(store: Store, digest: Digest, part: Path) -> None:
    """Make a partial file of a damaged blob, if one was set aside and there is no partial yet.

    Its chunks are claimed as they were when the blob was right, and compared before any of them is believed. It is a
    copy: a consumer's file may share the damaged one's bytes.

    Args:
        store: The store.
        digest: What the blob should have.
        part: Where the partial file goes; its journal goes beside it.
    """
    found = store.damaged(digest)
    if found is None:
        return
    aside, record = found
    with suppress(OSError):  # no space for a copy, say: then all of it is fetched
        if not part.exists() and part.parent == aside.parent:
            if not try_reflink(aside, part):
                copy_bytes(aside, part)
            claims = b"".join(map(mark_line, _claims(record)))
            write_whole(part.with_suffix(".json"), claims, temporary=store.tmp())
    for path in (aside, beside(aside)):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _claims(record: Record) -> list[ChunkChecksum]:
    marks = []
    for index, digest in enumerate(record.chunks):
        start, end = chunk_span(index, record.size)
        if end > start:
            marks.append(ChunkChecksum(chunk=index, length=end - start, xxh3=digest))
    return marks
