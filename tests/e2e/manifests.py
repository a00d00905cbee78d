"""Manifests for the tests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def write_manifest(path: Path, *models: dict[str, Any]) -> Path:
    """A manifest with these models (JSON is YAML)."""
    path.write_text(json.dumps({"version": 1, "tier": path.stem, "models": models}, indent=1))
    return path
