"""Turn a damaged blob into a partial file, so that only its damaged chunks are fetched again."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from modelfetch.core.fs import copy_bytes, try_reflink
from modelfetch.store.chunks import chunk_span
from modelfetch.store.index import record_path, write_whole
from modelfetch.transfer.journal import ChunkChecksum, checksum_line

if TYPE_CHECKING:
    from pathlib import Path

    from modelfetch.core.digest import Digest
    from modelfetch.store.record import BlobRecord
    from modelfetch.store.store import Store


def reuse_intact_chunks(store: Store, digest: Digest, part: Path) -> None:
    """Turn a damaged blob that was set aside into a partial file, unless there is one already.

    The journal claims the chunks as recorded when the blob was valid; each is compared before it is trusted. The file
    is copied, since a consumer's file may share the damaged blob's bytes.

    Args:
        store: The store.
        digest: The digest that the blob should have.
        part: The path of the partial file; its journal goes next to it.
    """
    found = store.damaged(digest)
    if found is None:
        return
    aside, record = found
    with suppress(OSError):  # no space for a copy, for example: then all of it is fetched
        if not part.exists() and part.parent == aside.parent:
            if not try_reflink(aside, part):
                copy_bytes(aside, part)
            claims = b"".join(map(checksum_line, _claims(record)))
            write_whole(part.with_suffix(".json"), claims, temporary=store.tmp())
    for path in (aside, record_path(aside)):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _claims(record: BlobRecord) -> list[ChunkChecksum]:
    checksums = []
    for index, digest in enumerate(record.chunks):
        start, end = chunk_span(index, record.size)
        if end > start:
            checksums.append(ChunkChecksum(chunk=index, length=end - start, xxh3=digest))
    return checksums
