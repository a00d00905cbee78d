"""Files that run code when they are loaded."""

from __future__ import annotations

PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".pkl")
"""Suffixes of files that are pickles by convention."""


def is_pickle(name: str) -> bool:
    """Whether a file of this name runs code when it is loaded."""
    return name.lower().endswith(PICKLE_SUFFIXES)
