"""``modelfetch report``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import common, options
from modelfetch.render.html import overview_page
from modelfetch.render.out import note

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from modelfetch.core.report import Report
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.session import Session


@click.command("report")
@options.files
@options.option(
    "--html", "target", metavar="FILE", required=True, type=options.value("path"), help="HTML file to write."
)
@options.manifest_options
@options.accept_hidden(options.folder_options, keep=("root", "store", "consumer_dirs"))
@options.option("-q", "--quiet", is_flag=True, help="Show errors only.")
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> int:
    """Write one self-contained page of what is on disk: sizes, check dates, what is missing or damaged.

    With a tier or manifest, the page also shows which of its models are missing.
    """
    target: Path = values["target"]

    async def work(manifests: Sequence[Manifest], session: Session) -> Report:
        from modelfetch.care.overview import make_overview
        from modelfetch.pipeline.status import status_of

        lines = (await asyncio.to_thread(status_of, manifests, session))[1] if manifests else ()
        tier = manifests[0].tier if manifests else None
        overview = await asyncio.to_thread(make_overview, session, lines, tier=tier)
        await asyncio.to_thread(common.write_page, target, overview_page(overview))
        return session.report(manifests=manifests)

    report = common.perform(ctx, work, may_be_unnamed=True)
    if report.ok and not values["quiet"]:
        note(f"written to {target}")
    return common.show(report, as_json=False)
