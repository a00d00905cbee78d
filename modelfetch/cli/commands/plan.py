"""``modelfetch plan``."""

from __future__ import annotations

from typing import Any

import click

from modelfetch.cli import common, options
from modelfetch.render.summary import plan_table


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
    from modelfetch.pipeline.sync import preview_manifests

    report, plan = common.perform_detailed(ctx, preview_manifests)
    text = plan_table(report, plan.space, verbose=values["verbose"]) if plan and report.models else ""
    return common.show(report, as_json=values["as_json"], text=text)
