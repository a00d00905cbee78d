"""What the manifest's tests share: short ways to load text and to see what is wrong with it."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

from modelfetch.errors import ManifestError
from modelfetch.manifest.load import load_bytes
from modelfetch.manifest.schema import json_schema

if TYPE_CHECKING:
    from modelfetch.manifest.model import Manifest, Model

COMMIT = "536b0662742c02347bc0e980a01041f333bce120"
OTHER_COMMIT = "462165984030d82259a11f4367a4eed129e94a7b"
SHA = "a80c4f17acd55265feec403c7aef86be0c25983ab279d83f3bcd3abbcb5b8b72"
DIGEST = f"sha256:{SHA}"

VALIDATOR: Any = import_module("jsonschema").Draft202012Validator(json_schema())
"""Validates documents by the schema that the code makes (imported so because the library has no types)."""


def load(text: str | bytes, **options: Any) -> Manifest:
    """The manifest of a text; `load_bytes` itself, as file ``m.yaml``."""
    return load_bytes(text.encode() if isinstance(text, str) else text, file="m.yaml", **options)


def problems(text: str | bytes, **options: Any) -> list[str]:
    """All that is wrong with a text, as ``LINE:COLUMN: MESSAGE``; empty when it is valid."""
    try:
        load(text, **options)
    except ManifestError as error:
        return [str(problem).removeprefix("m.yaml:") for problem in error.problems]
    return []


def entry(name: str = "m", **keys: str) -> str:
    """A model's text; ``_for`` stands for ``for``."""
    given = {"name": name, **{key.lstrip("_"): value for key, value in keys.items()}}
    return "  - {" + ", ".join(f"{key}: {value}" for key, value in given.items()) + "}\n"


def models(*entries: str) -> str:
    """A manifest's text around models."""
    return "version: 1\nmodels:\n" + "".join(entries)


def model(**keys: str) -> Model:
    """The one model that these keys make."""
    (made,) = load(models(entry(**keys))).models
    return made


def wrong(**keys: str) -> str:
    """The one thing that is wrong with a model of these keys."""
    found = problems(models(entry(**keys)))
    assert len(found) == 1, found
    return re.sub(r"^\d+:\d+: ", "", found[0])
