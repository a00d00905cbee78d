"""The Python face, and what the commands call: options and an environment in, a `Report` out."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelfetch.config.options import DEFAULT_ROOT, Options, parse_options
from modelfetch.config.settings import Settings
from modelfetch.core import fs
from modelfetch.core.cancel import Cancel
from modelfetch.core.events import Sink, discard
from modelfetch.core.report import Report, failed
from modelfetch.core.threads import run_anywhere
from modelfetch.errors import ModelfetchError, UsageError
from modelfetch.pipeline.session import Session
from modelfetch.pipeline.sync import preview_manifests, sync_manifests
from modelfetch.tiers.selection import load_selected, select_manifests

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from modelfetch.manifest.model import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Which manifests, with which options, in which environment.

    ``tier_variable`` names the environment variable that gave ``tier``; None when the caller did.
    ``may_be_unnamed``: with neither tier nor manifest the work is on all that is there, and gets no manifests.
    """

    options: Options
    tier: str | None = None
    manifests: tuple[Path, ...] = ()
    tier_variable: str | None = None
    may_be_unnamed: bool = False
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


async def perform(
    request: Request,
    work: Callable[[Sequence[Manifest], Session], Awaitable[Report]],
    *,
    sink: Sink = discard,
    cancel: Cancel | None = None,
) -> Report:
    """Read the manifests and do the work on them; whatever goes wrong is in the report, nothing typed escapes."""
    cancel = cancel or Cancel()
    tier = request.tier
    try:
        settings = Settings.from_env(request.environ)
        manifests: tuple[Manifest, ...] = ()
        if not request.may_be_unnamed or tier is not None or request.manifests:
            choice = select_manifests(
                tier=request.tier,
                manifests=request.manifests,
                settings=settings,
                environ=request.environ,
                tier_variable=request.tier_variable,
                sink=sink,
            )
            tier = choice.tier
            manifests = await asyncio.to_thread(
                load_selected, choice, settings=settings, environ=request.environ, sink=sink
            )
        chosen, tier = tier, manifests[0].tier if manifests else None
        with _demo(chosen, settings, request.environ) as settings:
            async with Session(request.options, settings, sink=sink, cancel=cancel.child()) as session:
                return await work(manifests, session)
    except ModelfetchError as error:
        return failed([error], tier=tier, root=str(request.options.root))
    except OSError as error:  # whatever of the disk was not foreseen where it happened, such as a folder that is gone
        disk = fs.translate(error, request.options.root, doing="working in")
        return failed([disk], tier=tier, root=str(request.options.root))
    except asyncio.CancelledError:
        if not cancel.is_set():
            raise
        return failed([cancel.error()], tier=tier, root=str(request.options.root))


@contextlib.contextmanager
def _demo(tier: str | None, settings: Settings, environ: Mapping[str, str]) -> Iterator[Settings]:
    """For the tier ``demo``: a hub of its own on loopback, named by settings as any mirror would be."""
    if tier != "demo":
        yield settings
        return
    from modelfetch.demo.tier import demo_environment

    with demo_environment() as overlay:
        yield Settings.from_env({**environ, **overlay})


async def sync_async(
    *,
    tier: str | None = None,
    manifest: str | Path | Sequence[str | Path] | None = None,
    events: Sink = discard,
    **options: Any,
) -> Report:
    """Make everything that a tier or manifest asks for present, verified and in place.

    Args:
        tier: A tier's name, such as ``"16g"``.
        manifest: One or several manifest files instead.
        events: Called with each `modelfetch.core.events.Event`, from any thread.
        **options: Any field of `modelfetch.config.options.Options`: ``root``, ``store``, ``consumers`` (the command's
            ``--for``; ``for_`` means the same), ``offline``, … Sizes and owners may be written as on the command line:
            ``limit_rate="50MB"``, ``chown="1000:1000"``.

    Returns:
        The report, also when it failed: see ``ok``, ``exit_code``, ``errors`` and ``raise_for_error()``. A value that
        an option can't have is a `UsageError` there.

    Raises:
        TypeError: An option does not exist.
    """
    return await _perform(tier, manifest, options, sync_manifests, events)


def sync(
    *,
    tier: str | None = None,
    manifest: str | Path | Sequence[str | Path] | None = None,
    events: Sink = discard,
    **options: Any,
) -> Report:
    """`sync_async` for callers without an event loop; it also works where one is running already (a notebook)."""
    return run_anywhere(lambda: sync_async(tier=tier, manifest=manifest, events=events, **options))


async def plan_async(
    *, tier: str | None = None, manifest: str | Path | Sequence[str | Path] | None = None, **options: Any
) -> Report:
    """What `sync_async` would do, and every problem that can be foreseen; no body is fetched."""

    async def work(manifests: Sequence[Manifest], session: Session) -> Report:
        return (await preview_manifests(manifests, session))[0]

    return await _perform(tier, manifest, options, work, discard)


async def _perform(
    tier: str | None,
    manifest: str | Path | Sequence[str | Path] | None,
    options: Mapping[str, Any],
    work: Callable[[Sequence[Manifest], Session], Awaitable[Report]],
    sink: Sink,
) -> Report:
    try:
        request = _request(tier, manifest, options)
    except UsageError as error:
        return failed([error], tier=tier, root=str(options.get("root") or DEFAULT_ROOT))
    return await perform(request, work, sink=sink)


def _request(
    tier: str | None, manifest: str | Path | Sequence[str | Path] | None, options: Mapping[str, Any]
) -> Request:
    files = [manifest] if isinstance(manifest, (str, Path)) else list(manifest or ())
    if tier is not None and files:
        raise TypeError("either tier or manifest, not both")
    return Request(options=parse_options(options), tier=tier, manifests=tuple(Path(file) for file in files))
