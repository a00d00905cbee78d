"""Resolving: what a model's files are, from the receipt, the manifest alone, or the sources, in this order."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from modelfetch.errors import IntegrityError, ModelfetchError
from modelfetch.plan import Item, frozen_for
from modelfetch.sources import Wanted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from modelfetch.artifacts import Artifact, Location, Resolution
    from modelfetch.manifest.uri import Uri
    from modelfetch.receipts import Receipt
    from modelfetch.session import Session

_AT_ONCE = 8


def resolve_quietly(item: Item, session: Session, receipts: Mapping[str, Receipt]) -> Resolution | None:
    """What is known without asking anybody; None where a source must be asked."""
    from modelfetch.sources import known

    if not session.options.refresh and (found := frozen_for(item, receipts)):
        return found
    return known(Wanted.of(item.model), session.settings, session.store.read)


async def resolve_all(
    items: Sequence[Item], session: Session, receipts: Mapping[str, Receipt], asked: set[str]
) -> list[Resolution | ModelfetchError]:
    """The resolution of each item, or the error that says why there is none; sources are asked side by side.

    The names of the models that a source was asked about are added to ``asked``.
    """
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(item: Item) -> Resolution | ModelfetchError:
        try:
            if found := await asyncio.to_thread(resolve_quietly, item, session, receipts):
                return found
            asked.add(item.model.name)
            async with gate:
                return await _ask(item, session)
        except ModelfetchError as error:
            return error.about(model=item.model.name, uri=str(item.model.source))

    return await asyncio.gather(*(one(item) for item in items))


async def _ask(item: Item, session: Session) -> Resolution:
    """Ask the source, then each mirror; the source's own error is the one that counts."""
    first: ModelfetchError | None = None
    for uri in (item.model.source, *item.model.mirrors):
        session.cancel.check()
        try:
            return await session.sources.resolve(Wanted.of(item.model, uri))
        except ModelfetchError as error:
            if isinstance(error, IntegrityError) or error.exit_code in (130, 143):
                raise
            first = first or error
    assert first is not None  # noqa: S101 - there is always a source
    raise first


def mirrors_of(
    item: Item, artifact: Artifact, session: Session
) -> tuple[Callable[[], Awaitable[Sequence[Location]]], ...]:
    """For each mirror, how to find the artifact's bytes there; it is asked only when the source has failed."""

    def finder(uri: Uri) -> Callable[[], Awaitable[Sequence[Location]]]:
        async def find() -> Sequence[Location]:
            resolution = await session.sources.resolve(Wanted.of(item.model, uri))
            return [place for twin in resolution.artifacts if _same(twin, artifact) for place in twin.locations]

        return find

    return tuple(finder(uri) for uri in item.model.mirrors)


def _same(twin: Artifact, artifact: Artifact) -> bool:
    if twin.digest is not None and artifact.digest is not None and twin.digest.algorithm == artifact.digest.algorithm:
        return twin.digest == artifact.digest
    return twin.path == artifact.path or twin.size == artifact.size
