"""What the commands share: from click's values to a request, signals, and showing the report."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from click.core import ParameterSource

from modelfetch.cli.options import EnvOption
from modelfetch.core.cancel import Cancel
from modelfetch.core.events import Notice
from modelfetch.errors import SettingError, UsageError
from modelfetch.render.errors import show_errors
from modelfetch.render.out import put
from modelfetch.render.progress import make_progress

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    import click

    from modelfetch.api import Request
    from modelfetch.core.events import Event
    from modelfetch.core.report import Report
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.session import Session

WARNED = "modelfetch.warned"
"""The key of a context's ``meta`` that is set once a person was warned of something."""

_SIGNALS = {
    signal.SIGINT: partial(Cancel.set, code="interrupted", exit_code=130),
    signal.SIGTERM: partial(Cancel.set, code="terminated", exit_code=143),
}


def request_from(ctx: click.Context) -> Request:
    """The request that a command's values make."""
    from modelfetch.api import Request
    from modelfetch.config.options import Options

    values = ctx.params
    tier, variable, manifests = which(ctx)
    options = Options(
        root=Path(values["root"]),
        store=Path(values["store"]) if values.get("store") else None,
        consumers=tuple(dict.fromkeys(values.get("consumers", ()))),
        offline=values.get("offline", False),
        refresh=values.get("refresh", False),
        require_digests=values.get("require_digests", False),
        keep_going=values.get("keep_going", False),
        jobs=values.get("jobs", 4),
        connections=values.get("connections", 8),
        limit_rate=values.get("limit_rate"),
        retries=values.get("retries", 5),
        lock_timeout=values.get("lock_timeout"),
        chown=values.get("chown") or _owner(os.environ),
    )
    return Request(options=options, tier=tier, manifests=manifests, tier_variable=variable)


def which(ctx: click.Context) -> tuple[str | None, str | None, tuple[Path, ...]]:
    """The tier, the variable that gave it, and the manifest files, with the contract's precedence."""
    tier, manifests = ctx.params.get("tier"), tuple(Path(file) for file in ctx.params.get("manifests", ()))
    tier_said = is_said(ctx, "tier")
    if tier and manifests and tier_said and is_said(ctx, "manifests"):
        raise UsageError("--tier and --manifest can't be used together", hint="name either a tier or manifest files")
    if tier and tier_said:
        return tier, None, ()
    if manifests:
        return None, None, manifests
    return tier, _variable(ctx, "tier"), ()


def is_said(ctx: click.Context, name: str) -> bool:
    """Whether an option stands on the command line, not only in the environment."""
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _variable(ctx: click.Context, name: str) -> str | None:
    parameter = next((p for p in ctx.command.params if p.name == name), None)
    found = parameter.found(ctx) if isinstance(parameter, EnvOption) else None
    return found[0] if found else None


def _owner(environ: Mapping[str, str]) -> tuple[int, int] | None:
    """PUID and PGID, as many images take them; only root can give files away."""
    given = {name: environ.get(name, "").strip() for name in ("PUID", "PGID")}
    for name, value in given.items():
        if value and not (value.isascii() and value.isdigit() and len(value) < 10):
            raise SettingError(f"{name}={value[:40]}: expected a number")
    if not any(given.values()) or os.geteuid() != 0:
        return None
    return tuple(int(value) if value else -1 for value in given.values())  # type: ignore[return-value]


def perform(
    ctx: click.Context,
    work: Callable[[Sequence[Manifest], Session], Awaitable[Report]],
    *,
    may_be_unnamed: bool = False,
) -> Report:
    """Do the work of a command, with progress on stderr and an end within a second of a signal.

    ``may_be_unnamed``: the command needs neither tier nor manifest.
    """
    from modelfetch.api import perform as run

    request = replace(request_from(ctx), may_be_unnamed=may_be_unnamed)
    values = ctx.params
    progress = make_progress(
        values.get("progress", "auto"), verbose=values.get("verbose", False), quiet=values.get("quiet", False)
    )

    def sink(event: Event) -> None:
        if isinstance(event, Notice) and event.level == "warning":
            ctx.meta[WARNED] = True
        progress(event)

    try:
        return run_until_signal(lambda cancel: run(request, work, sink=sink, cancel=cancel))
    finally:
        progress.close()


def run_until_signal(start: Callable[[Cancel], Awaitable[Report]]) -> Report:
    """Run to the end, or to SIGINT or SIGTERM: these set the cancel flag, which ends everything that blocks."""
    cancel = Cancel()

    async def main() -> Report:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(start(cancel))
        for number, set_cancel in _SIGNALS.items():
            loop.add_signal_handler(number, _end, cancel, task, set_cancel)
        return await task

    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        # Not asyncio.run: it would wait for threads that wait for a server. `main` ends the process instead.
        if not cancel.is_set():
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()


def _end(cancel: Cancel, task: asyncio.Future[Report], set_cancel: Callable[[Cancel], None]) -> None:
    set_cancel(cancel)
    task.cancel()


def show(report: Report, *, as_json: bool, text: Callable[[], str] | None = None) -> int:
    """Print a report: JSON or ``text`` on stdout, errors on stderr; returns its exit code."""
    try:
        if as_json:
            put(json.dumps(report.as_dict()))
        elif text is not None:
            put(text())
    finally:
        show_errors(report.errors)
    return report.exit_code
