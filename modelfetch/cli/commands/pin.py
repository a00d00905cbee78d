"""``modelfetch pin``."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import common, complete, options
from modelfetch.core.units import format_count
from modelfetch.errors import UsageError
from modelfetch.pinning.entry import PinState
from modelfetch.render.out import note
from modelfetch.render.text import plain, stdout_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelfetch.pinning.reporting import PinStatus
    from modelfetch.pinning.run import Result


@click.command("pin")
@click.argument("file", type=options.value("file"), shell_complete=complete.files)
@options.option("--check", is_flag=True, help="Write nothing; exit with 1 if a pin is missing or behind upstream.")
@options.option(
    "--upgrade",
    metavar="NAME",
    shell_complete=complete.models_of_file,
    multiple=True,
    help="Replace this model's pins with the current ones of upstream; repeatable.",
)
@options.hash_store
@options.offline
@options.download_options
@options.output_options
@click.pass_context
def command(ctx: click.Context, /, file: str, **values: Any) -> int:
    """Look up the revisions, sizes and digests that FILE lacks, and write them into it.

    Comments, order, layout and existing pins are kept. Either all pins are written or none.
    """
    from modelfetch.pinning.run import run_pin

    common.refuse_link(file)
    if values["check"] and values["upgrade"]:
        raise UsageError("--check and --upgrade can't be used together", hint="--check writes nothing")
    result = common.run(
        ctx,
        partial(
            run_pin,
            Path(file),
            common.option_values(ctx),
            check=values["check"],
            upgrade=tuple(dict.fromkeys(values["upgrade"])),
            upgrade_variable=common.variable_of(ctx, "upgrade"),
        ),
    )
    if result.report.models and not values["quiet"] and not values["check"]:
        note(plain(_summary(file, result)))
    elif values["check"] and not values["quiet"] and (advice := _advice(file, result.lines)):
        note(plain(advice))
    text = _text(result.lines, check=values["check"]) if result.lines else ""
    return common.show(result.report, as_json=values["as_json"], text=text)


def _text(lines: Sequence[PinStatus], *, check: bool) -> str:
    head = ("MODEL", "STATE", "PINNED", "UPSTREAM") if check else ("MODEL", "DONE", "BEFORE", "NOW")
    return stdout_table(head, [(line.model, line.state, line.pinned, line.upstream) for line in lines])


def _advice(file: str, lines: Sequence[PinStatus]) -> str:
    """The commands that bring the pins up to date; empty if all are."""
    behind = [f"--upgrade {shlex.quote(line.model)}" for line in lines if line.state == PinState.BEHIND]
    unpinned = any(line.state == PinState.UNPINNED for line in lines)
    words = ["modelfetch pin", shlex.quote(file), *behind]
    return f"hint: `{' '.join(words)}` updates the pins" if behind or unpinned else ""


def _summary(file: str, result: Result) -> str:
    models = result.report.models
    if result.report.errors:
        failures = sum(any(a.action == "failed" for a in model.artifacts) for model in models)
        return f"{file}: {failures} of {len(models)} models can't be pinned, so nothing was written"
    if not result.written:
        return f"{file}: nothing to write, {len(models)} of {len(models)} models are pinned"
    count = format_count(len(models), "model")
    if len(result.lines) == len(models):
        return f"{file}: {count} pinned"
    return f"{file}: {len(result.lines)} of {count} pinned, the others were pinned before"
