"""``modelfetch pin``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import common, options
from modelfetch.core.report import Report, failed
from modelfetch.errors import ModelfetchError, UsageError
from modelfetch.render.progress import make_progress
from modelfetch.render.text import plain, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelfetch.core.cancel import Cancel
    from modelfetch.core.events import Sink
    from modelfetch.pinning.reporting import Line
    from modelfetch.pinning.run import Result


@click.command("pin")
@click.argument("file")
@options.option("--check", is_flag=True, help="Write nothing; exit with 1 where a pin is missing or behind upstream.")
@options.option(
    "--upgrade",
    metavar="NAME",
    multiple=True,
    help="Move this model's pins to what upstream has now; repeatable.",
)
@options.option("--store", metavar="DIR", help="Where a body that must be hashed is kept.  [default: the user's cache]")
@options.option("--offline", is_flag=True, help="Ask nobody: fail where something is missing.")
@options.moving
@options.output
@click.pass_context
def command(ctx: click.Context, /, file: str, **values: Any) -> int:
    """Resolve what FILE leaves open, and write revision, size and digest into it.

    Comments, order and layout stay, and so do pins that are there. Either all of it is written or nothing.
    """
    if values["check"] and values["upgrade"]:
        raise UsageError("--check and --upgrade can't be used together", hint="--check writes nothing")
    got: list[Result] = []
    progress = make_progress(values["progress"], verbose=values["verbose"], quiet=values["quiet"])

    async def start(cancel: Cancel) -> Report:
        return await _pin(Path(file), values, progress, cancel, got)

    try:
        report = common.run_until_signal(start)
    finally:
        progress.close()
    if got and not values["quiet"] and not values["check"]:
        print(plain(_summary(file, got[0])), file=sys.stderr)  # noqa: T201 - this is the terminal's side
    lines = got[0].lines if got else ()
    return common.show(report, as_json=values["as_json"], text=_text(lines, check=values["check"]) if lines else None)


async def _pin(file: Path, values: dict[str, Any], sink: Sink, cancel: Cancel, got: list[Result]) -> Report:
    import asyncio

    from modelfetch.config.settings import Settings
    from modelfetch.pinning.run import check_file, pin_file
    from modelfetch.pipeline.session import Session

    root = ""
    try:
        settings = Settings.from_env(os.environ)
        session = Session(_options(values, settings.cache_path()), settings, sink=sink, cancel=cancel)
        root = str(session.options.root)
        try:
            if values["check"]:
                result = await check_file(file, session)
            else:
                result = await pin_file(file, session, upgrade=tuple(dict.fromkeys(values["upgrade"])))
        finally:
            await session.close()
    except ModelfetchError as error:
        return failed([error], tier=None, root=root)
    except asyncio.CancelledError:
        if not cancel.is_set():
            raise
        return failed([cancel.error()], tier=None, root=root)
    got.append(result)
    return result.report


def _options(values: dict[str, Any], cache: Path) -> Any:
    from modelfetch.config.options import Options

    names = ("offline", "jobs", "connections", "limit_rate", "retries", "lock_timeout")
    store = Path(values["store"]) if values["store"] else None
    return Options(root=cache, store=store, **{name: values[name] for name in names})


def _text(lines: Sequence[Line], *, check: bool) -> Any:
    head = ("MODEL", "STATE", "PINNED", "UPSTREAM") if check else ("MODEL", "DONE", "BEFORE", "NOW")
    return lambda: table(head, [(line.model, line.state, line.pinned, line.upstream) for line in lines])


def _summary(file: str, result: Result) -> str:
    models = result.report.models
    if result.report.errors:
        failures = sum(any(a.action == "failed" for a in model.artifacts) for model in models)
        return f"{file}: {failures} of {len(models)} models can't be pinned, so nothing was written"
    if not result.written:
        return f"{file}: nothing to write, {len(models)} of {len(models)} models are pinned"
    return f"{file}: {len(result.lines)} of {len(models)} models pinned, the others were already"
