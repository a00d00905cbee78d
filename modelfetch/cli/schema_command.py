"""``modelfetch schema``."""

from __future__ import annotations

import json

import click


@click.command("schema")
def command() -> int:
    """Print the JSON Schema of manifests, for editors and checkers."""
    from modelfetch.manifest.schema import json_schema

    print(json.dumps(json_schema(), indent=2))  # noqa: T201 - data goes to stdout
    return 0
