"""``modelfetch verify``."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import common, complete, options
from modelfetch.core.units import format_size
from modelfetch.render.care import count, verify_text
from modelfetch.render.out import note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelfetch.care.verify import Verification
    from modelfetch.core.report import Report
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.session import Session


@click.command("verify")
@options.files
@options.manifest_options
@options.folder_options
@options.accept_hidden(options.strict_options, keep=("offline",))
@options.accept_hidden(
    options.transfer_options, keep=("jobs", "connections", "limit_rate", "retries", "lock_timeout", "chown", "min_free")
)
@options.option("--quick", is_flag=True, help="Compare size and time of change only.")
@options.option(
    "--older-than",
    metavar="AGE",
    type=options.value("older_than"),
    help="Hash only what was last checked longer ago than this, such as 30d.",
)
@options.option(
    "--repair", is_flag=True, help="Restore what is damaged, changed or missing; fetch only damaged parts again."
)
@options.option(
    "--model",
    "models",
    metavar="NAME",
    shell_complete=complete.placed_models,
    multiple=True,
    help="Only this model; with --repair also its files that a service has rewritten. Repeatable.",
)
@options.output_options
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> int:
    """Hash the files on disk again and report what is damaged, for which service and model.

    Uses no network, except with --repair for what can't be restored from the disk. Without a tier or manifest,
    everything that modelfetch placed or keeps is checked. Exits with 1 if something is damaged, changed or missing.
    """
    from modelfetch.care.verify import VerifyOptions, verification_report, verify_files

    found: list[Verification] = []

    async def work(manifests: Sequence[Manifest], session: Session) -> Report:
        started = time.monotonic()
        names = tuple(values["models"])
        how = VerifyOptions(quick=values["quick"], older_than=values["older_than"], models=names)
        found.append(await asyncio.to_thread(verify_files, manifests, session, how))
        fetched = 0
        if values["repair"]:
            from modelfetch.care.repair import repair_files

            repaired = await repair_files(found[-1], manifests, session, rewritten=bool(names))
            found[-1], fetched = repaired.verification, repaired.bytes_fetched
            if repaired.files and not values["quiet"]:
                note(f"{count(repaired.files, 'file')} restored, {format_size(fetched)} fetched")
        tier = manifests[0].tier if manifests else None
        return verification_report(found[-1], session, tier=tier, started=started, bytes_fetched=fetched)

    report = common.perform(ctx, work, may_be_unnamed=True)
    text = verify_text(report, found[0], quick=values["quick"], quiet=values["quiet"]) if found else ""
    code = common.show(report, as_json=values["as_json"], text=(lambda: text) if text else None)
    if found and not values["repair"] and not values["quiet"] and any(f.can_be_restored for f in found[0].findings):
        note("hint: the same command with --repair restores what is damaged, changed or missing")
    return code
