"""``modelfetch add``."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import common, complete, options
from modelfetch.core.root import CONSUMERS
from modelfetch.core.units import format_count
from modelfetch.render.errors import report_json, show_errors
from modelfetch.render.out import note, put
from modelfetch.render.text import plain, stdout_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelfetch.fitting.types import FitReport
    from modelfetch.pinning.types import Added, AddReport


def _kind(text: object) -> str:
    from modelfetch.pinning.add import check_kind

    return check_kind(str(text))


@click.command("add")
@click.argument("links", metavar="LINK...", nargs=-1, required=True)
@options.option(
    "--kind",
    metavar="KIND",
    type=options.Parsed("kind", _kind),
    shell_complete=complete.kinds,
    help="Kind of model, such as lora.  [default: detected]",
)
@options.option(
    "--for",
    "consumers",
    cls=options.NamesOption,
    metavar="CONSUMER",
    multiple=True,
    type=options.OneOf(CONSUMERS),
    help="Service that uses it; repeatable or comma-separated.  [default: those that can load it]",
)
@options.option("--name", metavar="NAME", help="Name of the entry.  [default: the file's or repo's]")
@options.option(
    "--manifest", metavar="FILE", type=options.value("path"), help="Manifest to append to.  [default: ./models.yaml]"
)
@options.option("--dry-run", is_flag=True, help="Show the entries and write nothing.")
@options.hash_store
@options.offline
@options.download_options
@options.output_options
@click.pass_context
def command(ctx: click.Context, /, links: tuple[str, ...], **values: Any) -> int:
    """Detect what each LINK is, pin its revision, size and digest, and append its entry to a manifest.

    A missing manifest is created; comments and layout are kept. On a terminal, what can't be detected is prompted for.
    """
    from modelfetch.pinning.add import run_add
    from modelfetch.pinning.types import AddRequest
    from modelfetch.tiers.selection import DEFAULT_MANIFEST

    request = AddRequest(
        links=links,
        manifest=values["manifest"] or DEFAULT_MANIFEST,
        kind=values["kind"],
        consumers=tuple(dict.fromkeys(values["consumers"])),
        name=values["name"],
        dry_run=values["dry_run"],
        choose=_choose if sys.stdin.isatty() and sys.stderr.isatty() and not values["as_json"] else None,
    )
    report = common.run(ctx, partial(run_add, request, _transfer_options(ctx)))
    if values["as_json"]:
        put(report_json(report, ctx.info_name))
    elif report.added:
        put(_table(report.added))
        if request.dry_run:
            put(_entries(report.added))
    if report.ok and not values["quiet"]:
        note(plain(_summary(report)))
    show_errors(report.errors, ctx.info_name)
    return report.exit_code


def _transfer_options(ctx: click.Context) -> dict[str, Any]:
    """The transfer options; the command's own options are not options of a run."""
    own = ("kind", "consumers", "name", "manifest", "dry_run")
    return {name: value for name, value in common.option_values(ctx).items() if name not in own}


def _choose(question: str, choices: Sequence[str]) -> str:
    """Prompt on the terminal; the answer is a number or one of the choices."""
    click.echo(plain(question), err=True)
    for number, choice in enumerate(choices, 1):
        click.echo(f"{number:4} {plain(choice)}", err=True)
    answers = {str(number): choice for number, choice in enumerate(choices, 1)} | {choice: choice for choice in choices}

    def read(answer: str) -> str:
        if answer.strip() not in answers:
            raise click.UsageError(f"write a number from 1 to {len(choices)}")
        return answers[answer.strip()]

    return str(click.prompt("Number", value_proc=read, err=True))


def _table(added: Sequence[Added]) -> str:
    rows = [_row(one) for one in added]
    return stdout_table(("MODEL", "KIND", "FAMILY", "FOR", "SIZE", "LICENSE", "VRAM"), rows)


def _row(one: Added) -> tuple[str, ...]:
    from modelfetch.core.units import format_size

    return (
        one.model.name,
        one.model.kind or "ollama",
        one.family or "-",
        ",".join(one.model.consumers),
        "-" if one.size is None else format_size(one.size),
        one.model.license or "-",
        _vram(one.fit),
    )


def _vram(fit: FitReport | None) -> str:
    """``1.45 GiB``, ``25.00 GiB (does not fit)``, or ``unknown`` where only a lower bound is known."""
    from modelfetch.core.units import format_size

    if fit is None:
        return "-"
    codes = {error.code for error in fit.errors}
    needed = format_size(fit.needed)
    if "does-not-fit" in codes:
        return f"{needed} (does not fit)"
    return f"unknown (over {needed})" if codes else needed


def _entries(added: Sequence[Added]) -> str:
    from modelfetch.pinning.append import entry_lines

    return "\n".join(line for one in added if one.is_new for line in entry_lines(one.model, "  "))


def _summary(report: AddReport) -> str:
    new = sum(one.is_new for one in report.added)
    if not new:
        return f"{report.manifest}: nothing to add, {'it is' if len(report.added) == 1 else 'all are'} there already"
    models, them = format_count(new, "model"), "it" if new == 1 else "them"
    if not report.written:
        return f"{report.manifest}: {models} would be added"
    file = shlex.quote(str(report.manifest))
    return f"{report.manifest}: {models} added; `modelfetch sync {file}` places {them}"
