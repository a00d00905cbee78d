"""``modelfetch fit``."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import common, complete, options
from modelfetch.errors import UsageError
from modelfetch.render.errors import report_json, show_errors
from modelfetch.render.out import put
from modelfetch.tiers.discovery import find_tier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelfetch.fitting.types import FitReport


@click.command("fit")
@click.argument("targets", metavar="[URI | FILE...]", nargs=-1, shell_complete=complete.files)
@options.manifest_options
@options.folder_options
@options.option("--context", metavar="TOKENS", help="Context length in tokens.")
@options.option("--parallel", metavar="N", help="Requests answered at once.")
@options.option("--kv-type", type=options.OneOf(["f16", "q8_0", "q4_0"]), help="Type of the key-value cache.")
@options.option(
    "--flash-attention/--no-flash-attention", default=None, help="Whether language models run with flash attention."
)
@options.option("--plot", metavar="FILE", type=options.value("path"), help="Draw the card's memory as an SVG.")
@options.option("--usable", metavar="SIZE", help="VRAM that may be used, such as 15GiB.")
@options.offline
@options.refresh
@options.retries
@options.output_options
@click.pass_context
def command(ctx: click.Context, /, targets: tuple[str, ...], **values: Any) -> int:
    """Show the VRAM that a model or a whole tier needs, read from the headers of its files.

    URI is one model: ollama://NAME, hf://NS/REPO/FILE, https://…, a file or a folder. FILE is a manifest (.yaml). For
    a manifest or tier, all models are estimated, each service against its budget. Exits with 1 if it does not fit, or
    if that is unknown.
    """
    from modelfetch.config.options import parse_values
    from modelfetch.fitting import FitOverrides, fit_failed, fit_manifests, run_fit

    names = ("context", "parallel", "kv_type", "flash_attention", "usable")
    overrides = FitOverrides(**parse_values({name: values[name] for name in names}))
    uri = _only_uri(ctx, targets)
    if uri is None:
        report = common.perform(ctx, partial(fit_manifests, overrides=overrides), failure=fit_failed)
    else:
        report = common.run(ctx, partial(run_fit, uri, common.option_values(ctx), overrides))
    if values["plot"] is not None and report.services:
        from modelfetch.render.plot import fit_picture

        common.write_page(values["plot"], fit_picture(report))
    return _show(report, as_json=values["as_json"], quiet=values["quiet"])


def _only_uri(ctx: click.Context, targets: Sequence[str]) -> str | None:
    """The URI among the arguments, None if all are manifests; those become the command's manifest files.

    With a URI, a tier or manifest on the command line is refused; one in the environment is ignored.
    """
    files = tuple(target for target in targets if common.is_manifest_name(target))
    uris = [target for target in targets if target not in files]
    if not uris:
        ctx.params["paths"] = files
        return None
    if len(targets) > 1:
        raise UsageError("expected one URI, or manifests", hint=f"modelfetch fit {shlex.quote(uris[0])}")
    given = (name for name in ("tier", "manifests") if common.is_on_command_line(ctx, name))
    if (name := next(given, None)) is not None:
        option = "--tier" if name == "tier" else "--manifest"
        raise UsageError(f"either a URI or {option}, not both", hint="leave one of them out")
    if find_tier(uris[0]) is not None:
        common.refuse_tier_name(ctx, uris[0])
    return uris[0]


def _show(report: FitReport, *, as_json: bool, quiet: bool) -> int:
    from modelfetch.render.fit import render_table
    from modelfetch.render.text import terminal_width

    if as_json:
        put(report_json(report, "fit"))
    elif report.services and not (quiet and report.ok):
        put(render_table(report, ascii_only=not _draws(), width=terminal_width(sys.stdout)), end="")
    if not report.services:
        show_errors(report.errors, "fit")
    return report.exit_code


def _draws() -> bool:
    """Whether stdout can encode the block characters of the bars."""
    try:
        "█▓░·".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
