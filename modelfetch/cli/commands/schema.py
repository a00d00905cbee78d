"""``modelfetch schema``."""

from __future__ import annotations

import click

from modelfetch.render.out import put


@click.command("schema")
def command() -> int:
    """Print the JSON Schema of manifests, for editors and checkers."""
    from modelfetch.manifest.schema import json_schema_text

    put(json_schema_text(), end="")
    return 0
