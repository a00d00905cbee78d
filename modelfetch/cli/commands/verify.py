"""``modelfetch verify``."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import common, options
from modelfetch.render.care import verify_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelfetch.care.verify import Verification
    from modelfetch.core.report import Report
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.session import Session


@click.command("verify")
@options.files
@options.which
@options.where
@options.transfers
@options.option("--quick", is_flag=True, help="Compare size and time of change only.")
@options.option(
    "--older-than",
    metavar="AGE",
    type=options.value("older_than"),
    help="Hash only what was last checked longer ago than this, such as 30d.",
)
@options.output
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> int:
    """Hash the files on disk again and report what is damaged, for which service and model; uses no network.

    Without a tier or manifest, everything that modelfetch placed or keeps is checked. Exits with 1 if something is
    damaged, changed or missing.
    """
    from modelfetch.care.verify import VerifyOptions, verification_report, verify_files

    found: list[Verification] = []

    async def work(manifests: Sequence[Manifest], session: Session) -> Report:
        started = time.monotonic()
        how = VerifyOptions(quick=values["quick"], older_than=values["older_than"])
        found.append(await asyncio.to_thread(verify_files, manifests, session, how))
        tier = manifests[0].tier if manifests else None
        return verification_report(found[-1], session, tier=tier, started=started)

    report = common.perform(ctx, work, may_be_unnamed=True)
    text = verify_text(report, found[0], quick=values["quick"], quiet=values["quiet"]) if found else ""
    return common.show(report, as_json=values["as_json"], text=(lambda: text) if text else None)
