"""``modelfetch sync``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import common, options
from modelfetch.core.events import Notice
from modelfetch.render.out import note
from modelfetch.render.summary import placed_table, summary
from modelfetch.render.text import terminal_width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelfetch.core.report import Report
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.session import Session


@click.command("sync")
@options.files
@options.manifest_options
@options.folder_options
@options.strict_options
@options.transfer_options
@options.option("--prune", is_flag=True, help="After success, remove what none of these manifests lists.")
@options.output_options
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> int:
    """Make every model of a tier or manifest present, verified and in place.

    Exits with 0 only if all of them are; otherwise the exit code and an error message give the reason.
    """
    report = common.perform(ctx, partial(_sync, ctx))
    if report.ok and not values["quiet"] and values["progress"] != "json":
        if (placed := placed_table(report, terminal_width(sys.stderr))) is not None:
            note(placed)
        note(summary(report))
    return common.show(report, as_json=values["as_json"])


def _prune(manifests: Sequence[Manifest], session: Session, report: Report) -> Report:
    """Remove what the manifests don't request; a failure to remove becomes the command's error."""
    from modelfetch.care.prune import prune_after_sync
    from modelfetch.render.care import removal_text

    report, removed = prune_after_sync(manifests, session, report, os.environ)
    if removed.items or removed.plan.kept:
        session.sink(Notice(level="info", message=removal_text(removed, quiet=True)))
    return report


async def _sync(ctx: click.Context, manifests: Sequence[Manifest], session: Session) -> Report:
    from modelfetch.pipeline.sync import sync_manifests

    report = await sync_manifests(manifests, session)
    # A warning may need to be repeated next time, which only a full run can decide.
    if report.ok and all(model.ok for model in report.models) and not ctx.meta.get(common.WARNED):
        # The note only saves time: a limit on memory or threads that stops it does not change the verdict.
        with contextlib.suppress(MemoryError, RuntimeError):
            from modelfetch.cli.fastpath.record import remember

            as_json, quiet = ctx.params["as_json"], ctx.params["quiet"]
            await asyncio.to_thread(remember, ctx.obj or (), manifests, session, report, as_json=as_json, quiet=quiet)
    if report.ok and ctx.params["prune"]:
        report = await asyncio.to_thread(_prune, manifests, session, report)
    return report
