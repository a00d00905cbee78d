"""Every AI model of your stack, fetched once, verified, and in place before a service starts.

    >>> import modelfetch
    >>> report = modelfetch.sync(tier="16g", root="files/ai-models")  # doctest: +SKIP
    >>> report.ok  # doctest: +SKIP
    True

Names are imported when they are first used: ``import modelfetch`` alone is quick.
"""

from __future__ import annotations

TYPE_CHECKING = False  # the name is what type checkers go by; importing typing is what a no-op can't afford
if TYPE_CHECKING:
    from typing import Any

    from modelfetch.api import plan_async, sync, sync_async
    from modelfetch.core.digest import Digest
    from modelfetch.core.report import ArtifactReport, ModelReport, Report
    from modelfetch.errors import (
        CredentialsError,
        DestinationError,
        DiskError,
        IntegrityError,
        InterruptedSync,
        ManifestError,
        ModelfetchError,
        NotAModelError,
        NotFoundError,
        Problem,
        RetryLaterError,
        SettingError,
        UnreachableError,
        UsageError,
    )
    from modelfetch.manifest.model import FileSpec, Manifest, Model, Service
    from modelfetch.pipeline.retrieve import retrieve, retrieve_async
    from modelfetch.tiers.loader import load_manifest

__version__ = "0.1.0"

_WHERE = {
    "modelfetch.api": ("plan_async", "sync", "sync_async"),
    "modelfetch.pipeline.retrieve": ("retrieve", "retrieve_async"),
    "modelfetch.core.digest": ("Digest",),
    "modelfetch.tiers.loader": ("load_manifest",),
    "modelfetch.manifest.model": ("FileSpec", "Manifest", "Model", "Service"),
    "modelfetch.core.report": ("ArtifactReport", "ModelReport", "Report"),
    "modelfetch.errors": (
        "CredentialsError",
        "DestinationError",
        "DiskError",
        "IntegrityError",
        "InterruptedSync",
        "ManifestError",
        "ModelfetchError",
        "NotAModelError",
        "NotFoundError",
        "Problem",
        "RetryLaterError",
        "SettingError",
        "UnreachableError",
        "UsageError",
    ),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "ArtifactReport",
    "CredentialsError",
    "DestinationError",
    "Digest",
    "DiskError",
    "FileSpec",
    "IntegrityError",
    "InterruptedSync",
    "Manifest",
    "ManifestError",
    "Model",
    "ModelReport",
    "ModelfetchError",
    "NotAModelError",
    "NotFoundError",
    "Problem",
    "Report",
    "RetryLaterError",
    "Service",
    "SettingError",
    "UnreachableError",
    "UsageError",
    "load_manifest",
    "plan_async",
    "retrieve",
    "retrieve_async",
    "sync",
    "sync_async",
]


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
