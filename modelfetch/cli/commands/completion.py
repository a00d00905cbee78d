"""``modelfetch completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from modelfetch.cli.options import OneOf
from modelfetch.render.out import put


@click.command("completion")
@click.argument("shell", metavar="SHELL", type=OneOf(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> int:
    """Print the completion script of SHELL: bash, zsh or fish."""
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click has all three
    script = kind(ctx.find_root().command, {}, "modelfetch", "_MODELFETCH_COMPLETE")
    put(script.source_template % script.source_vars())
    return 0
