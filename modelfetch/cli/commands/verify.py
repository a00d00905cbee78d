"""``modelfetch verify``."""

from __future__ import annotations

from typing import Any

import click

from modelfetch.cli import common, complete, options
from modelfetch.core.units import format_count, format_size
from modelfetch.render.care import verify_text
from modelfetch.render.out import note


@click.command("verify")
@options.files
@options.manifest_options
@options.folder_options
@options.accept_hidden(options.strict_options, keep=("offline",))
@options.accept_hidden(
    options.transfer_options, keep=("jobs", "connections", "limit_rate", "retries", "lock_timeout", "chown", "min_free")
)
@options.option("--quick", is_flag=True, help="Compare only size and modification time.")
@options.option(
    "--older-than",
    metavar="AGE",
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
    from modelfetch.care.repair import check_files
    from modelfetch.care.verify import VerifyOptions

    how = VerifyOptions(
        quick=values["quick"],
        older_than=values["older_than"],
        models=tuple(values["models"]),
        models_variable=common.variable_of(ctx, "models"),
    )
    report, repaired = common.perform_detailed(
        ctx,
        lambda manifests, session: check_files(manifests, session, how, repair=values["repair"]),
        may_be_unnamed=True,
    )
    if repaired and repaired.files and not values["quiet"]:
        note(f"{format_count(repaired.files, 'file')} restored, {format_size(repaired.bytes_fetched)} fetched")
    found = repaired.verification if repaired else None
    text = verify_text(report, found, quick=values["quick"], quiet=values["quiet"]) if found else ""
    code = common.show(report, as_json=values["as_json"], text=text)
    if found and not values["repair"] and not values["quiet"] and any(f.can_be_restored for f in found.findings):
        note("hint: the same command with --repair restores what is damaged, changed or missing")
    return code
