"""``modelfetch remove``."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import common, complete, options
from modelfetch.render.care import removal_text, restore_hint
from modelfetch.render.out import note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelfetch.care.prune import Removed
    from modelfetch.core.report import Report
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.session import Session


@click.command("remove")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete.placed_models)
@options.folder_options
@options.removal_options
@options.output_options
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> int:
    """Remove models by name: what modelfetch placed for them, and their bytes in the store.

    A file that was changed by hand, one that was there before, and what a kept tier needs stay.
    """
    from modelfetch.care.prune import PruneOptions, removal_report, remove_models

    how = PruneOptions(
        dry_run=values["dry_run"],
        older_than=values["older_than"],
        keep_tiers=tuple(values["keep_tiers"]),
        keep_tiers_variable=common.variable_of(ctx, "keep_tiers"),
    )
    found: list[Removed] = []

    async def work(_: Sequence[Manifest], session: Session) -> Report:
        started = time.monotonic()
        found.append(await asyncio.to_thread(remove_models, values["names"], session, how, dict(os.environ)))
        return removal_report(found[0], session, tier=None, started=started)

    report = common.perform(ctx, work, may_be_unnamed=True)
    text = removal_text(found[0], quiet=values["quiet"]) if found else ""
    code = common.show(report, as_json=values["as_json"], text=(lambda: text) if text else None)
    if found and not how.dry_run and not values["quiet"] and (back := restore_hint(found[0])):
        note(back)
    return code
