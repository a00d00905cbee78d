"""Resolve a model to its files, from the receipt, the manifest alone, or the sources, in this order."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from modelfetch.core.bounded import map_bounded
from modelfetch.errors import ModelfetchError
from modelfetch.manifest.uri import HfUri
from modelfetch.pipeline.frozen import frozen_before, frozen_for, same_pins
from modelfetch.sources import SourceRequest
from modelfetch.sources.base import is_final, refuse_pickles

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from modelfetch.core.artifact import Artifact, Location, Resolution
    from modelfetch.manifest.uri import Uri
    from modelfetch.pipeline.plan import ModelRequest
    from modelfetch.pipeline.session import Session
    from modelfetch.placement.receipts import Receipt

_AT_ONCE = 8


def resolve_quietly(request: ModelRequest, session: Session, receipts: Mapping[str, Receipt]) -> Resolution | None:
    """Resolve without network access; None if a source must be queried."""
    from modelfetch.sources import known

    refresh, settings = session.options.refresh, session.settings
    if not refresh and (found := frozen_for(request, receipts, settings)):
        return found
    found = known(SourceRequest.of(request.model), settings, session.store.read)
    if found is not None or refresh:
        return found
    found = same_pins(request, receipts, settings)
    if found is None and settings.offline and request.model.source.scheme != "file":
        return frozen_before(request, receipts, settings)
    return found


def resolve_settled(request: ModelRequest, session: Session, receipts: Mapping[str, Receipt]) -> Resolution | None:
    """As `resolve_quietly`, but use what is recorded for this manifest text even if the next run would refresh it."""
    return frozen_for(request, receipts, session.settings) or resolve_quietly(request, session, receipts)


def resolve_recorded(request: ModelRequest, session: Session, receipts: Mapping[str, Receipt]) -> Resolution | None:
    """Return what earlier runs recorded, even if the next one would query a source again; None if none did."""
    return resolve_settled(request, session, receipts) or frozen_before(request, receipts, session.settings)


async def resolve_all(
    requests: Sequence[ModelRequest], session: Session, receipts: Mapping[str, Receipt], queried: set[str]
) -> list[Resolution | ModelfetchError]:
    """Return the resolution of each request, or the error that prevented it; sources are queried in parallel.

    The names of models that needed a query are added to ``queried``.
    """
    known = await asyncio.to_thread(lambda: [_resolve_checked(request, session, receipts) for request in requests])

    async def one(request: ModelRequest) -> Resolution | ModelfetchError:
        try:
            found = await _query_sources(request, session)
            refuse_pickles(SourceRequest.of(request.model), found)
        except ModelfetchError as error:
            return error.about(model=request.model.name, uri=str(request.model.source))
        return found

    unknown = [request for request, found in zip(requests, known, strict=True) if found is None]
    queried.update(request.model.name for request in unknown)
    answers = iter(await map_bounded(one, unknown, limit=_AT_ONCE))
    return [next(answers) if found is None else found for found in known]


def _resolve_checked(
    request: ModelRequest, session: Session, receipts: Mapping[str, Receipt]
) -> Resolution | ModelfetchError | None:
    """Resolve a request without network access; an error is returned, not raised."""
    session.cancel.check()
    try:
        found = resolve_quietly(request, session, receipts)
        if found is not None:
            refuse_pickles(SourceRequest.of(request.model), found)
    except ModelfetchError as error:
        return error.about(model=request.model.name, uri=str(request.model.source))
    return found


async def _query_sources(request: ModelRequest, session: Session) -> Resolution:
    """Query the source, then each mirror; if all fail, raise the source's error."""
    source = request.model.source
    first: ModelfetchError | None = None
    for uri in (source, *request.model.mirrors):
        session.cancel.check()
        try:
            found = await session.sources.resolve(SourceRequest.of(request.model, uri))
        except ModelfetchError as error:
            if is_final(error):
                raise
            first = first or error
        else:
            # A cache folder is named by the commit that the manifest pins, also when a mirror served the files.
            commit = source.commit if isinstance(source, HfUri) else None
            return replace(found, revision=commit) if commit else found
    assert first is not None  # noqa: S101 - there is always a source
    raise first


def mirrors_of(
    request: ModelRequest, artifact: Artifact, session: Session
) -> tuple[Callable[[], Awaitable[Sequence[Location]]], ...]:
    """For each mirror, a function that locates the artifact there; it is only called if the source has failed."""

    def finder(uri: Uri) -> Callable[[], Awaitable[Sequence[Location]]]:
        async def find() -> Sequence[Location]:
            wanted = SourceRequest.of(request.model, uri)
            resolution = await session.sources.resolve(wanted)
            matching = [
                other for other in resolution.artifacts if _is_same_file(other, artifact, single=not wanted.snapshot)
            ]
            return [place for other in matching for place in other.locations]

        return find

    return tuple(finder(uri) for uri in request.model.mirrors)


def _is_same_file(other: Artifact, artifact: Artifact, *, single: bool) -> bool:
    """Whether a mirror's file corresponds to this one; its digest is verified after the download."""
    if other.digest is not None and artifact.digest is not None and other.digest.algorithm == artifact.digest.algorithm:
        return other.digest == artifact.digest
    return single or other.path == artifact.path
