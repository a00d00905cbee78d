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

    from modelfetch.core.report import Report
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.session import Session


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
    as_json = values["as_json"] or values["form"] == "json"
    as_metrics = values["form"] == "prom"

    def work(manifests: Sequence[Manifest], session: Session) -> tuple[Report, str]:
        from modelfetch.pipeline.status import status_of

        report, found = status_of(manifests, session)
        if as_json or not found:
            return report, ""
        from modelfetch.care.overview import disk_use

        use = disk_use(session, foreign=as_metrics)
        if as_metrics:
            return report, prometheus(report, found, use)
        checks = {key: use_text(model) for key, model in use.models.items()}
        return report, status_table(report, found, only_bad=values["quiet"], checks=checks)

    report, text = common.perform_detailed(ctx, lambda manifests, session: asyncio.to_thread(work, manifests, session))
    return common.show(report, as_json=as_json, text=text or "")
