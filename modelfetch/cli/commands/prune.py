"""``modelfetch prune``."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import common, options
from modelfetch.render.care import removal_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelfetch.care.prune import Removed
    from modelfetch.core.report import Report
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.session import Session


@click.command("prune")
@options.files
@options.manifest_options
@options.folder_options
@options.removal_options
@options.output_options
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> int:
    """Remove the files that no chosen tier needs, unused blobs and old unfinished downloads.

    Without a tier or manifest, every model that was placed for some tier stays. Only unchanged files that
    modelfetch made are removed; models that people pulled with Ollama keep their blobs.
    """
    import os

    from modelfetch.care.prune import PruneOptions, prune_files, removal_report

    how = PruneOptions(
        dry_run=values["dry_run"],
        older_than=values["older_than"],
        keep_tiers=tuple(values["keep_tiers"]),
        keep_tiers_variable=common.variable_of(ctx, "keep_tiers"),
    )
    found: list[Removed] = []

    async def work(manifests: Sequence[Manifest], session: Session) -> Report:
        started = time.monotonic()
        found.append(await asyncio.to_thread(prune_files, manifests, session, how, dict(os.environ)))
        tier = manifests[0].tier if manifests else None
        return removal_report(found[0], session, tier=tier, started=started)

    report = common.perform(ctx, work, may_be_unnamed=True)
    text = removal_text(found[0], quiet=values["quiet"]) if found else ""
    return common.show(report, as_json=values["as_json"], text=(lambda: text) if text else None)
