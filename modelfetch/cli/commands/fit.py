"""``modelfetch fit``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import common, options
from modelfetch.core.report import Report, failed
from modelfetch.errors import ModelfetchError, UsageError
from modelfetch.render.errors import show_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelfetch.core.cancel import Cancel
    from modelfetch.fitting.types import FitReport
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.session import Session


@click.command("fit")
@click.argument("uri", required=False)
@options.which
@options.where
@options.option("--context", metavar="TOKENS", type=click.IntRange(1, 2**31 - 1), help="Tokens of one conversation.")
@options.option("--parallel", metavar="N", type=click.IntRange(1, 1024), help="Requests answered at once.")
@options.option("--kv-type", type=click.Choice(["f16", "q8_0", "q4_0"]), help="Type of the key-value cache.")
@options.option(
    "--flash-attention/--no-flash-attention", default=None, help="Whether a language model runs with flash attention."
)
@options.option("--usable", metavar="SIZE", type=options.Size(), help="VRAM that may be used, such as 15GiB.")
@options.option("--offline", is_flag=True, help="Read only what is on this machine.")
@options.option("--refresh", is_flag=True, help="Resolve again what the manifest leaves open.")
@options.option(
    "--retries", metavar="N", type=click.IntRange(0, 100), default=5, show_default=True, help="Tries of one question."
)
@options.output
@click.pass_context
def command(ctx: click.Context, /, uri: str | None, **values: Any) -> int:
    """Show the VRAM that a model or a whole tier needs, read from the files' headers by range.

    URI is one model: ollama://NAME, hf://NS/REPO/FILE, https://…, a file or a folder; without it, a tier or a manifest
    is judged, each service against its budget. Exits with 1 when it does not fit, or when that is not known.
    """
    found: list[FitReport] = []
    report = _alone(ctx, uri, found) if uri is not None else _tier(ctx, found)
    if found:
        return _show(found[0], as_json=values["as_json"], quiet=values["quiet"])
    if values["as_json"]:
        print(json.dumps(_nothing(report)))  # noqa: T201 - data goes to stdout
    sys.stdout.flush()
    show_errors(report.errors)
    return report.exit_code


def _asked(values: dict[str, Any]) -> Any:
    from modelfetch.fitting import Asked

    names = ("context", "parallel", "kv_type", "flash_attention", "usable")
    return Asked(**{name: values[name] for name in names})


def _tier(ctx: click.Context, found: list[FitReport]) -> Report:
    async def work(manifests: Sequence[Manifest], session: Session) -> Report:
        from modelfetch.fitting import fit_manifests

        found.append(await fit_manifests(manifests, session, _asked(ctx.params)))
        return Report(ok=True, exit_code=0, tier=None, root="")

    return common.perform(ctx, work)


def _alone(ctx: click.Context, uri: str, found: list[FitReport]) -> Report:
    """One model; a tier that the environment names is not what is asked for then, one on the command line too much."""
    said = (name for name in ("tier", "manifests") if common.is_said(ctx, name))
    if (name := next(said, None)) is not None:
        option = "--tier" if name == "tier" else "--manifest"
        raise UsageError(f"either a URI or {option}, not both", hint="leave one of them out")

    async def start(cancel: Cancel) -> Report:
        from modelfetch.config.settings import Settings
        from modelfetch.fitting import fit_uri
        from modelfetch.pipeline.session import Session

        try:
            session = Session(common.request_from(ctx).options, Settings.from_env(os.environ), cancel=cancel)
            try:
                found.append(await fit_uri(uri, session, _asked(ctx.params)))
            finally:
                await session.close()
        except ModelfetchError as error:
            return failed([error.about(uri=uri)], tier=None, root="")
        except asyncio.CancelledError:
            if not cancel.is_set():
                raise
            return failed([cancel.error()], tier=None, root="")
        return Report(ok=True, exit_code=0, tier=None, root="")

    return common.run_until_signal(start)


def _show(report: FitReport, *, as_json: bool, quiet: bool) -> int:
    from modelfetch.render.fit import render_table
    from modelfetch.render.text import terminal_width

    if as_json:
        print(json.dumps(report.as_dict()))  # noqa: T201 - data goes to stdout
    elif not (quiet and report.ok):
        width = terminal_width(sys.stdout)
        print(render_table(report, ascii_only=not _draws(), width=width), end="")  # noqa: T201 - data goes to stdout
    return report.exit_code


def _draws() -> bool:
    """Whether stdout takes the blocks that the bars are made of."""
    try:
        "█▓░·".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _nothing(report: Report) -> dict[str, Any]:
    """The JSON of a command that got no further than its errors."""
    return {
        "ok": False,
        "tier": report.tier,
        "usable": None,
        "needed": 0,
        "services": [],
        "bytes_fetched": 0,
        "errors": [error.as_dict() for error in report.errors],
    }
