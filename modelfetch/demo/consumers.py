"""Consumers of the demo: what real services do to the files that were placed for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def rewrite_in_place(path: Path, suffix: bytes = b"batch axis") -> None:
    """Save a model under its own name, slightly changed, as Immich does with its recognition models."""
    data = path.read_bytes()
    with path.open("wb") as file:
        file.write(data + suffix)
