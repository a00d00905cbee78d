"""Query the sources for pinning, concurrently, and read the files whose digest no source gives."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from modelfetch.core import fs, os_errors
from modelfetch.core.bounded import map_bounded
from modelfetch.core.events import Planned
from modelfetch.errors import IntegrityError, ModelfetchError
from modelfetch.formats.content_check import check_artifact
from modelfetch.manifest.kinds import REPO_KINDS
from modelfetch.manifest.uri import FileUri, OllamaUri
from modelfetch.pinning.entry import Measured, PinEntry, PinState, compare, files_to_measure, state_without_request
from modelfetch.pipeline.final_check import check_content
from modelfetch.pipeline.obtain import TransferDeduplicator
from modelfetch.sources.base import refuse_pickles

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from modelfetch.core.artifact import Artifact, Resolution
    from modelfetch.pipeline.session import Session
    from modelfetch.sources import SourceRequest

T = TypeVar("T")

_AT_ONCE = 8

Comparison = tuple[PinState, "Resolution | None"]


async def resolve_entries(entries: Sequence[PinEntry], session: Session) -> list[Resolution | ModelfetchError]:
    """Resolve each entry at its source, never at a mirror; failures are returned as errors."""
    return await _run_concurrently(entries, session, lambda entry: _resolve(entry.request, session))


async def check_entries(entries: Sequence[PinEntry], session: Session) -> list[Comparison | ModelfetchError]:
    """Return the state of each entry's pins, and what upstream has if it was queried; no body is fetched."""
    return await _run_concurrently(entries, session, lambda entry: _check_entry(entry, session))


async def _check_entry(entry: PinEntry, session: Session) -> Comparison:
    known = state_without_request(entry)
    if known is not None:
        return known, None
    if session.settings.offline:
        return (PinState.UNKNOWN if entry.pinned else PinState.UNPINNED), None
    now = await _resolve(entry.newest, session)
    if not entry.pinned:
        return PinState.UNPINNED, now
    state = compare(entry, now)
    if state is None:
        state = compare(entry, now, await _resolve(entry.pinned_request, session))
    elif state is PinState.BEHIND and isinstance(entry.home, OllamaUri) and await _is_named(entry, session):
        state = PinState.CURRENT
    return state or PinState.UNKNOWN, now


async def _is_named(entry: PinEntry, session: Session) -> bool:
    """Whether an Ollama tag still leads to the pinned manifest; it may name a list that contains it."""
    try:
        await session.sources.resolve(entry.request)
    except IntegrityError as error:
        if error.code != "digest-mismatch":
            raise
        return False
    return True


async def _resolve(wanted: SourceRequest, session: Session) -> Resolution:
    found = await session.sources.resolve(wanted)
    refuse_pickles(wanted, found)
    return found


async def measure_all(
    entries: Sequence[PinEntry], resolutions: Sequence[Resolution], session: Session
) -> list[Mapping[str, Measured] | ModelfetchError]:
    """Read the files without a digest of each entry; returns their digests and sizes by URI."""
    todo = {id(e): files_to_measure(e, r) for e, r in zip(entries, resolutions, strict=True)}
    artifacts = {artifact.uri: artifact for each in todo.values() for artifact in each}
    if artifacts:
        size = sum(artifact.size or 0 for artifact in artifacts.values())
        session.sink(Planned(artifacts=len(artifacts), bytes=size, present=0))

    transfers = TransferDeduplicator()

    async def measure(entry: PinEntry) -> Mapping[str, Measured]:
        found = await asyncio.gather(*(_measure(entry, artifact, session, transfers) for artifact in todo[id(entry)]))
        return {artifact.uri: one for artifact, one in zip(todo[id(entry)], found, strict=True)}

    try:
        return await _run_concurrently(entries, session, measure)
    finally:
        await transfers.close()


async def _run_concurrently(
    entries: Sequence[PinEntry], session: Session, work: Callable[[PinEntry], Awaitable[T]]
) -> list[T | ModelfetchError]:
    async def one(entry: PinEntry) -> T | ModelfetchError:
        try:
            session.cancel.check()
            return await work(entry)
        except ModelfetchError as error:
            return error.about(model=entry.model.name, uri=str(entry.model.source))

    return await map_bounded(one, entries, limit=_AT_ONCE)


async def _measure(entry: PinEntry, artifact: Artifact, session: Session, transfers: TransferDeduplicator) -> Measured:
    if isinstance(entry.home, FileUri):
        return await asyncio.to_thread(_read_here, Path(entry.home.path), artifact)
    label = entry.model.name if entry.model.kind not in REPO_KINDS else f"{entry.model.name}/{artifact.path}"
    fetched, _ = await transfers.get(artifact.uri, (), lambda: session.engine.fetch(artifact, label=label))
    await asyncio.to_thread(check_content, fetched.blob, artifact, artifact.path)
    return Measured(
        digest=fetched.blob.digest,
        size=fetched.blob.size,
        action=fetched.action,
        bytes_fetched=fetched.bytes_fetched,
        served_by=fetched.served_by,
    )


def _read_here(path: Path, artifact: Artifact) -> Measured:
    """Hash a local file in place, after the checks that a transfer would make.

    Raises:
        NotAModelError: Its content does not match its name.
        DiskError, DestinationError: It can't be read.
    """
    with os_errors.translated(path, doing="reading"):
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            error = check_artifact(artifact, size, lambda at, count: os.pread(file.fileno(), count, at))
        if error is not None:
            raise error
        digest = fs.sha256_file(path)
    return Measured(digest=digest, size=size, action="present")
