"""``modelfetch schema``."""

from __future__ import annotations

import click


@click.command("schema")
def command() -> int:
    """Print the JSON Schema of manifests, for editors and checkers."""
    from modelfetch.manifest.schema import json_schema_text

    click.echo(json_schema_text(), nl=False)
    return 0
