"""Run work on manifests in a session, for the commands and the Python API: every error becomes the result."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from modelfetch.config.options import Options, owner_from, parse_options
from modelfetch.config.settings import Settings
from modelfetch.core import os_errors
from modelfetch.core.cancel import Cancel
from modelfetch.core.events import Notice, Sink, discard
from modelfetch.core.limits import limit_error
from modelfetch.core.report import failed
from modelfetch.core.threads import until_cancelled
from modelfetch.errors import DestinationError, InterruptedSync, ModelfetchError
from modelfetch.pipeline.session import Session
from modelfetch.tiers.selection import load_selected, select_manifests

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Protocol

    from modelfetch.manifest.model import Manifest

    R_co = TypeVar("R_co", covariant=True)

    class Failure(Protocol[R_co]):
        """Builds the result of a failed run."""

        def __call__(self, errors: Sequence[ModelfetchError], *, tier: str | None, root: str, seconds: float) -> R_co:
            """Return the result."""


R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Which manifests to work on, with which options, in which environment.

    ``tier_variable`` names the environment variable that gave ``tier``; None when the caller did.
    ``may_be_unnamed``: without tier and manifest, the work covers everything on disk and gets no manifests.
    """

    options: Options
    tier: str | None = None
    manifests: tuple[Path, ...] = ()
    tier_variable: str | None = None
    may_be_unnamed: bool = False
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(slots=True, kw_only=True)
class _Run:
    """The data for the report of a failed run."""

    root: str
    tier: str | None = None
    session: Session | None = None
    started: float = field(default_factory=time.monotonic)

    async def result(self, work: Coroutine[Any, Any, R], cancel: Cancel, failure: Failure[R] | None) -> R:
        """Run to completion; any error becomes the result of a failed run."""
        try:
            return await until_cancelled(work, cancel)
        except ModelfetchError as error:
            found = error
        except (OSError, UnicodeEncodeError) as error:  # not handled where it occurred, such as a deleted folder
            found = os_errors.translate(error, self.root, doing="working in")
        except Exception as error:
            if (limit := limit_error(error)) is None:
                raise
            found = limit
        if isinstance(found, InterruptedSync) and failure is None and self.session and self.session.report_interruption:
            return cast("R", self.session.report_interruption())
        make = failure or cast("Failure[R]", failed)
        return make([found], tier=self.tier, root=self.root, seconds=time.monotonic() - self.started)


async def run_manifests(
    request: Request,
    work: Callable[[Sequence[Manifest], Session], Coroutine[Any, Any, R]],
    *,
    failure: Failure[R] | None = None,
    sink: Sink = discard,
    cancel: Cancel | None = None,
) -> R:
    """Read the manifests and work on them. No `ModelfetchError` is raised: errors are in the result."""
    cancel = cancel or Cancel()
    run = _Run(root=str(request.options.root), tier=request.tier)
    environ = request.environ

    async def main() -> R:
        settings = Settings.from_env(environ)
        options = request.options
        options = replace(options, chown=options.chown or owner_from(environ))
        manifests: tuple[Manifest, ...] = ()
        chosen = request.tier
        if not request.may_be_unnamed or request.tier is not None or request.manifests:
            selection = select_manifests(
                tier=request.tier,
                manifests=request.manifests,
                settings=settings,
                environ=environ,
                tier_variable=request.tier_variable,
                sink=sink,
            )
            run.tier = chosen = selection.tier
            manifests = await asyncio.to_thread(load_selected, selection, settings=settings, environ=environ, sink=sink)
            run.tier = manifests[0].tier
        with _demo_hub(chosen, settings, environ) as settings:
            async with Session(options, settings, sink=sink, cancel=cancel.child()) as session:
                run.session = session
                if manifests and (nothing := _nothing_to_do(manifests, options.consumers)):
                    sink(nothing)
                return await work(manifests, session)

    return await run.result(main(), cancel, failure)


def _nothing_to_do(manifests: Sequence[Manifest], consumers: Sequence[str]) -> Notice | None:
    """Return the warning that no model of the manifests is for the chosen consumers; None if one is."""
    served = {consumer for manifest in manifests for model in manifest.models for consumer in model.consumers}
    if served.intersection(consumers) if consumers else served:
        return None
    files = ", ".join(manifest.file for manifest in manifests)
    if not served:
        return Notice(level="warning", message=f"{files}: no models are listed")
    return Notice(
        level="warning",
        message=f"nothing in {files} is for {' or '.join(consumers)}",
        hint=f"it has models for {', '.join(sorted(served))}",
    )


async def run_session(
    options: Callable[[Settings], Options],
    work: Callable[[Session], Coroutine[Any, Any, R]],
    *,
    failure: Failure[R] | None = None,
    sink: Sink = discard,
    cancel: Cancel | None = None,
) -> R:
    """Work in a session without a manifest. No `ModelfetchError` is raised: errors are in the result."""
    cancel = cancel or Cancel()
    run = _Run(root="")

    async def main() -> R:
        settings = Settings.from_env(os.environ)
        chosen = options(settings)
        run.root = str(chosen.root)
        async with Session(chosen, settings, sink=sink, cancel=cancel.child()) as session:
            try:
                return await work(session)
            except DestinationError as error:
                _name_cache(error, settings.cache_path())
                raise

    return await run.result(main(), cancel, failure)


def _name_cache(error: DestinationError, cache: Path) -> None:
    """Add the variable for the cache to the hint of an error about its folder, which no option named."""
    folders = [str(folder) for folder in (cache, *cache.parents) if folder.name]
    if error.code == "not-writable" and any(f" {folder}:" in error.message for folder in folders):
        error.hint = f"{error.hint}; MODELFETCH_CACHE names another folder for the cache"


@contextlib.contextmanager
def _demo_hub(tier: str | None, settings: Settings, environ: Mapping[str, str]) -> Iterator[Settings]:
    """For the tier ``demo``, start a hub on loopback and return settings that use it like any mirror."""
    if tier != "demo":
        yield settings
        return
    from modelfetch.demo.tier import demo_environment

    with demo_environment() as overlay:
        yield Settings.from_env({**environ, **overlay})


def in_cache(options: Mapping[str, Any]) -> Callable[[Settings], Options]:
    """Return what parses the options of a command that needs no ROOT: it works in the user's cache."""
    return lambda settings: parse_options({**options, "root": settings.cache_path()})
