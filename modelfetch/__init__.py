"""Download AI models once, verify them, and put them in place before a service starts.

    >>> import modelfetch
    >>> report = modelfetch.sync(tier="16g", root="files/ai-models")  # doctest: +SKIP
    >>> report.ok  # doctest: +SKIP
    True

The functions are `sync`, `plan`, `status`, `pin`, `fit` and `retrieve`, each with an ``_async`` form, and
`load_manifest`. Names are imported when they are first used, so ``import modelfetch`` alone is quick.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers go by the name; importing typing would slow down every sync with nothing to do
if TYPE_CHECKING:
    from modelfetch.api import (
        add,
        add_async,
        adopt,
        adopt_async,
        fit,
        fit_async,
        pin,
        pin_async,
        plan,
        plan_async,
        prune,
        prune_async,
        remove,
        remove_async,
        retrieve,
        retrieve_async,
        status,
        status_async,
        sync,
        sync_async,
        verify,
        verify_async,
    )
    from modelfetch.config.options import FetchValues, OptionValues, PinValues
    from modelfetch.core.cancel import Cancel
    from modelfetch.core.digest import Digest
    from modelfetch.core.events import (
        Event,
        Notice,
        Placed,
        Planned,
        SourceFailed,
        TransferEnded,
        TransferFinished,
        TransferProgress,
        TransferRetrying,
        TransferStarted,
        Waiting,
    )
    from modelfetch.core.report import ArtifactReport, ModelReport, Report
    from modelfetch.errors import (
        CredentialsError,
        DestinationError,
        DiskError,
        FitError,
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
    from modelfetch.fitting.types import Estimate, FitReport, ServiceFit
    from modelfetch.manifest.model import FileSpec, Manifest, Model, Service
    from modelfetch.pinning.add import Added, AddReport
    from modelfetch.tiers.loader import load_manifest

__version__ = "0.1.0"

_WHERE = {
    "modelfetch.api": (
        "add",
        "add_async",
        "adopt",
        "adopt_async",
        "fit",
        "fit_async",
        "pin",
        "pin_async",
        "plan",
        "plan_async",
        "prune",
        "prune_async",
        "remove",
        "remove_async",
        "retrieve",
        "retrieve_async",
        "status",
        "status_async",
        "sync",
        "sync_async",
        "verify",
        "verify_async",
    ),
    "modelfetch.config.options": (
        "FetchValues",
        "OptionValues",
        "PinValues",
    ),
    "modelfetch.core.cancel": ("Cancel",),
    "modelfetch.core.digest": ("Digest",),
    "modelfetch.core.events": (
        "Event",
        "Notice",
        "Placed",
        "Planned",
        "SourceFailed",
        "TransferEnded",
        "TransferFinished",
        "TransferProgress",
        "TransferRetrying",
        "TransferStarted",
        "Waiting",
    ),
    "modelfetch.core.report": (
        "ArtifactReport",
        "ModelReport",
        "Report",
    ),
    "modelfetch.errors": (
        "CredentialsError",
        "DestinationError",
        "DiskError",
        "FitError",
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
    "modelfetch.fitting.types": (
        "Estimate",
        "FitReport",
        "ServiceFit",
    ),
    "modelfetch.manifest.model": (
        "FileSpec",
        "Manifest",
        "Model",
        "Service",
    ),
    "modelfetch.pinning.add": ("AddReport", "Added"),
    "modelfetch.tiers.loader": ("load_manifest",),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "AddReport",
    "Added",
    "ArtifactReport",
    "Cancel",
    "CredentialsError",
    "DestinationError",
    "Digest",
    "DiskError",
    "Estimate",
    "Event",
    "FetchValues",
    "FileSpec",
    "FitError",
    "FitReport",
    "IntegrityError",
    "InterruptedSync",
    "Manifest",
    "ManifestError",
    "Model",
    "ModelReport",
    "ModelfetchError",
    "NotAModelError",
    "NotFoundError",
    "Notice",
    "OptionValues",
    "PinValues",
    "Placed",
    "Planned",
    "Problem",
    "Report",
    "RetryLaterError",
    "Service",
    "ServiceFit",
    "SettingError",
    "SourceFailed",
    "TransferEnded",
    "TransferFinished",
    "TransferProgress",
    "TransferRetrying",
    "TransferStarted",
    "UnreachableError",
    "UsageError",
    "Waiting",
    "add",
    "add_async",
    "adopt",
    "adopt_async",
    "fit",
    "fit_async",
    "load_manifest",
    "pin",
    "pin_async",
    "plan",
    "plan_async",
    "prune",
    "prune_async",
    "remove",
    "remove_async",
    "retrieve",
    "retrieve_async",
    "status",
    "status_async",
    "sync",
    "sync_async",
    "verify",
    "verify_async",
]


if not TYPE_CHECKING:  # a type checker would take every name for one of ours

    def __getattr__(name: str) -> object:
        module = _MODULE_OF.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        value = getattr(importlib.import_module(module), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
