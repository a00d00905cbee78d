"""`load_manifest` for callers from Python: as a command reads a manifest, with what the environment allows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from modelfetch.manifest import load
from modelfetch.manifest.tiers import find_tier
from modelfetch.settings import Settings

if TYPE_CHECKING:
    from os import PathLike

    from modelfetch.manifest.model import Manifest

_READ = ("MODELFETCH_ALLOW_HTTP", "MODELFETCH_TIERS_DIR")


def load_manifest(path_or_text: str | PathLike[str]) -> Manifest:
    """Read and validate a manifest; ``MODELFETCH_ALLOW_HTTP`` and ``MODELFETCH_TIERS_DIR`` count.

    Args:
        path_or_text: A file's path; a ``str`` that holds a newline or ``": "`` is the manifest's text itself.

    Raises:
        ManifestError: It can't be read or is invalid; ``problems`` holds all that is wrong.
        SettingError: One of the two variables is invalid.
    """
    settings = Settings.from_env({name: os.environ[name] for name in _READ if name in os.environ})
    return load.load_manifest(
        path_or_text,
        allow_http=settings.allows_http,
        find_tier=lambda name: find_tier(name, settings.tiers_dir),
    )
