"""``modelfetch remove``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import common, complete, options
from modelfetch.render.care import restore_hint

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command("remove")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete.placed_models)
@options.folder_options
@options.removal_options
@options.output_options
@click.pass_context
def command(ctx: click.Context, /, names: Sequence[str], **_: Any) -> int:
    """Remove models by name: what modelfetch placed for them, and their bytes in the store.

    Files that were changed by hand or existed before are kept, and so are those that a kept tier needs.
    """
    from modelfetch.care.prune import remove_models

    return common.perform_removal(
        ctx, lambda _, session, how: remove_models(names, session, how, os.environ), hint=restore_hint
    )
