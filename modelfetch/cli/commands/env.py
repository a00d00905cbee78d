"""``modelfetch env``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import common, options
from modelfetch.render.out import put

if TYPE_CHECKING:
    from modelfetch.tiers.dotenv.file import Rewritten


@click.command("env")
@options.which
@click.option("--update", metavar="FILE", help="Rewrite the block in FILE, such as .env; every other line stays.")
@options.option("-q", "--quiet", is_flag=True, help="Say only what went wrong.")
@click.pass_context
def command(ctx: click.Context, /, update: str | None, *, quiet: bool, **_: Any) -> int:
    """Print the .env of a tier: what the stack's compose files read.

    With --update only the block under the header GPU & AI SERVICES CONFIGURATION is rewritten.
    """
    from pathlib import Path

    from modelfetch.tiers.dotenv.file import env_block, rewrite
    from modelfetch.tiers.gpu import find_gpus

    tier, variable, manifests = common.which(ctx)
    gpus = find_gpus(vendor=os.environ.get("GPU_VENDOR", "").strip().lower()).gpus
    compute = gpus[0].compute if gpus else None
    block = env_block(tier, os.environ, tier_variable=variable, manifests=manifests, compute=compute)
    for warning in block.warnings:
        click.echo(f"warning: {warning}", err=True)
    if update is None:
        put(block.text, end="")
        return 0
    _tell(update, rewrite(Path(update), block), quiet=quiet)
    return 0


def _tell(file: str, done: Rewritten, *, quiet: bool) -> None:
    """What changed, on stderr; with ``quiet`` only what may be wrong."""
    for name, old, new in () if quiet else done.changed:
        click.echo(f"{name}: {old or '(empty)'} -> {new or '(empty)'}", err=True)
    for name, line in done.twice:
        click.echo(f"warning: {file}:{line} sets {name} too, outside of the block: the later line wins", err=True)
    if not done.written and not quiet:
        click.echo(f"{file} is up to date", err=True)
