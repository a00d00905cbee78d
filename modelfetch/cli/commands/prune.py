"""``modelfetch prune``."""

from __future__ import annotations

import os
from typing import Any

import click

from modelfetch.cli import common, options


@click.command("prune")
@options.files
@options.manifest_options
@options.folder_options
@options.removal_options
@options.output_options
@click.pass_context
def command(ctx: click.Context, /, **_: Any) -> int:
    """Remove the files that no chosen tier needs, unused blobs and old unfinished downloads.

    Without a tier or manifest, every model that was placed for some tier stays. Only unchanged files that
    modelfetch made are removed; models that people pulled with Ollama keep their blobs.
    """
    from modelfetch.care.prune import prune_files

    return common.perform_removal(ctx, lambda manifests, session, how: prune_files(manifests, session, how, os.environ))
