"""``modelfetch env``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import common, options
from modelfetch.render.out import note, put

if TYPE_CHECKING:
    from pathlib import Path

    from modelfetch.tiers.dotenv.file import Rewritten


@click.command("env")
@options.files
@options.manifest_options
@options.option(
    "--update",
    metavar="FILE",
    type=options.value("path"),
    help="Rewrite the block in FILE, such as .env; every other line is kept.",
)
@options.option("-q", "--quiet", is_flag=True, help="Show errors and warnings only.")
@click.pass_context
def command(ctx: click.Context, /, update: Path | None, *, quiet: bool, **_: Any) -> int:
    """Print the .env of a tier: what the stack's compose files read.

    With --update, only the block under the header GPU & AI SERVICES CONFIGURATION is rewritten.
    """
    from modelfetch.tiers.dotenv.file import env_block, rewrite
    from modelfetch.tiers.gpu import find_gpus

    tier, variable, manifests = common.chosen_manifests(ctx)
    gpus = find_gpus(vendor=os.environ.get("GPU_VENDOR", "").strip().lower()).gpus
    compute = gpus[0].compute if gpus else None
    block = env_block(tier, os.environ, tier_variable=variable, manifests=manifests, compute=compute)
    for warning in block.warnings:
        note(f"warning: {warning}")
    if update is None:
        put(block.text, end="")
        return 0
    _report(update, rewrite(update, block), quiet=quiet)
    return 0


def _report(file: Path, done: Rewritten, *, quiet: bool) -> None:
    """Show what changed on stderr; with ``quiet`` only warnings."""
    for name, old, new in () if quiet else done.changed:
        note(f"{name}: {old or '(empty)'} -> {new or '(empty)'}")
    for name, line in done.twice:
        note(f"warning: {file}:{line} sets {name} too, outside the block: the later line wins")
    if not quiet and not (done.written and done.changed):
        note(f"{file} {'updated' if done.written else 'is up to date'}")
