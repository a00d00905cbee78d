"""The functions of `import modelfetch`: they take options and return a report.

Each is written as a coroutine function; `blocking` makes the form for programs without an event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from modelfetch.config.arguments import checked
from modelfetch.config.options import (
    FetchValues,
    Options,
    OptionValues,
    PinValues,
    parse_options,
    parse_values,
)
from modelfetch.config.settings import Settings
from modelfetch.core.cancel import Cancel
from modelfetch.core.events import Event, Sink, discard
from modelfetch.core.report import Report, failed
from modelfetch.core.threads import blocking, until_cancelled
from modelfetch.errors import InterruptedSync, UsageError
from modelfetch.pipeline.run import Request, run_manifests
from modelfetch.pipeline.session import Session
from modelfetch.pipeline.sync import preview_manifests, sync_manifests

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from typing import TypeAlias, Unpack

    from modelfetch.core.digest import Digest
    from modelfetch.fitting.types import FitReport
    from modelfetch.manifest.model import Manifest
    from modelfetch.pinning.types import AddReport, Choose
    from modelfetch.pipeline.run import Failure

    Files: TypeAlias = str | Path | Sequence[str | Path] | None
    """One or several manifest files."""

R = TypeVar("R")

ProgressOption = bool | Callable[[Event], object]
"""True shows progress on stderr; a callable gets each event, from any thread, and must not block."""


@checked(OptionValues)
async def sync_async(
    *,
    tier: str | None = None,
    manifest: Files = None,
    prune: bool = False,
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    events: Sink | None = None,
    **options: Unpack[OptionValues],
) -> Report:
    """Make every model of a tier or manifest present, verified and in place.

    Args:
        tier: A tier's name, such as ``"16g"``.
        manifest: One or several manifest files instead.
        prune: After success, remove the files that none of these manifests lists.
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

    async def work(manifests: Sequence[Manifest], session: Session) -> Report:
        report = await sync_manifests(manifests, session)
        if not (prune and report.ok):
            return report
        from modelfetch.care.prune import prune_after_sync

        return (await asyncio.to_thread(prune_after_sync, manifests, session, report, os.environ))[0]

    return await _on_manifests(tier, manifest, options, work, progress=events or progress, cancel=cancel)


sync = blocking(sync_async)
"""Blocking form of `sync_async`."""


@checked(OptionValues)
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


plan = blocking(plan_async)
"""Blocking form of `plan_async`."""


@checked(OptionValues)
async def status_async(
    *,
    tier: str | None = None,
    manifest: Files = None,
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    **options: Unpack[OptionValues],
) -> Report:
    """Report what is ready, missing, changed or foreign, without network access.

    Arguments and errors are those of `sync_async`. ``exit_code`` is 1 if not everything is ready.
    """

    async def work(manifests: Sequence[Manifest], session: Session) -> Report:
        from modelfetch.pipeline.status import status_of

        return (await asyncio.to_thread(status_of, manifests, session))[0]

    return await _on_manifests(tier, manifest, options, work, progress=progress, cancel=cancel)


status = blocking(status_async)
"""Blocking form of `status_async`."""


@checked(OptionValues)
async def verify_async(
    *,
    tier: str | None = None,
    manifest: Files = None,
    models: str | Sequence[str] = (),
    quick: bool = False,
    older_than: float | str | None = None,
    repair: bool = False,
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    **options: Unpack[OptionValues],
) -> Report:
    """Hash the files on disk again and report what is damaged, changed or missing.

    Args:
        tier: Only the files of this tier; without tier and manifest, all that modelfetch placed or keeps.
        manifest: Only the files of these manifests.
        models: Only models of these names.
        quick: Compare only size and modification time.
        older_than: Hash only what was last checked longer ago, in seconds or as ``"30d"``.
        repair: Restore what is damaged, changed or missing; with ``models``, also what a service has rewritten.
        progress: True shows progress on stderr; a callable gets each event, from any thread.
        cancel: Ends the call when it is set, from any thread.
        **options: See `modelfetch.OptionValues`.

    Returns:
        The report; ``exit_code`` is 1 if something is damaged, changed or missing.

    Raises:
        TypeError: An option does not exist, or both ``tier`` and ``manifest`` are given.
    """

    async def work(manifests: Sequence[Manifest], session: Session) -> Report:
        from modelfetch.care.repair import check_files
        from modelfetch.care.verify import VerifyOptions

        how = VerifyOptions(quick=quick, older_than=_age(older_than), models=_texts(models))
        return (await check_files(manifests, session, how, repair=repair))[0]

    return await _on_manifests(tier, manifest, options, work, progress=progress, cancel=cancel, may_be_unnamed=True)


verify = blocking(verify_async)
"""Blocking form of `verify_async`."""


@checked(OptionValues)
async def prune_async(
    *,
    tier: str | None = None,
    manifest: Files = None,
    keep_tiers: str | Sequence[str] = (),
    older_than: float | str | None = None,
    dry_run: bool = False,
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    **options: Unpack[OptionValues],
) -> Report:
    """Remove the files of models in no chosen tier, unused blobs and old unfinished downloads.

    Args:
        tier: Keep the files of this tier; without tier, manifest and ``keep_tiers``, every placed model stays.
        manifest: Keep the files of these manifests.
        keep_tiers: Keep the files of these tiers as well.
        older_than: Remove only what is older, in seconds or as ``"30d"``.
        dry_run: Report what would be removed, and remove nothing.
        progress: As for `sync_async`.
        cancel: Ends the call when it is set, from any thread.
        **options: See `modelfetch.OptionValues`.

    Raises:
        TypeError: An option does not exist, or both ``tier`` and ``manifest`` are given.
    """

    async def work(manifests: Sequence[Manifest], session: Session) -> Report:
        from modelfetch.care.prune import PruneOptions, prune_files

        how = PruneOptions(dry_run=dry_run, older_than=_age(older_than), keep_tiers=_texts(keep_tiers))
        return (await asyncio.to_thread(prune_files, manifests, session, how, os.environ))[0]

    return await _on_manifests(tier, manifest, options, work, progress=progress, cancel=cancel, may_be_unnamed=True)


prune = blocking(prune_async)
"""Blocking form of `prune_async`."""


@checked(OptionValues)
async def remove_async(
    *names: str | Sequence[str],
    keep_tiers: str | Sequence[str] = (),
    older_than: float | str | None = None,
    dry_run: bool = False,
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    **options: Unpack[OptionValues],
) -> Report:
    """Remove models by name: what modelfetch placed for them, and their bytes in the store.

    Args:
        *names: Names of models, as manifests have them, each as an argument or together in a list.
        keep_tiers: Keep the files of these tiers.
        older_than: Remove only what is older, in seconds or as ``"30d"``.
        dry_run: Report what would be removed, and remove nothing.
        progress: As for `sync_async`.
        cancel: Ends the call when it is set, from any thread.
        **options: See `modelfetch.OptionValues`.

    Raises:
        TypeError: An option does not exist.
    """

    async def work(_: Sequence[Manifest], session: Session) -> Report:
        from modelfetch.care.prune import PruneOptions, remove_models

        how = PruneOptions(dry_run=dry_run, older_than=_age(older_than), keep_tiers=_texts(keep_tiers))
        given = [str(name) for name in _flat(names)]
        if not given:
            raise UsageError("no model was named", hint="`modelfetch list` shows their names")
        return (await asyncio.to_thread(remove_models, given, session, how, os.environ))[0]

    return await _on_manifests(None, None, options, work, progress=progress, cancel=cancel, may_be_unnamed=True)


remove = blocking(remove_async)
"""Blocking form of `remove_async`."""


@checked(OptionValues)
async def adopt_async(
    *folders: str | Path | Sequence[str | Path],
    in_place: bool = False,
    dedupe: bool = False,
    dry_run: bool | None = None,
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    **options: Unpack[OptionValues],
) -> Report:
    """Take models that are already on disk into the store, so that they are never downloaded again.

    Args:
        *folders: Folders of ComfyUI, AUTOMATIC1111, Forge, Stability Matrix, LM Studio, Ollama, Hugging Face caches,
            each as an argument or together in a list.
        in_place: Only record where the files are, for `sync` to copy from.
        dedupe: Instead, replace identical files in these folders with links to one blob.
        dry_run: With ``dedupe``: only report what would be linked, unless this is False.
        progress: True shows progress on stderr; a callable gets each event, from any thread.
        cancel: Ends the call when it is set, from any thread.
        **options: See `modelfetch.OptionValues`.

    Raises:
        TypeError: An option does not exist.
    """

    async def work(_: Sequence[Manifest], session: Session) -> Report:
        from modelfetch.care.adopt import adopt_folders
        from modelfetch.care.dedupe import dedupe_folders

        paths = [Path(folder) for folder in _flat(folders)]
        if not paths:
            raise UsageError("no folder was named", hint="help(modelfetch.adopt) lists the arguments")
        if dedupe:
            return (await asyncio.to_thread(dedupe_folders, paths, session, apply=dry_run is False))[0]
        return (await asyncio.to_thread(adopt_folders, paths, session, in_place=in_place))[0]

    return await _on_manifests(None, None, options, work, progress=progress, cancel=cancel, may_be_unnamed=True)


adopt = blocking(adopt_async)
"""Blocking form of `adopt_async`."""


@checked(OptionValues)
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
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    **options: Unpack[OptionValues],
) -> FitReport:
    """Estimate the VRAM that a model, or all models of a tier or manifest, need, from the headers of their files.

    Args:
        uri: One model: a URI, a file or a folder.
        tier: A tier's name instead.
        manifest: One or several manifest files instead.
        context: Context length in tokens; overrides the manifest.
        parallel: Requests that are answered at once.
        kv_type: Type of the key-value cache: ``f16``, ``q8_0`` or ``q4_0``.
        flash_attention: Whether language models run with flash attention.
        usable: VRAM that may be used, in bytes or as ``"15GiB"``.
        progress: As for `sync_async`.
        cancel: Ends the call when it is set, from any thread.
        **options: See `modelfetch.OptionValues`.

    Returns:
        The verdict: ``ok``, ``needed`` and ``usable`` in bytes, ``services``, ``errors``.

    Raises:
        TypeError: An option does not exist, or more than one of ``uri``, ``tier`` and ``manifest`` is given.
    """
    from modelfetch.fitting import FitOverrides, fit_failed, fit_manifests, run_fit

    if uri is not None and (tier is not None or manifest):
        raise TypeError("fit takes one of uri, tier and manifest")
    given = {"context": context, "parallel": parallel, "kv_type": kv_type, "flash_attention": flash_attention}
    try:
        overrides = FitOverrides(**parse_values({**given, "usable": usable}))
    except UsageError as error:
        return fit_failed([error], tier=tier)
    if uri is not None:
        with _listening(progress, cancel) as (sink, scope):
            return await run_fit(uri, options, overrides, sink=sink, cancel=scope)
    work = partial(fit_manifests, overrides=overrides)
    return await _on_manifests(tier, manifest, options, work, progress=progress, cancel=cancel, failure=fit_failed)


fit = blocking(fit_async)
"""Blocking form of `fit_async`."""


@checked(PinValues)
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
        check: Write nothing; ``exit_code`` is 1 if a pin is missing or behind upstream.
        upgrade: Models whose pins are updated to what upstream has now.
        progress: As for `sync_async`.
        cancel: As for `sync_async`.
        **options: See `modelfetch.PinValues`.

    Returns:
        The report, also when it failed.

    Raises:
        TypeError: An option does not exist.
    """
    from modelfetch.pinning.run import run_pin

    with _listening(progress, cancel) as (sink, scope):
        result = await run_pin(Path(manifest), options, check=check, upgrade=_texts(upgrade), sink=sink, cancel=scope)
    return result.report


pin = blocking(pin_async)
"""Blocking form of `pin_async`."""


@checked(PinValues)
async def add_async(
    links: str | Sequence[str],
    *,
    manifest: str | Path = "models.yaml",
    kind: str | None = None,
    consumers: str | Sequence[str] = (),
    name: str | None = None,
    dry_run: bool = False,
    choose: Choose | None = None,
    progress: ProgressOption = False,
    cancel: Cancel | None = None,
    **options: Unpack[PinValues],
) -> AddReport:
    """Resolve links, detect the kind of each model, pin it, and append its entry to a manifest.

    Args:
        links: One or several links or URIs.
        manifest: The file, created if it is missing; comments, order and layout are kept. Either all entries are
            written or none.
        kind: The kind of all of them, such as ``"lora"`` (default: detected from each file's header and its hub).
        consumers: The services that they are for (default: those that can load them).
        name: The entry's name, if there is only one link.
        dry_run: Write nothing.
        choose: Called with a question and its answers if something can't be detected; returns one of the answers.
            Without it that is an error whose hint names the answers.
        progress: As for `sync_async`.
        cancel: As for `sync_async`.
        **options: See `modelfetch.PinValues`.

    Returns:
        The report, also when it failed: each link's entry, and its estimate by `fit`.

    Raises:
        TypeError: An option does not exist.
    """
    from modelfetch.pinning.add import run_add
    from modelfetch.pinning.types import AddRequest

    request = AddRequest(
        links=_texts(links),
        manifest=Path(manifest),
        kind=kind,
        consumers=_texts(consumers),
        name=name,
        dry_run=dry_run,
        choose=choose,
    )
    with _listening(progress, cancel) as (sink, scope):
        return await run_add(request, options, sink=sink, cancel=scope)


add = blocking(add_async)
"""Blocking form of `add_async`."""


@checked(FetchValues)
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
        digest: The expected digest, ``sha256:…`` or ``blake3:…``; None accepts any content and records its digest.
        progress: As for `sync_async`.
        cancel: As for `sync_async`.
        events: Older name of ``progress``.
        **options: See `modelfetch.FetchValues`.

    Returns:
        The path of the file, read-only, under its upstream name.

    Raises:
        ModelfetchError: The subclass shows what failed; see `modelfetch.errors`.
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


retrieve = blocking(retrieve_async)
"""Blocking form of `retrieve_async`."""


def _age(older_than: float | str | None) -> float | None:
    """Parse an age; raises UsageError."""
    age: float | None = parse_values({"older_than": older_than}).get("older_than")
    return age


def _texts(value: str | Sequence[str]) -> tuple[str, ...]:
    """One or several texts."""
    return (value,) if isinstance(value, str) else tuple(value)


def _flat(values: Sequence[str | Path | Sequence[str | Path]]) -> Iterator[str | Path]:
    """The values, with the items of lists in place of the lists."""
    for value in values:
        if isinstance(value, str | os.PathLike):
            yield value
        else:
            yield from value


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
        return make([error], tier=tier, root=str(options.get("root") or Options().root), seconds=0.0)
    with _listening(progress, cancel) as (sink, scope):
        return await run_manifests(request, work, failure=failure, sink=sink, cancel=scope)


@contextlib.contextmanager
def _listening(progress: ProgressOption, cancel: Cancel | None) -> Iterator[tuple[Sink, Cancel]]:
    """Return the sink for a caller's ``progress``, and a child scope of ``cancel``, cancelled if a callable raises."""
    scope = Cancel(cancel)
    listener = _Listener(progress if callable(progress) else discard, scope)
    try:
        if progress is True:
            from modelfetch.render.renderers import make_progress

            with contextlib.closing(make_progress("auto", verbose=False, quiet=False)) as renderer:
                yield renderer, scope
        else:
            yield listener, scope
    except InterruptedSync:
        if listener.error is None:
            raise
    finally:
        scope.release()
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
