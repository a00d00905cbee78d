"""The Python API, which the commands use too: takes options and an environment, returns a report."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from modelfetch.config.options import (
    DEFAULT_ROOT,
    FetchValues,
    Options,
    OptionValues,
    PinValues,
    owner_from,
    parse_options,
    parse_values,
)
from modelfetch.config.settings import Settings
from modelfetch.core import fs
from modelfetch.core.cancel import Cancel
from modelfetch.core.events import Event, Notice, Sink, discard
from modelfetch.core.report import Report, failed
from modelfetch.core.similar import nearest
from modelfetch.core.threads import run_anywhere, until_cancelled
from modelfetch.errors import ModelfetchError, UsageError
from modelfetch.pipeline.session import Session
from modelfetch.pipeline.sync import preview_manifests, sync_manifests
from modelfetch.tiers.selection import load_selected, select_manifests

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from typing import ParamSpec, Protocol, TypeAlias, Unpack

    from modelfetch.core.digest import Digest
    from modelfetch.fitting.types import FitReport
    from modelfetch.manifest.model import Manifest
    from modelfetch.pinning.add import AddReport, AddRequest, Choose
    from modelfetch.pinning.run import Result as PinResult

    Files: TypeAlias = str | Path | Sequence[str | Path] | None
    """One or several manifest files."""

R = TypeVar("R")

if TYPE_CHECKING:
    P = ParamSpec("P")
    R_co = TypeVar("R_co", covariant=True)

    class Failure(Protocol[R_co]):
        """Builds the result of a failed run."""

        def __call__(self, errors: Sequence[ModelfetchError], *, tier: str | None, root: str, seconds: float) -> R_co:
            """Return the result."""


ProgressOption = bool | Callable[[Event], object]
"""True shows progress on stderr; a callable gets each event, from any thread, and must not block."""


# ── what the commands run ──


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
    started: float = field(default_factory=time.monotonic)

    async def result(self, work: Coroutine[Any, Any, R], cancel: Cancel, failure: Failure[R] | None) -> R:
        """Run to completion; any error becomes the result of a failed run."""
        try:
            return await until_cancelled(work, cancel)
        except ModelfetchError as error:
            found = error
        except (OSError, UnicodeEncodeError) as error:  # not handled where it occurred, such as a deleted folder
            found = fs.translate(error, self.root, doing="working in")
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
            return await work(session)

    return await run.result(main(), cancel, failure)


@contextlib.contextmanager
def _demo_hub(tier: str | None, settings: Settings, environ: Mapping[str, str]) -> Iterator[Settings]:
    """For the tier ``demo``, start a hub on loopback and return settings that use it like any mirror."""
    if tier != "demo":
        yield settings
        return
    from modelfetch.demo.tier import demo_environment

    with demo_environment() as overlay:
        yield Settings.from_env({**environ, **overlay})


async def run_pin(
    file: Path,
    options: Mapping[str, Any],
    *,
    check: bool,
    upgrade: Sequence[str],
    sink: Sink = discard,
    cancel: Cancel | None = None,
) -> PinResult:
    """Pin a manifest file, or check its pins. No `ModelfetchError` is raised: errors are in the report."""
    from modelfetch.pinning.run import Result, check_file, pin_file

    async def work(session: Session) -> PinResult:
        return await (check_file(file, session) if check else pin_file(file, session, upgrade=upgrade))

    def failure(errors: Sequence[ModelfetchError], *, tier: str | None, root: str, seconds: float) -> PinResult:
        return Result(report=failed(errors, tier=tier, root=root, seconds=seconds))

    return await run_session(
        lambda settings: parse_options({**options, "root": settings.cache_path()}),
        work,
        failure=failure,
        sink=sink,
        cancel=cancel,
    )


async def run_add(
    request: AddRequest, options: Mapping[str, Any], *, sink: Sink = discard, cancel: Cancel | None = None
) -> AddReport:
    """Add links to a manifest. No `ModelfetchError` is raised: errors are in the report."""
    from modelfetch.pinning.add import AddReport, add_links

    def failure(errors: Sequence[ModelfetchError], *, tier: str | None, root: str, seconds: float) -> AddReport:
        return AddReport(manifest=str(request.manifest), errors=tuple(errors), seconds=seconds)

    return await run_session(
        lambda settings: parse_options({**options, "root": settings.cache_path()}),
        lambda session: add_links(request, session),
        failure=failure,
        sink=sink,
        cancel=cancel,
    )


def fit_failed(
    errors: Sequence[ModelfetchError], *, tier: str | None, root: str = "", seconds: float = 0.0
) -> FitReport:
    """Return the report of an estimate that failed before it came to any model."""
    from modelfetch.fitting.types import FitReport

    return FitReport(tier=tier, usable=None, needed=0, services=(), errors=tuple(errors))


# ── the Python API ──


def _checked(values: type) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Callable[P, Coroutine[Any, Any, R]]]:
    """Return a decorator that raises TypeError for an unknown option or an argument of the wrong type.

    ``values`` is the TypedDict of the function's options.
    """

    def decorate(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        name = function.__name__.removesuffix("_async")

        @functools.wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> R:
            known = [*inspect.signature(function).parameters, *values.__annotations__]
            known.remove("options")
            for given, value in kwargs.items():
                if given not in known:
                    near = nearest(given, known)
                    text = f"did you mean {near!r}?" if near else f"help(modelfetch.{name}) lists the options"
                    raise TypeError(f"{name}() has no option {given!r}; {text}")
                if given in _EXPECTED and not _EXPECTED[given][1](value):
                    raise TypeError(f"{name}({given}={value!r:.80}): expected {_EXPECTED[given][0]}")
            return await function(*args, **kwargs)

        return call

    return decorate


def _is_path(value: object) -> bool:
    return isinstance(value, str | os.PathLike)


def _is_files(value: object) -> bool:
    return value is None or _is_path(value) or (isinstance(value, Sequence) and all(map(_is_path, value)))


def _is_progress(value: object) -> bool:
    return value is None or isinstance(value, bool) or callable(value)


_EXPECTED: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    "tier": ("a tier's name", lambda value: value is None or isinstance(value, str)),
    "manifest": ("a manifest file's path, or a list of them", _is_files),
    "progress": ("True, False, or a function of one event", _is_progress),
    "events": ("a function of one event", _is_progress),
    "cancel": ("a modelfetch.Cancel", lambda value: value is None or isinstance(value, Cancel)),
}
"""What arguments of these names must be, with their check."""


@_checked(OptionValues)
async def sync_async(
    *,
    tier: str | None = None,
    manifest: Files = None,
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    events: Sink | None = None,
    **options: Unpack[OptionValues],
) -> Report:
    """Make every model of a tier or manifest present, verified and in place.

    Args:
        tier: A tier's name, such as ``"16g"``.
        manifest: One or several manifest files instead.
        progress: True shows progress on stderr; a callable gets each event (`modelfetch.Event`), from any thread.
        cancel: Ends the call when it is set, from any thread or signal handler; partial work is kept.
        events: Older name of ``progress``.
        **options: See `modelfetch.OptionValues`.

    Returns:
        The report, also when it failed: see ``ok``, ``exit_code``, ``errors`` and ``raise_for_error()``. An invalid
        option is reported as a `UsageError`, an invalid manifest as a `ManifestError` with its ``problems``.

    Raises:
        TypeError: An option does not exist, or both ``tier`` and ``manifest`` are given.
    """
    return await _on_manifests(tier, manifest, options, sync_manifests, progress=events or progress, cancel=cancel)


def sync(
    *,
    tier: str | None = None,
    manifest: Files = None,
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    events: Sink | None = None,
    **options: Unpack[OptionValues],
) -> Report:
    """Make every model of a tier or manifest present, verified and in place, as `sync_async` does.

    Blocks; it also works where an event loop is running already, as in a notebook.
    """
    return run_anywhere(
        lambda: sync_async(tier=tier, manifest=manifest, progress=events or progress, cancel=cancel, **options)
    )


@_checked(OptionValues)
async def plan_async(
    *,
    tier: str | None = None,
    manifest: Files = None,
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    **options: Unpack[OptionValues],
) -> Report:
    """Report what `sync_async` would do, and every problem it can foresee, without downloading a file.

    Arguments and errors are those of `sync_async`.
    """

    async def work(manifests: Sequence[Manifest], session: Session) -> Report:
        return (await preview_manifests(manifests, session))[0]

    return await _on_manifests(tier, manifest, options, work, progress=progress, cancel=cancel)


def plan(
    *,
    tier: str | None = None,
    manifest: Files = None,
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    **options: Unpack[OptionValues],
) -> Report:
    """Report what `sync` would do, as `plan_async` does. Blocks."""
    return run_anywhere(lambda: plan_async(tier=tier, manifest=manifest, progress=progress, cancel=cancel, **options))


@_checked(OptionValues)
async def status_async(
    *,
    tier: str | None = None,
    manifest: Files = None,
    cancel: Cancel | None = None,
    **options: Unpack[OptionValues],
) -> Report:
    """Report what is ready, missing, changed or foreign, without network access.

    Arguments and errors are those of `sync_async`. ``exit_code`` is 1 if not everything is ready.
    """

    async def work(manifests: Sequence[Manifest], session: Session) -> Report:
        from modelfetch.pipeline.status import status_of

        return (await asyncio.to_thread(status_of, manifests, session))[0]

    return await _on_manifests(tier, manifest, options, work, cancel=cancel)


def status(
    *,
    tier: str | None = None,
    manifest: Files = None,
    cancel: Cancel | None = None,
    **options: Unpack[OptionValues],
) -> Report:
    """Report what is ready, missing, changed or foreign, as `status_async` does. Blocks."""
    return run_anywhere(lambda: status_async(tier=tier, manifest=manifest, cancel=cancel, **options))


@_checked(OptionValues)
async def verify_async(
    *,
    tier: str | None = None,
    manifest: Files = None,
    models: Sequence[str] = (),
    quick: bool = False,
    older_than: float | str | None = None,
    repair: bool = False,
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    **options: Unpack[OptionValues],
) -> Report:
    """Hash the files on disk again and report what is damaged, changed or missing.

    Args:
        tier: Only what this tier asks for; without tier and manifest, all that modelfetch placed or keeps.
        manifest: Only what these manifest files ask for.
        models: Only models of these names.
        quick: Compare size and time of change only.
        older_than: Hash only what was last checked longer ago, in seconds or as ``"30d"``.
        repair: Restore what is damaged, changed or missing; with ``models``, also what a service has rewritten.
        progress: True shows progress on stderr; a callable gets each event, from any thread.
        cancel: Ends the call when it is set, from any thread.
        **options: See `modelfetch.OptionValues`.

    Returns:
        The report; ``exit_code`` is 1 where something is damaged, changed or missing.

    Raises:
        TypeError: An option does not exist, or both ``tier`` and ``manifest`` are given.
    """
    started = time.monotonic()

    async def work(manifests: Sequence[Manifest], session: Session) -> Report:
        from modelfetch.care.repair import repair_files
        from modelfetch.care.verify import VerifyOptions, verification_report, verify_files

        age = parse_values({"older_than": older_than}).get("older_than")
        how = VerifyOptions(quick=quick, older_than=age, models=tuple(models))
        found = await asyncio.to_thread(verify_files, manifests, session, how)
        fetched = 0
        if repair:
            repaired = await repair_files(found, manifests, session, rewritten=bool(models))
            found, fetched = repaired.verification, repaired.bytes_fetched
        name = manifests[0].tier if manifests else None
        return verification_report(found, session, tier=name, started=started, bytes_fetched=fetched)

    return await _on_manifests(tier, manifest, options, work, progress=progress, cancel=cancel, may_be_unnamed=True)


def verify(
    *,
    tier: str | None = None,
    manifest: Files = None,
    models: Sequence[str] = (),
    quick: bool = False,
    older_than: float | str | None = None,
    repair: bool = False,
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    **options: Unpack[OptionValues],
) -> Report:
    """Hash the files on disk again and report what is damaged, changed or missing, as `verify_async` does. Blocks."""
    return run_anywhere(
        lambda: verify_async(
            tier=tier,
            manifest=manifest,
            models=models,
            quick=quick,
            older_than=older_than,
            repair=repair,
            progress=progress,
            cancel=cancel,
            **options,
        )
    )


@_checked(OptionValues)
async def prune_async(
    *,
    tier: str | None = None,
    manifest: Files = None,
    keep_tiers: Sequence[str] = (),
    older_than: float | str | None = None,
    dry_run: bool = False,
    cancel: Cancel | None = None,
    **options: Unpack[OptionValues],
) -> Report:
    """Remove the files that no chosen tier asks for, unused blobs and old unfinished downloads.

    Args:
        tier: What this tier asks for stays; without tier, manifest and ``keep_tiers``, every placed model stays.
        manifest: What these manifest files ask for stays.
        keep_tiers: What these tiers ask for stays as well.
        older_than: Remove only what is older, in seconds or as ``"30d"``.
        dry_run: Report what would be removed, and remove nothing.
        cancel: Ends the call when it is set, from any thread.
        **options: See `modelfetch.OptionValues`.

    Raises:
        TypeError: An option does not exist, or both ``tier`` and ``manifest`` are given.
    """
    started = time.monotonic()

    async def work(manifests: Sequence[Manifest], session: Session) -> Report:
        from modelfetch.care.prune import PruneOptions, prune_files, removal_report

        age = parse_values({"older_than": older_than}).get("older_than")
        how = PruneOptions(dry_run=dry_run, older_than=age, keep_tiers=tuple(keep_tiers))
        found = await asyncio.to_thread(prune_files, manifests, session, how, os.environ)
        return removal_report(found, session, tier=manifests[0].tier if manifests else None, started=started)

    return await _on_manifests(tier, manifest, options, work, cancel=cancel, may_be_unnamed=True)


def prune(
    *,
    tier: str | None = None,
    manifest: Files = None,
    keep_tiers: Sequence[str] = (),
    older_than: float | str | None = None,
    dry_run: bool = False,
    cancel: Cancel | None = None,
    **options: Unpack[OptionValues],
) -> Report:
    """Remove the files that no chosen tier asks for, as `prune_async` does. Blocks."""
    return run_anywhere(
        lambda: prune_async(
            tier=tier,
            manifest=manifest,
            keep_tiers=keep_tiers,
            older_than=older_than,
            dry_run=dry_run,
            cancel=cancel,
            **options,
        )
    )


@_checked(OptionValues)
async def remove_async(
    *names: str,
    keep_tiers: Sequence[str] = (),
    older_than: float | str | None = None,
    dry_run: bool = False,
    cancel: Cancel | None = None,
    **options: Unpack[OptionValues],
) -> Report:
    """Remove models by name: what modelfetch placed for them, and their bytes in the store.

    Args:
        *names: Names of models, as manifests have them.
        keep_tiers: What these tiers ask for stays.
        older_than: Remove only what is older, in seconds or as ``"30d"``.
        dry_run: Report what would be removed, and remove nothing.
        cancel: Ends the call when it is set, from any thread.
        **options: See `modelfetch.OptionValues`.

    Raises:
        TypeError: An option does not exist.
    """
    started = time.monotonic()

    async def work(_: Sequence[Manifest], session: Session) -> Report:
        from modelfetch.care.prune import PruneOptions, removal_report, remove_models

        age = parse_values({"older_than": older_than}).get("older_than")
        how = PruneOptions(dry_run=dry_run, older_than=age, keep_tiers=tuple(keep_tiers))
        found = await asyncio.to_thread(remove_models, names, session, how, os.environ)
        return removal_report(found, session, tier=None, started=started)

    return await _on_manifests(None, None, options, work, cancel=cancel, may_be_unnamed=True)


def remove(
    *names: str,
    keep_tiers: Sequence[str] = (),
    older_than: float | str | None = None,
    dry_run: bool = False,
    cancel: Cancel | None = None,
    **options: Unpack[OptionValues],
) -> Report:
    """Remove models by name, as `remove_async` does. Blocks."""
    return run_anywhere(
        lambda: remove_async(
            *names, keep_tiers=keep_tiers, older_than=older_than, dry_run=dry_run, cancel=cancel, **options
        )
    )


@_checked(OptionValues)
async def adopt_async(
    *folders: str | Path,
    in_place: bool = False,
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    **options: Unpack[OptionValues],
) -> Report:
    """Take models that are already on disk into the store, so that they are never downloaded again.

    Args:
        *folders: Folders of ComfyUI, AUTOMATIC1111, Forge, Stability Matrix, LM Studio, Ollama, Hugging Face caches.
        in_place: Only record where the files are, for `sync` to copy from.
        progress: True shows progress on stderr; a callable gets each event, from any thread.
        cancel: Ends the call when it is set, from any thread.
        **options: See `modelfetch.OptionValues`.

    Raises:
        TypeError: An option does not exist.
    """
    started = time.monotonic()

    async def work(_: Sequence[Manifest], session: Session) -> Report:
        from modelfetch.care.adopt import adopt_folders, adoption_report

        paths = [Path(folder) for folder in folders]
        found = await asyncio.to_thread(adopt_folders, paths, session, in_place=in_place)
        return adoption_report(found, session, started=started)

    return await _on_manifests(None, None, options, work, progress=progress, cancel=cancel, may_be_unnamed=True)


def adopt(
    *folders: str | Path,
    in_place: bool = False,
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    **options: Unpack[OptionValues],
) -> Report:
    """Take models that are already on disk into the store, as `adopt_async` does. Blocks."""
    return run_anywhere(lambda: adopt_async(*folders, in_place=in_place, progress=progress, cancel=cancel, **options))


@_checked(OptionValues)
async def fit_async(
    uri: str | None = None,
    *,
    tier: str | None = None,
    manifest: Files = None,
    context: int | None = None,
    parallel: int | None = None,
    kv_type: str | None = None,
    flash_attention: bool | None = None,
    usable: int | str | None = None,
    cancel: Cancel | None = None,
    **options: Unpack[OptionValues],
) -> FitReport:
    """Estimate the VRAM that a model, or all models of a tier or manifest, need, from the headers of their files.

    Args:
        uri: One model: a URI, a file or a folder.
        tier: A tier's name instead.
        manifest: One or several manifest files instead.
        context: Tokens of one conversation, over what the manifest gives.
        parallel: Requests that are answered at once.
        kv_type: Type of the key-value cache: ``f16``, ``q8_0`` or ``q4_0``.
        flash_attention: Whether language models run with flash attention.
        usable: VRAM that may be used, in bytes or as ``"15GiB"``.
        cancel: Ends the call when it is set, from any thread.
        **options: See `modelfetch.OptionValues`.

    Returns:
        The verdict: ``ok``, ``needed`` and ``usable`` in bytes, ``services``, ``errors``.

    Raises:
        TypeError: An option does not exist, or more than one of ``uri``, ``tier`` and ``manifest`` is given.
    """
    from modelfetch.fitting import Asked, fit_manifests, fit_uri

    if uri is not None and (tier is not None or manifest):
        raise TypeError("fit takes one of uri, tier and manifest")
    given = {"context": context, "parallel": parallel, "kv_type": kv_type, "flash_attention": flash_attention}
    try:
        asked = Asked(**parse_values({**given, "usable": usable}))
        chosen = parse_options(options)
    except UsageError as error:
        return fit_failed([error], tier=tier)
    if uri is None:
        return await _on_manifests(
            tier,
            manifest,
            options,
            lambda manifests, session: fit_manifests(manifests, session, asked),
            cancel=cancel,
            failure=fit_failed,
        )
    return await run_session(
        lambda _: chosen, lambda session: fit_uri(uri, session, asked), cancel=cancel, failure=fit_failed
    )


def fit(
    uri: str | None = None,
    *,
    tier: str | None = None,
    manifest: Files = None,
    context: int | None = None,
    parallel: int | None = None,
    kv_type: str | None = None,
    flash_attention: bool | None = None,
    usable: int | str | None = None,
    cancel: Cancel | None = None,
    **options: Unpack[OptionValues],
) -> FitReport:
    """Estimate the VRAM that a model, or all models of a tier or manifest, need, as `fit_async` does. Blocks."""
    return run_anywhere(
        lambda: fit_async(
            uri,
            tier=tier,
            manifest=manifest,
            context=context,
            parallel=parallel,
            kv_type=kv_type,
            flash_attention=flash_attention,
            usable=usable,
            cancel=cancel,
            **options,
        )
    )


@_checked(PinValues)
async def pin_async(
    manifest: str | Path,
    *,
    check: bool = False,
    upgrade: str | Sequence[str] = (),
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    **options: Unpack[PinValues],
) -> Report:
    """Resolve revision, size and digest of everything a manifest leaves open, and write them into the file.

    Args:
        manifest: The file; comments, order and layout are kept. Either all pins are written or none.
        check: Write nothing; ``exit_code`` is 1 where a pin is missing or behind upstream.
        upgrade: Models whose pins move to what upstream has now.
        progress: As for `sync_async`.
        cancel: As for `sync_async`.
        **options: See `modelfetch.PinValues`.

    Returns:
        The report, also when it failed.

    Raises:
        TypeError: An option does not exist.
    """
    names = (upgrade,) if isinstance(upgrade, str) else tuple(upgrade)
    with _listening(progress, cancel) as (sink, scope):
        result = await run_pin(Path(manifest), options, check=check, upgrade=names, sink=sink, cancel=scope)
    return result.report


def pin(
    manifest: str | Path,
    *,
    check: bool = False,
    upgrade: str | Sequence[str] = (),
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    **options: Unpack[PinValues],
) -> Report:
    """Resolve what a manifest leaves open and write it into the file, as `pin_async` does. Blocks."""
    return run_anywhere(
        lambda: pin_async(manifest, check=check, upgrade=upgrade, progress=progress, cancel=cancel, **options)
    )


@_checked(PinValues)
async def add_async(
    links: str | Sequence[str],
    *,
    manifest: str | Path = "models.yaml",
    kind: str | None = None,
    consumers: Sequence[str] = (),
    name: str | None = None,
    dry_run: bool = False,
    choose: Choose | None = None,
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    **options: Unpack[PinValues],
) -> AddReport:
    """Resolve links, tell what kind of model each is, pin it, and append its entry to a manifest.

    Args:
        links: One or several links or URIs.
        manifest: The file, made when it is missing; comments, order and layout are kept. Either all entries are
            written or none.
        kind: The kind of all of them, such as ``"lora"`` (default: told by each file's header and its hub).
        consumers: The services that they are for (default: those that can load them).
        name: The entry's name, where there is one link.
        dry_run: Write nothing.
        choose: Called with a question and its answers where something can't be told; returns one of the answers.
            Without it that is an error whose hint names the answers.
        progress: As for `sync_async`.
        cancel: As for `sync_async`.
        **options: See `modelfetch.PinValues`.

    Returns:
        The report, also when it failed: each link's entry, and what `fit` says of it.

    Raises:
        TypeError: An option does not exist.
    """
    from modelfetch.pinning.add import AddRequest

    request = AddRequest(
        links=(links,) if isinstance(links, str) else tuple(links),
        manifest=Path(manifest),
        kind=kind,
        consumers=tuple(consumers),
        name=name,
        dry_run=dry_run,
        choose=choose,
    )
    with _listening(progress, cancel) as (sink, scope):
        return await run_add(request, options, sink=sink, cancel=scope)


def add(
    links: str | Sequence[str],
    *,
    manifest: str | Path = "models.yaml",
    kind: str | None = None,
    consumers: Sequence[str] = (),
    name: str | None = None,
    dry_run: bool = False,
    choose: Choose | None = None,
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    **options: Unpack[PinValues],
) -> AddReport:
    """Resolve links, pin them and append their entries to a manifest, as `add_async` does. Blocks."""
    return run_anywhere(
        lambda: add_async(
            links,
            manifest=manifest,
            kind=kind,
            consumers=consumers,
            name=name,
            dry_run=dry_run,
            choose=choose,
            progress=progress,
            cancel=cancel,
            **options,
        )
    )


@_checked(FetchValues)
async def retrieve_async(
    uri: str,
    digest: str | Digest | None = None,
    *,
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    events: Sink | None = None,
    **options: Unpack[FetchValues],
) -> Path:
    """Download one file into the user's cache and verify it; the next call finds it there and sends no request.

    Args:
        uri: Any URI that a manifest may name, of a single file.
        digest: What its bytes must be, ``sha256:…`` or ``blake3:…``; None accepts what comes and remembers it.
        progress: As for `sync_async`.
        cancel: As for `sync_async`.
        events: Older name of ``progress``.
        **options: See `modelfetch.FetchValues`.

    Returns:
        The path of the file, read-only, under its upstream name.

    Raises:
        ModelfetchError: As the subclass says; see `modelfetch.errors`.
        ValueError: ``digest`` is invalid.
        TypeError: An option does not exist.
    """
    from modelfetch.pipeline.retrieve import as_digest, as_uri, into_cache

    settings = Settings.from_env()
    chosen = parse_options({**options, "root": settings.cache_path()})
    with _listening(events or progress, cancel) as (sink, scope):
        async with Session(chosen, settings, sink=sink, cancel=scope) as session:
            work = into_cache(session, as_uri(uri, settings), as_digest(digest))
            return (await until_cancelled(work, scope)).path


def retrieve(
    uri: str,
    digest: str | Digest | None = None,
    *,
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    events: Sink | None = None,
    **options: Unpack[FetchValues],
) -> Path:
    """Download one file into the user's cache and verify it, as `retrieve_async` does. Blocks."""
    return run_anywhere(lambda: retrieve_async(uri, digest, progress=events or progress, cancel=cancel, **options))


async def _on_manifests(
    tier: str | None,
    manifest: Files,
    options: Mapping[str, Any],
    work: Callable[[Sequence[Manifest], Session], Coroutine[Any, Any, R]],
    *,
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    failure: Failure[R] | None = None,
    may_be_unnamed: bool = False,
) -> R:
    files = [manifest] if isinstance(manifest, (str, Path)) else list(manifest or ())
    if tier is not None and files:
        raise TypeError("either tier or manifest, not both")
    try:
        request = Request(
            options=parse_options(options),
            tier=tier,
            manifests=tuple(Path(file) for file in files),
            may_be_unnamed=may_be_unnamed,
        )
    except UsageError as error:
        make = failure or cast("Failure[R]", failed)
        return make([error], tier=tier, root=str(options.get("root") or DEFAULT_ROOT), seconds=0.0)
    with _listening(progress, cancel) as (sink, scope):
        return await run_manifests(request, work, failure=failure, sink=sink, cancel=scope)


@contextlib.contextmanager
def _listening(progress: ProgressOption, cancel: Cancel | None) -> Iterator[tuple[Sink, Cancel]]:
    """Return the sink for a caller's ``progress``, and a child scope of ``cancel``, cancelled if a callable raises."""
    scope = Cancel(cancel)
    if progress is True:
        from modelfetch.render.progress import make_progress

        with contextlib.closing(make_progress("auto", verbose=False, quiet=False)) as renderer:
            yield renderer, scope
        return
    listener = _Listener(progress or discard, scope)
    yield listener, scope
    if listener.error is not None:
        raise listener.error


class _Listener:
    """Calls the caller's function with each event; its first exception cancels the work and is raised afterwards."""

    def __init__(self, call: Callable[[Event], object], scope: Cancel) -> None:
        self._call = call
        self._scope = scope
        self.error: Exception | None = None

    def __call__(self, event: Event) -> None:
        if self.error is None:
            try:
                self._call(event)
            except Exception as error:
                self.error = error
                self._scope.set()
