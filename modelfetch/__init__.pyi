# The public names. modelfetch/__init__.py reads them from here too, and imports each when it is first used.

from modelfetch.api import (
    add as add,
    add_async as add_async,
    adopt as adopt,
    adopt_async as adopt_async,
    fit as fit,
    fit_async as fit_async,
    pin as pin,
    pin_async as pin_async,
    plan as plan,
    plan_async as plan_async,
    prune as prune,
    prune_async as prune_async,
    remove as remove,
    remove_async as remove_async,
    retrieve as retrieve,
    retrieve_async as retrieve_async,
    status as status,
    status_async as status_async,
    sync as sync,
    sync_async as sync_async,
    verify as verify,
    verify_async as verify_async,
)
from modelfetch.config.options import FetchValues as FetchValues, OptionValues as OptionValues, PinValues as PinValues
from modelfetch.core.cancel import Cancel as Cancel
from modelfetch.core.digest import Digest as Digest
from modelfetch.core.events import (
    Event as Event,
    Notice as Notice,
    Placed as Placed,
    Planned as Planned,
    SourceFailed as SourceFailed,
    TransferEnded as TransferEnded,
    TransferFinished as TransferFinished,
    TransferProgress as TransferProgress,
    TransferRetrying as TransferRetrying,
    TransferStarted as TransferStarted,
    Waiting as Waiting,
)
from modelfetch.core.report import ArtifactReport as ArtifactReport, ModelReport as ModelReport, Report as Report
from modelfetch.errors import (
    CredentialsError as CredentialsError,
    DestinationError as DestinationError,
    DiskError as DiskError,
    FitError as FitError,
    IntegrityError as IntegrityError,
    InterruptedSync as InterruptedSync,
    ManifestError as ManifestError,
    ModelfetchError as ModelfetchError,
    NotAModelError as NotAModelError,
    NotFoundError as NotFoundError,
    Problem as Problem,
    RetryLaterError as RetryLaterError,
    SettingError as SettingError,
    UnreachableError as UnreachableError,
    UsageError as UsageError,
)
from modelfetch.fitting.types import Estimate as Estimate, FitReport as FitReport, ServiceFit as ServiceFit
from modelfetch.manifest.model import FileSpec as FileSpec, Manifest as Manifest, Model as Model, Service as Service
from modelfetch.pinning.types import Added as Added, AddReport as AddReport
from modelfetch.tiers.loader import load_manifest as load_manifest

__all__: list[str]
__version__: str
