"""``modelfetch plan``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import common, options
from modelfetch.render.summary import plan_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelfetch.core.report import Report
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.preflight import SpaceRequirement
    from modelfetch.pipeline.session import Session


@click.command("plan")
@options.files
@options.manifest_options
@options.folder_options
@options.accept_hidden(options.strict_options, keep=("offline", "refresh", "require_digests"))
@options.accept_hidden(options.transfer_options, keep=("retries", "min_free"))
@options.output_options
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> int:
    """Show what sync would do, and every problem it can foresee, without downloading a file."""
    needed: list[SpaceRequirement] = []

    async def work(manifests: Sequence[Manifest], session: Session) -> Report:
        from modelfetch.pipeline.sync import preview_manifests

        report, plan = await preview_manifests(manifests, session)
        needed.extend(plan.space)
        return report

    report = common.perform(ctx, work)
    text = (lambda: plan_table(report, needed, verbose=values["verbose"])) if report.models else None
    return common.show(report, as_json=values["as_json"], text=text)
