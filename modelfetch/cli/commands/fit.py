"""``modelfetch fit``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import common, options
from modelfetch.errors import UsageError
from modelfetch.render.errors import show_errors
from modelfetch.render.out import put

if TYPE_CHECKING:
    from modelfetch.fitting.types import FitReport


@click.command("fit")
@click.argument("uri", required=False)
@options.which
@options.where
@options.option("--context", metavar="TOKENS", type=options.value("context"), help="Tokens of one conversation.")
@options.option("--parallel", metavar="N", type=options.value("parallel"), help="Requests answered at once.")
@options.option("--kv-type", type=click.Choice(["f16", "q8_0", "q4_0"]), help="Type of the key-value cache.")
@options.option(
    "--flash-attention/--no-flash-attention", default=None, help="Whether language models run with flash attention."
)
@options.option("--usable", metavar="SIZE", type=options.value("usable"), help="VRAM that may be used, such as 15GiB.")
@options.offline
@options.refresh
@options.retries
@options.output
@click.pass_context
def command(ctx: click.Context, /, uri: str | None, **values: Any) -> int:
    """Show the VRAM that a model or a whole tier needs, read from the headers of its files.

    URI is one model: ollama://NAME, hf://NS/REPO/FILE, https://…, a file or a folder. Without it, all models of a tier
    or manifest are estimated, each service against its budget. Exits with 1 if it does not fit, or if that is unknown.
    """
    from modelfetch.api import fit_failed, run_session
    from modelfetch.config.options import parse_options, parse_values
    from modelfetch.fitting import Asked, fit_manifests, fit_uri

    names = ("context", "parallel", "kv_type", "flash_attention", "usable")
    asked = Asked(**parse_values({name: values[name] for name in names}))
    if uri is None:
        report = common.perform(
            ctx, lambda manifests, session: fit_manifests(manifests, session, asked), failure=fit_failed
        )
    else:
        _refuse_tier(ctx)
        chosen = parse_options(common.option_values(ctx))
        report = common.run(
            ctx,
            lambda sink, cancel: run_session(
                lambda _: chosen,
                lambda session: fit_uri(uri, session, asked),
                failure=fit_failed,
                sink=sink,
                cancel=cancel,
            ),
        )
    return _show(report, as_json=values["as_json"], quiet=values["quiet"])


def _refuse_tier(ctx: click.Context) -> None:
    """With a URI, refuse a tier or manifest on the command line; one in the environment is ignored."""
    said = (name for name in ("tier", "manifests") if common.is_said(ctx, name))
    if (name := next(said, None)) is not None:
        option = "--tier" if name == "tier" else "--manifest"
        raise UsageError(f"either a URI or {option}, not both", hint="leave one of them out")


def _show(report: FitReport, *, as_json: bool, quiet: bool) -> int:
    from modelfetch.render.fit import render_table
    from modelfetch.render.text import terminal_width

    if as_json:
        put(json.dumps(report.as_dict()))
    elif report.services and not (quiet and report.ok):
        put(render_table(report, ascii_only=not _draws(), width=terminal_width(sys.stdout)), end="")
    if not report.services:
        show_errors(report.errors)
    return report.exit_code


def _draws() -> bool:
    """Whether stdout can encode the block characters of the bars."""
    try:
        "█▓░·".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
