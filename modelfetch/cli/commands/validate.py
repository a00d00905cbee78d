"""``modelfetch validate``."""

from __future__ import annotations

import click

from modelfetch.cli import complete, options
from modelfetch.cli.common import refuse_link
from modelfetch.core.units import format_count
from modelfetch.errors import ModelfetchError, exit_code_of
from modelfetch.render.errors import show_errors
from modelfetch.render.out import note, put
from modelfetch.render.text import plain


@click.command("validate")
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=options.value("file"), shell_complete=complete.files
)
@options.option("-q", "--quiet", is_flag=True, help="Show errors and warnings only.")
def command(files: tuple[str, ...], *, quiet: bool) -> int:
    """Check manifests without network access.

    Exits with 0 if all of them are valid, else with 78, after listing every problem with its line. Warns of names
    that the service does not list, and of folders that a path repeats.
    """
    from pathlib import Path

    from modelfetch.manifest.kinds import manifest_warnings
    from modelfetch.tiers.loader import load_manifest

    errors: list[ModelfetchError] = []
    for file in dict.fromkeys(files):
        refuse_link(file)
        try:
            manifest = load_manifest(Path(file))
        except ModelfetchError as error:
            errors.append(error)
        else:
            for warning in manifest_warnings(manifest):
                note(plain(f"warning: {warning}"))
            if not quiet:
                put(plain(f"{file}: valid, {format_count(len(manifest.models), 'model')}"))
    show_errors(tuple(errors))
    return exit_code_of(errors)
