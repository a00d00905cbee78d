"""Pin a manifest's file, or compare its pins with upstream."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from modelfetch.core.events import Sink, discard
from modelfetch.core.report import failed
from modelfetch.errors import ModelfetchError, PinMismatchError, unusable_value
from modelfetch.pinning.document import Document, check_writable, read_document, with_pins, write_document
from modelfetch.pinning.entry import PinEntry, PinState, display_pin, display_upstream, fill_pins
from modelfetch.pinning.reporting import PinStatus, checked_model, kept_model, open_model, pinned_model
from modelfetch.pinning.upstream import check_entries, measure_all, resolve_entries
from modelfetch.pipeline.run import in_cache, run_session
from modelfetch.sources.factory import canonical_uri

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from modelfetch.core.artifact import Resolution
    from modelfetch.core.cancel import Cancel
    from modelfetch.core.report import ModelReport, Report
    from modelfetch.manifest.model import Model
    from modelfetch.pinning.entry import Measured
    from modelfetch.pipeline.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The report, a line for each model of the file, and whether the file was written."""

    report: Report
    lines: tuple[PinStatus, ...] = ()
    written: bool = False


async def run_pin(
    file: Path,
    options: Mapping[str, Any],
    *,
    check: bool,
    upgrade: Sequence[str],
    upgrade_variable: str | None = None,
    sink: Sink = discard,
    cancel: Cancel | None = None,
) -> Result:
    """Pin a manifest file, or check its pins. No `ModelfetchError` is raised: errors are in the report.

    ``upgrade_variable``: the environment variable that gave ``upgrade``; None if the caller did.
    """

    async def work(session: Session) -> Result:
        if check:
            return await check_file(file, session)
        return await pin_file(file, session, upgrade=upgrade, upgrade_variable=upgrade_variable)

    def failure(errors: Sequence[ModelfetchError], *, tier: str | None, root: str, seconds: float) -> Result:
        return Result(report=failed(errors, tier=tier, root=root, seconds=seconds))

    return await run_session(in_cache(options), work, failure=failure, sink=sink, cancel=cancel)


async def pin_file(
    path: Path, session: Session, *, upgrade: Sequence[str] = (), upgrade_variable: str | None = None
) -> Result:
    """Resolve what a manifest's file leaves open and write it there; all of it, or nothing.

    Existing pins are kept, except those of the models that ``upgrade`` names: they move to what upstream has now. Files
    that this one extends are left alone.

    Raises:
        ManifestError: The file can't be read or is no valid manifest.
        UsageError: ``upgrade`` names a model that the file does not hold; a SettingError if a variable does.
        DestinationError, DiskError: It can't be written; it is unchanged.
        SettingError: Its text can't be changed in its pins alone; it is unchanged.
    """
    document = await asyncio.to_thread(read_document, path, session.settings)
    entries = _entries(document, session, upgrade, variable=upgrade_variable)
    todo = [entry for entry in entries if entry.upgrade or not entry.complete]
    if not todo:
        return Result(report=_report(document, session, [kept_model(e) for e in entries]))
    await asyncio.to_thread(check_writable, document)

    found = await resolve_entries(todo, session)
    resolutions = {e.model.name: r for e, r in zip(todo, found, strict=True) if not isinstance(r, ModelfetchError)}
    errors = [_with_hint(error) for error in found if isinstance(error, ModelfetchError)]
    measured: dict[str, Mapping[str, Measured]] = {}
    if not errors:
        results = await measure_all(todo, list(resolutions.values()), session)
        measured = {e.model.name: m for e, m in zip(todo, results, strict=True) if not isinstance(m, ModelfetchError)}
        errors = [error for error in results if isinstance(error, ModelfetchError)]

    models = {} if errors else _filled(todo, resolutions, measured)
    written = bool(models) and await _write(document, models, session)
    return _pinned(document, session, entries, resolutions, measured, models, errors, written=written)


async def check_file(path: Path, session: Session) -> Result:
    """Compare the pins of a manifest's file with upstream; nothing is written and no body is fetched.

    Raises:
        ManifestError: The file can't be read or is no valid manifest.
    """
    document = await asyncio.to_thread(read_document, path, session.settings)
    entries = _entries(document, session, ())
    found = await check_entries(entries, session)
    errors = [error for error in found if isinstance(error, ModelfetchError)]
    models: list[ModelReport] = []
    lines: list[PinStatus] = []
    stale = False
    for entry, compared in zip(entries, found, strict=True):
        state, now = (None, None) if isinstance(compared, ModelfetchError) else compared
        stale = stale or state in (PinState.BEHIND, PinState.UNPINNED)
        models.append(checked_model(entry, state, now))
        upstream = "unknown" if now is None else display_upstream(now)
        if state is PinState.CURRENT and now is None:
            upstream = display_pin(entry)
        lines.append(
            PinStatus(model=entry.model.name, state=state or "failed", pinned=display_pin(entry), upstream=upstream)
        )
    report = _report(document, session, models, errors, is_bad=stale)
    return Result(report=report, lines=tuple(lines))


def _entries(
    document: Document, session: Session, upgrade: Sequence[str], *, variable: str | None = None
) -> list[PinEntry]:
    names = [model.name for model in document.models]
    for name in upgrade:
        if name not in names:
            elsewhere = next((m.position.file for m in document.manifest.models if m.name == name), None)
            hint = f"it is in {elsewhere}: pin that file" if elsewhere else f"it holds: {', '.join(names) or 'none'}"
            message = f"{document.path} holds no model {name[:80]!r}"
            raise unusable_value(message, variable=variable, hint=hint)
    return [
        PinEntry(model=model, home=canonical_uri(model.source, session.settings), upgrade=model.name in upgrade)
        for model in document.models
    ]


def _with_hint(error: ModelfetchError) -> ModelfetchError:
    """Add a hint to an error about a pin that upstream contradicts: only `--upgrade` moves it."""
    if isinstance(error, PinMismatchError):
        error.hint = f"the pin is kept; `--upgrade {error.model}` replaces it"
    return error


def _filled(
    todo: Sequence[PinEntry], resolutions: Mapping[str, Resolution], measured: Mapping[str, Mapping[str, Measured]]
) -> dict[str, Model]:
    return {e.model.name: fill_pins(e, resolutions[e.model.name], measured[e.model.name]) for e in todo}


async def _write(document: Document, models: Mapping[str, Model], session: Session) -> bool:
    data = await asyncio.to_thread(with_pins, document, models, session.settings)
    if data == document.data:
        return False
    session.cancel.check()
    await asyncio.to_thread(write_document, document, data)
    return True


def _pinned(
    document: Document,
    session: Session,
    entries: Sequence[PinEntry],
    resolutions: Mapping[str, Resolution],
    measured: Mapping[str, Mapping[str, Measured]],
    models: Mapping[str, Model],
    errors: Sequence[ModelfetchError],
    *,
    written: bool,
) -> Result:
    """Make the report, and a line for each entry that changed."""
    reports: list[ModelReport] = []
    lines: list[PinStatus] = []
    failures = {error.model for error in errors}
    for entry in entries:
        name = entry.model.name
        if name in models:
            after = replace(entry, model=models[name], home=canonical_uri(models[name].source, session.settings))
            reports.append(pinned_model(after, resolutions[name], measured[name]))
            if after.model != entry.model:
                state = "moved" if entry.pinned and entry.upgrade else "pinned"
                lines.append(PinStatus(model=name, state=state, pinned=display_pin(entry), upstream=display_pin(after)))
        elif entry.upgrade or not entry.complete:
            reports.append(open_model(entry, failed=name in failures, measured=measured.get(name, {})))
        else:
            reports.append(kept_model(entry))
    report = _report(document, session, reports, errors)
    return Result(report=report, lines=tuple(lines), written=written)


def _report(
    document: Document,
    session: Session,
    models: Sequence[ModelReport],
    errors: Sequence[ModelfetchError] = (),
    *,
    is_bad: bool = False,
) -> Report:
    received = {a.uri: a.bytes_fetched for model in models for a in model.artifacts}  # two may share a transfer
    return session.report(
        models, errors, manifests=[document.manifest], is_bad=is_bad, bytes_fetched=sum(received.values())
    )
