"""Check upstream availability before downloading: whether files exist, are accessible, and match their pins.

A model that was resolved at its source is known to exist. A model whose revision, digest and size are pinned needed no
request to be resolved, so its source is checked here for exactly the bytes that the manifest pins; models are checked
concurrently. If the resolution comes from a receipt, a moving name is not resolved again: requesting one byte of the
first missing file shows whether it is still available.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from modelfetch.core.bounded import map_bounded
from modelfetch.errors import (
    CredentialsError,
    IntegrityError,
    ModelfetchError,
    NotFoundError,
    most_serious,
)
from modelfetch.http.retry import retry
from modelfetch.manifest.uri import CivitaiUri, FileUri, HfUri, HttpUri
from modelfetch.placement import Action
from modelfetch.sources import SourceRequest, known
from modelfetch.sources.base import is_final, offline_error

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from modelfetch.core.artifact import Artifact
    from modelfetch.manifest.model import Model
    from modelfetch.pipeline.plan import ModelPlan
    from modelfetch.pipeline.session import Session

_AT_ONCE = 8


async def check_availability(
    plans: Sequence[ModelPlan], queried: Collection[str], session: Session
) -> tuple[ModelPlan, ...]:
    """Return the plans, with an error where bytes are unavailable; models in ``queried`` are not checked again.

    A failing source is not an error if a mirror has the file.
    """
    first_missing = await asyncio.to_thread(_first_missing, plans, session)

    async def one(item: tuple[ModelPlan, Artifact]) -> ModelPlan:
        plan, artifact = item
        try:
            if session.settings.offline and not artifact.locations[0].is_local:
                raise offline_error(artifact.uri)
            if plan.request.model.name not in queried:
                await _check_artifact(plan.request.model, artifact, session)
        except ModelfetchError as error:
            return replace(plan, errors=(error.about(model=plan.request.model.name, uri=artifact.uri),))
        return plan

    incomplete = [(plan, artifact) for plan, artifact in zip(plans, first_missing, strict=True) if artifact is not None]
    checked = iter(await map_bounded(one, incomplete, limit=_AT_ONCE))
    return tuple(
        plan if artifact is None else next(checked) for plan, artifact in zip(plans, first_missing, strict=True)
    )


def _first_missing(plans: Sequence[ModelPlan], session: Session) -> list[Artifact | None]:
    """The first artifact of each plan that must be downloaded, if any."""
    here = digests_here(plans, session)
    return [
        None
        if plan.errors
        else next((a for a in plan.missing if a.content is None and a.locations and str(a.digest) not in here), None)
        for plan in plans
    ]


def digests_here(plans: Iterable[ModelPlan], session: Session) -> set[str]:
    """The digests that need no request: in the store, or at a path that already has the right bytes."""
    here: set[str] = set()
    for plan in plans:
        for target in plan.targets:
            artifact = target.placement.artifact
            if artifact is None or artifact.digest is None:
                continue
            if target.action is Action.KEEP or (target.needs_bytes and _is_local(artifact, session)):
                here.add(str(artifact.digest))
    return here


def _is_local(artifact: Artifact, session: Session) -> bool:
    """Whether the artifact is in the store, or elsewhere on this machine judging by name and size alone."""
    if artifact.digest is not None and session.store.find(artifact.digest, artifact.size):
        return True
    for path in session.local_files.find(artifact):
        with contextlib.suppress(OSError):
            if artifact.size in (None, path.stat().st_size):
                return True
    return False


async def _check_artifact(model: Model, artifact: Artifact, session: Session) -> None:
    """Return if the source or a mirror has the artifact; otherwise raise the most severe of their errors."""
    retries = session.options.retries
    if not model.mirrors:
        await _check_source(model, artifact, session, retries=retries)
        return
    failures: list[ModelfetchError] = []

    async def once() -> None:
        failures.clear()
        for uri in (model.source, *model.mirrors):
            session.cancel.check()
            try:
                if uri is model.source:
                    await _check_source(model, artifact, session, retries=1)
                else:
                    await session.sources.resolve(SourceRequest.of(model, uri), retries=1)
                return
            except ModelfetchError as error:
                if is_final(error):
                    raise
                failures.append(error)
        # Retry while at least one of them may recover.
        raise next((error for error in failures if not error.permanent), failures[0])

    try:
        await retry(once, retries=retries, sleep=asyncio.sleep)
    except ModelfetchError as error:
        raise (most_serious(failures) if error in failures else error) from None


async def _check_source(model: Model, artifact: Artifact, session: Session, *, retries: int) -> None:
    """Return if the source has what the manifest pins; otherwise raise the reason."""
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
            first = error  # a hub mirror may lack the API or limit its rate, so try the file itself
    try:
        await retry(
            lambda: asyncio.to_thread(session.sources.probe, wanted, artifact, session.cancel),
            retries=retries,
            sleep=asyncio.sleep,
        )
    except NotFoundError as error:
        # Both report that it is missing. The API's error is more specific: it lists files or the unknown revision.
        raise (first if isinstance(first, NotFoundError) else error) from None


def _is_immutable(wanted: SourceRequest, session: Session) -> bool:
    """Whether the manifest alone determines the bytes, so that the source may be queried again."""
    if isinstance(wanted.uri, CivitaiUri):
        return True
    if not isinstance(wanted.uri, HfUri | HttpUri | FileUri):
        return False
    return known(wanted, session.settings, session.store.read) is not None
