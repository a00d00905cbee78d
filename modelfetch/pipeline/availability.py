"""Asking before the first body whether what a manifest pins can be had: there, allowed, reachable, the same.

What a source had to be asked about is known to exist. A model whose revision, digest and size are pinned was not asked
about at all, so its source is now: whether it has the very bytes that the manifest says, the models side by side. Where
only a receipt knows what a name meant, nobody is asked what it means by now; one byte of the first missing file tells
whether it can still be had.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from modelfetch.errors import (
    CredentialsError,
    IntegrityError,
    ModelfetchError,
    NotFoundError,
    UnreachableError,
    most_serious,
)
from modelfetch.manifest.uri import CivitaiUri, FileUri, HfUri, HttpUri
from modelfetch.placement import Action
from modelfetch.sources import SourceRequest, known
from modelfetch.sources.base import is_final
from modelfetch.sources.retry import retry

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from modelfetch.core.artifact import Artifact
    from modelfetch.manifest.model import Model
    from modelfetch.pipeline.plan import ModelPlan
    from modelfetch.pipeline.session import Session

_AT_ONCE = 8


async def check_availability(
    plans: Sequence[ModelPlan], asked: Collection[str], session: Session
) -> tuple[ModelPlan, ...]:
    """The plans, those with an error whose bytes can't be had; models named in ``asked`` were asked about already.

    A source that fails is no error while a mirror can serve.
    """
    first_missing = await asyncio.to_thread(_first_missing, plans, session)
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(plan: ModelPlan, artifact: Artifact | None) -> ModelPlan:
        if artifact is None:
            return plan
        try:
            if session.settings.offline and not artifact.locations[0].url.startswith("file:"):
                raise _offline(artifact)
            if plan.item.model.name not in asked:
                async with gate:
                    await _can_be_had(plan.item.model, artifact, session)
        except ModelfetchError as error:
            return replace(plan, errors=(error.about(model=plan.item.model.name, uri=artifact.uri),))
        return plan

    return tuple(await asyncio.gather(*map(one, plans, first_missing)))


def _first_missing(plans: Sequence[ModelPlan], session: Session) -> list[Artifact | None]:
    """For each plan, the first artifact that must be downloaded."""
    here = digests_here(plans, session)
    return [
        None
        if plan.errors
        else next((a for a in plan.missing if a.content is None and a.locations and str(a.digest) not in here), None)
        for plan in plans
    ]


def digests_here(plans: Iterable[ModelPlan], session: Session) -> set[str]:
    """The digests of what needs no request: in the store, or under a path that is right already."""
    here: set[str] = set()
    for plan in plans:
        for target in plan.targets:
            artifact = target.placement.artifact
            if artifact is None or artifact.digest is None:
                continue
            if target.act is Action.KEEP or (target.needs_bytes and _is_at_hand(artifact, session)):
                here.add(str(artifact.digest))
    return here


def _is_at_hand(artifact: Artifact, session: Session) -> bool:
    """Whether the store or another place on this machine has it, the latter by its name and size alone."""
    if artifact.digest is not None and session.store.find(artifact.digest, artifact.size):
        return True
    for path in session.local_files.find(artifact):
        with contextlib.suppress(OSError):
            if artifact.size in (None, path.stat().st_size):
                return True
    return False


async def _can_be_had(model: Model, artifact: Artifact, session: Session) -> None:
    """Do nothing if the source, or one of the mirrors, has it; else raise the gravest of what they said."""
    retries = session.options.retries
    if not model.mirrors:
        await _at_the_source(model, artifact, session, retries=retries)
        return
    said: list[ModelfetchError] = []

    async def once() -> None:
        said.clear()
        for uri in (model.source, *model.mirrors):
            session.cancel.check()
            try:
                if uri is model.source:
                    await _at_the_source(model, artifact, session, retries=1)
                else:
                    await session.sources.resolve(SourceRequest.of(model, uri), retries=1)
                return
            except ModelfetchError as error:
                if is_final(error):
                    raise
                said.append(error)
        # Asked again while one of them may come back.
        raise next((error for error in said if not error.permanent), said[0])

    try:
        await retry(once, retries=retries, sleep=asyncio.sleep)
    except ModelfetchError as error:
        raise (most_serious(said) if error in said else error) from None


async def _at_the_source(model: Model, artifact: Artifact, session: Session, *, retries: int) -> None:
    """Do nothing if the source has what the manifest says; else raise why not."""
    wanted = SourceRequest.of(model)
    first: ModelfetchError | None = None
    if await asyncio.to_thread(_is_immutable, wanted, session):
        if not isinstance(model.source, HfUri):
            await session.sources.resolve(wanted, retries=retries)
            return
        try:
            await session.sources.resolve(wanted, retries=1)
            return
        except ModelfetchError as error:
            if isinstance(error, CredentialsError | IntegrityError) or is_final(error):
                raise
            first = error  # a mirror of the hub may lack its API, or be asked too often: its files decide
    try:
        await retry(
            lambda: asyncio.to_thread(session.sources.probe, wanted, artifact, session.cancel),
            retries=retries,
            sleep=asyncio.sleep,
        )
    except NotFoundError as error:
        # Both say that it is not there: the API's word names what is, or the revision that is unknown.
        raise (first if isinstance(first, NotFoundError) else error) from None


def _is_immutable(wanted: SourceRequest, session: Session) -> bool:
    """Whether a source may be asked anew for what it has: the manifest alone says which bytes it must be."""
    if isinstance(wanted.uri, CivitaiUri):
        return True
    if not isinstance(wanted.uri, HfUri | HttpUri | FileUri):
        return False
    return known(wanted, session.settings, session.store.read) is not None


def _offline(artifact: Artifact) -> UnreachableError:
    return UnreachableError(
        f"{artifact.uri} is missing, and modelfetch is offline",
        code="offline",
        permanent=True,
        hint="sync once while online, or leave out --offline and HF_HUB_OFFLINE",
    )
