"""``modelfetch status``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import common, options
from modelfetch.render.care import use_text
from modelfetch.render.status import prometheus, status_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelfetch.care.usage import DiskUse
    from modelfetch.core.report import Report
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.session import Session
    from modelfetch.pipeline.status import ModelStatus


@click.command("status")
@options.files
@options.manifest_options
@options.folder_options
@options.accept_hidden(options.strict_options)
@options.accept_hidden(options.transfer_options)
@options.output_options
@options.option(
    "--format",
    "form",
    type=options.OneOf(["table", "json", "prom"]),
    default="table",
    show_default=True,
    help="Format of the output: a table, JSON, or metrics for Prometheus.",
)
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> int:
    """Show what is ready, missing, changed or foreign, per model and service, without network access.

    Exits with 1 if not everything is ready.
    """
    found: list[ModelStatus] = []
    use: list[DiskUse] = []

    async def work(manifests: Sequence[Manifest], session: Session) -> Report:
        from modelfetch.pipeline.status import status_of

        report, lines = await asyncio.to_thread(status_of, manifests, session)
        found.extend(lines)
        if not values["as_json"] and values["form"] != "json":
            from modelfetch.care.usage import disk_use

            use.append(await asyncio.to_thread(disk_use, session, foreign=values["form"] == "prom"))
        return report

    report = common.perform(ctx, work)
    as_json = values["as_json"] or values["form"] == "json"
    if values["form"] == "prom":
        text = prometheus(report, found, use[0] if use else None)
    else:
        checks = {key: use_text(model) for key, model in use[0].models.items()} if use else {}
        text = status_table(report, found, only_bad=values["quiet"], checks=checks)
    return common.show(report, as_json=as_json, text=(lambda: text) if found and text else None)
