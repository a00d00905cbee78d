"""Asking before the first body whether what a manifest pins can be had: there, allowed, reachable.

What a source had to be asked about is known to exist. A model whose revision, digest and size are pinned was not
asked about at all, so one byte of its first missing file is: one request a model, side by side.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from modelfetch.errors import ModelfetchError, UnreachableError
from modelfetch.http import check_status
from modelfetch.manifest.uri import HfUri
from modelfetch.place import Act
from modelfetch.sources.hf_errors import Asked, refusal
from modelfetch.sources.https import FIRST_BYTE, refuse_login
from modelfetch.sources.retry import persist

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from modelfetch.artifacts import Artifact
    from modelfetch.http import Response
    from modelfetch.manifest.uri import Uri
    from modelfetch.plan import ModelPlan
    from modelfetch.session import Session

_AT_ONCE = 8


async def probe(plans: Sequence[ModelPlan], asked: Collection[str], session: Session) -> tuple[ModelPlan, ...]:
    """The plans, those with an error whose bytes can't be had; models named in ``asked`` were asked about already.

    A model with mirrors is left to the transfer: one that fails is no error while another serves.
    """
    here = digests_here(plans, session)
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(plan: ModelPlan) -> ModelPlan:
        missing = [a for a in plan.missing() if a.content is None and a.locations and str(a.digest) not in here]
        if plan.errors or not missing:
            return plan
        try:
            if session.settings.offline and not missing[0].locations[0].url.startswith("file:"):
                raise _offline(missing[0])
            if plan.item.model.name not in asked and not plan.item.model.mirrors:
                async with gate:
                    await persist(
                        lambda: asyncio.to_thread(_ask, missing[0], plan.item.model.source, session),
                        retries=session.options.retries,
                        sleep=asyncio.sleep,
                    )
        except ModelfetchError as error:
            return replace(plan, errors=(error.about(model=plan.item.model.name, uri=missing[0].uri),))
        return plan

    return tuple(await asyncio.gather(*(one(plan) for plan in plans)))


def digests_here(plans: Iterable[ModelPlan], session: Session) -> set[str]:
    """The digests of what needs no request: in the store, or under a path that is right already."""
    here: set[str] = set()
    for plan in plans:
        for target in plan.targets:
            artifact = target.placement.artifact
            if artifact is None or artifact.digest is None:
                continue
            if target.act is Act.KEEP or (target.needs_bytes and session.store.find(artifact.digest, artifact.size)):
                here.add(str(artifact.digest))
    return here


def _ask(artifact: Artifact, source: Uri, session: Session) -> None:
    """Ask for one byte of an artifact; raises what the answer means."""
    url = artifact.locations[0].url
    if url.startswith("file:"):
        return
    with session.http.open("GET", url, headers=FIRST_BYTE, cancel=session.cancel) as response:
        refuse_login(response, artifact.uri)
        if response.status != 416:
            _check(response, artifact, source, session)


def _check(response: Response, artifact: Artifact, source: Uri, session: Session) -> None:
    if isinstance(source, HfUri) and not 200 <= response.status < 300:
        with_token = session.settings.hf_token.value() is not None
        endpoint = session.settings.hf_endpoint
        asked = Asked(endpoint=endpoint, repo=source.repo, revision=source.revision, with_token=with_token)
        if response.status != 404 or response.headers.get("x-error-code") != "EntryNotFound":
            raise refusal(response.status, response.headers, response.url, asked)
    check_status(response, what=artifact.uri, uri=artifact.uri)


def _offline(artifact: Artifact) -> UnreachableError:
    return UnreachableError(
        f"{artifact.uri} is missing, and modelfetch is offline",
        code="offline",
        permanent=True,
        hint="sync once while online, or leave out --offline and HF_HUB_OFFLINE",
    )
