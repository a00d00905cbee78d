"""Shared code of the commands: turning click's values into a request, progress, signals, and printing reports."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click
from click.core import ParameterSource

from modelfetch.cli.options import EnvOption
from modelfetch.core.cancel import Cancel
from modelfetch.core.events import Notice
from modelfetch.core.limits import require_files_of_loop
from modelfetch.core.report import Report, failed
from modelfetch.core.threads import FrugalExecutor
from modelfetch.core.urls import display_url
from modelfetch.errors import ModelfetchError, UsageError
from modelfetch.render.errors import report_json, show_errors
from modelfetch.render.out import note, put
from modelfetch.render.renderers import make_progress
from modelfetch.tiers.discovery import find_tier, is_tier_name

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from modelfetch.care.prune import PruneOptions, Removed
    from modelfetch.core.events import Event, Sink
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.run import Failure, Request
    from modelfetch.pipeline.session import Session

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

WARNED = "modelfetch.warned"
"""Key in a context's ``meta``, set once a warning was shown."""

_SIGNALS = {
    signal.SIGINT: partial(Cancel.set, code="interrupted", exit_code=130),
    signal.SIGTERM: partial(Cancel.set, code="terminated", exit_code=143),
}


def request_from(ctx: click.Context) -> Request:
    """Build a request from a command's values."""
    from modelfetch.config.options import parse_options
    from modelfetch.pipeline.run import Request

    tier, variable, manifests = chosen_manifests(ctx)
    return Request(options=parse_options(option_values(ctx)), tier=tier, manifests=manifests, tier_variable=variable)


def option_values(ctx: click.Context) -> dict[str, Any]:
    """A command's values for the shared options, in the form that `modelfetch.config.options` accepts."""
    from modelfetch.config.options import OptionValues

    return {name: value for name, value in ctx.params.items() if name in OptionValues.__annotations__}


def chosen_manifests(ctx: click.Context) -> tuple[str | None, str | None, tuple[Path, ...]]:
    """Return the tier, the variable that set it, and the manifest files, in the contract's order of precedence."""
    files = ctx.params.get("paths", ())
    tier, manifests = ctx.params.get("tier"), tuple(Path(file) for file in (*files, *ctx.params.get("manifests", ())))
    tier_is_named = is_on_command_line(ctx, "tier")
    if tier and tier_is_named and (files or is_on_command_line(ctx, "manifests")):
        raise UsageError("either a tier or manifests, not both", hint="leave out --tier or the manifest files")
    for file in files:
        if not is_manifest_name(file):
            refuse_tier_name(ctx, file)
            refuse_link(file)
    if tier and tier_is_named:
        return tier, None, ()
    if manifests:
        return None, None, manifests
    return tier, variable_of(ctx, "tier"), ()


def refuse_tier_name(ctx: click.Context, file: str) -> None:
    """Refuse an argument that may be the name of a tier, or of a model, if a file is expected."""
    if not is_tier_name(file) or os.path.lexists(file):
        return
    folder = os.environ.get("MODELFETCH_TIERS_DIR", "").strip()
    if (path := find_tier(file, Path(folder) if folder else None)) is not None:
        hint = f"for a tier, write: {ctx.command_path} --tier {path.stem}"
    elif any(parameter.opts == ["--model"] for parameter in ctx.command.params):
        hint = f"for a model, write: {ctx.command_path} --model {file}"
    else:
        hint = "name the file of a manifest, such as models.yaml; `modelfetch tiers` lists the tiers, for --tier NAME"
    raise UsageError(f"{file}: no such file", hint=hint)


def is_manifest_name(text: str) -> bool:
    """Whether an argument is the path of a manifest by its name, not a URI."""
    return text.endswith((".yaml", ".yml")) and "://" not in text


def refuse_link(file: str) -> None:
    """Refuse a link, or a form of one that people paste, if a manifest is expected."""
    from modelfetch.manifest.uri import parse_uri

    if os.path.lexists(file):
        return
    try:
        parse_uri(file)
    except ValueError:
        if "://" not in file:
            return
    link = shlex.quote(display_url(file))
    path = file.partition("#")[0].partition("?")[0]
    if path.endswith((".yaml", ".yml")):
        hint = f"download it first: modelfetch fetch {link} -o {shlex.quote(PurePath(path).name)}"
    else:
        hint = f"write it into one first: modelfetch add {link}"
    raise UsageError("expected a manifest's file, found a link", hint=hint)


def is_on_command_line(ctx: click.Context, name: str) -> bool:
    """Whether an option was given on the command line, not just in the environment."""
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def variable_of(ctx: click.Context, name: str) -> str | None:
    """Return the variable that gave an option its value; None if it is on the command line or has its default."""
    if is_on_command_line(ctx, name):
        return None
    parameter = next((p for p in ctx.command.params if p.name == name), None)
    found = parameter.found(ctx) if isinstance(parameter, EnvOption) else None
    return found[0] if found else None


def perform(
    ctx: click.Context,
    work: Callable[[Sequence[Manifest], Session], Coroutine[Any, Any, R]],
    *,
    may_be_unnamed: bool = False,
    failure: Failure[R] | None = None,
) -> R:
    """Run a command on the manifests that it names.

    ``may_be_unnamed``: the command needs neither tier nor manifest. ``failure`` builds the result of a failed run.
    """
    from modelfetch.pipeline.run import run_manifests

    request = replace(request_from(ctx), may_be_unnamed=may_be_unnamed)
    return run(ctx, partial(run_manifests, request, work, failure=failure))


def perform_detailed(
    ctx: click.Context,
    work: Callable[[Sequence[Manifest], Session], Coroutine[Any, Any, tuple[Report, R]]],
    *,
    may_be_unnamed: bool = False,
) -> tuple[Report, R | None]:
    """Run as `perform` does; ``work`` returns the report and details, which are None if the run failed early."""

    def failure(
        errors: Sequence[ModelfetchError], *, tier: str | None, root: str, seconds: float
    ) -> tuple[Report, R | None]:
        return failed(errors, tier=tier, root=root, seconds=seconds), None

    return perform(ctx, work, may_be_unnamed=may_be_unnamed, failure=failure)


def perform_removal(
    ctx: click.Context,
    remove: Callable[[Sequence[Manifest], Session, PruneOptions], tuple[Report, Removed]],
    *,
    hint: Callable[[Removed], str | None] = lambda _: None,
) -> int:
    """Run ``prune`` or ``remove`` and show what was removed; returns the exit code.

    ``hint`` returns what to print after a removal that was not a dry run.
    """
    from modelfetch.care.prune import PruneOptions
    from modelfetch.render.care import removal_text

    values = ctx.params
    how = PruneOptions(
        dry_run=values["dry_run"],
        older_than=values["older_than"],
        keep_tiers=tuple(values["keep_tiers"]),
        keep_tiers_variable=variable_of(ctx, "keep_tiers"),
    )
    report, found = perform_detailed(
        ctx, lambda manifests, session: asyncio.to_thread(remove, manifests, session, how), may_be_unnamed=True
    )
    text = removal_text(found, quiet=values["quiet"]) if found else ""
    code = show(report, as_json=values["as_json"], text=text)
    if found and not how.dry_run and not values["quiet"] and (after := hint(found)):
        note(after)
    return code


class Start(Protocol[R_co]):
    """Starts a command's work."""

    def __call__(self, *, sink: Sink, cancel: Cancel) -> Coroutine[Any, Any, R_co]:
        """Return the coroutine, which sends its events to ``sink`` and ends when ``cancel`` is set."""


def run(ctx: click.Context, start: Start[R]) -> R:
    """Run a command's work with progress on stderr; SIGINT and SIGTERM end it within a second."""
    values = ctx.params
    progress = make_progress(
        values.get("progress", "auto"), verbose=values.get("verbose", False), quiet=values.get("quiet", False)
    )

    def sink(event: Event) -> None:
        if isinstance(event, Notice) and event.level == "warning":
            ctx.meta[WARNED] = True
        progress(event)

    cancel = Cancel()
    require_files_of_loop()
    loop = asyncio.new_event_loop()
    for number, set_cancel in _SIGNALS.items():
        loop.add_signal_handler(number, set_cancel, cancel)
    executor = FrugalExecutor(thread_name_prefix="modelfetch-worker")
    loop.set_default_executor(executor)
    with closing(progress):
        try:
            return loop.run_until_complete(start(sink=sink, cancel=cancel))
        finally:
            # asyncio.run would wait for threads that are blocked on a server; `main` ends the process instead.
            if not cancel.is_set():
                executor.shutdown()  # the loop's own method needs an additional thread
                loop.close()


def write_page(target: Path, text: str) -> None:
    """Write a file for a browser, also where it is mounted alone; raises DestinationError or DiskError."""
    from modelfetch.core import directories, fs, os_errors, temp_files

    directories.require_file_path(target)
    directories.require_parent(target)
    data = text.encode("utf-8", errors="replace")
    with os_errors.translated(target, doing="writing"):
        file = target.resolve()
        before = file.read_bytes() if file.exists() else None
        temp_files.replace_document(file, data, before=before, mode=fs.COPY_MODE)


def show(report: Report, *, as_json: bool, text: str = "") -> int:
    """Print a report: JSON or ``text`` (unless it is empty) on stdout, errors on stderr; returns its exit code."""
    command = click.get_current_context().info_name
    if as_json:
        put(report_json(report, command))
    elif text:
        put(text)
    show_errors(report.errors, command)
    return report.exit_code
