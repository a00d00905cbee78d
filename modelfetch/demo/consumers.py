"""Simulated consumers: what real services do to the files placed for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def rewrite_in_place(path: Path, suffix: bytes = b"batch axis") -> None:
    """Save a slightly changed model under the same name, as Immich does with its recognition models."""
    data = path.read_bytes()
    with path.open("wb") as file:
        file.write(data + suffix)
