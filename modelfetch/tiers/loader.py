"""`load_manifest` for Python callers: reads a manifest as the commands do, with the environment's settings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from modelfetch.config.settings import Settings
from modelfetch.manifest import load
from modelfetch.tiers import discovery

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from modelfetch.manifest.model import Manifest

_READ = ("MODELFETCH_ALLOW_HTTP", "MODELFETCH_TIERS_DIR")


def read_manifest(file: Path, settings: Settings) -> Manifest:
    """Read and validate a manifest under the given settings; raises ManifestError."""
    return load.load_manifest(
        file,
        allow_http=settings.allows_http,
        find_tier=discovery.tier_finder(settings),
    )


def load_manifest(
    path_or_text: str | PathLike[str],
    *,
    allow_http: load.AllowHttp | None = None,
    find_tier: load.FindTier | None = None,
) -> Manifest:
    """Read and validate a manifest.

    Args:
        path_or_text: A file's path; a ``str`` that contains a newline or ``": "`` is the manifest's text itself.
        allow_http: Whether plain http is allowed for a (host, port) (default: set by ``MODELFETCH_ALLOW_HTTP``).
        find_tier: Finds the file of a tier that is extended by name (default: in ``MODELFETCH_TIERS_DIR``, then in
            ``./manifests``, then among the shipped tiers).

    Raises:
        ManifestError: It can't be read or is invalid; ``problems`` lists everything that is wrong.
        SettingError: One of the two variables is invalid.
    """
    settings = Settings.from_env({name: os.environ[name] for name in _READ if name in os.environ})
    return load.load_manifest(
        path_or_text,
        allow_http=allow_http or settings.allows_http,
        find_tier=find_tier or discovery.tier_finder(settings),
    )
