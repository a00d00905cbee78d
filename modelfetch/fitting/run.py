"""``fit`` for manifests and single URIs: resolves the files and estimates their memory from the headers."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from modelfetch.config.options import parse_options
from modelfetch.core import os_errors
from modelfetch.core.directories import own_folder
from modelfetch.core.events import Notice, Sink, discard
from modelfetch.core.root import CONSUMERS
from modelfetch.core.units import format_list
from modelfetch.errors import ModelfetchError, NotAModelError, UsageError
from modelfetch.fitting.candidates import (
    ReaderRegistry,
    candidate,
    files_below,
    files_of,
    local_file,
    pinned_candidate,
    shards_of,
    sizes_are_enough,
)
from modelfetch.fitting.estimate import LOADED_KINDS
from modelfetch.fitting.types import Candidate, FitReport
from modelfetch.fitting.verdict import fit_alone, fit_tier
from modelfetch.fitting.workload import IMAGE_SERVICES, consumer_of, names_model
from modelfetch.manifest.model import FileSpec, Service
from modelfetch.manifest.uri import HfUri, OllamaUri
from modelfetch.pipeline.plan import select
from modelfetch.pipeline.resolve import mirrors_of, resolve_all
from modelfetch.pipeline.run import run_session
from modelfetch.placement.receipts import read_receipts
from modelfetch.sources import SourceRequest
from modelfetch.sources.argument import parse_argument
from modelfetch.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from modelfetch.core.artifact import Artifact, Location, Resolution
    from modelfetch.core.cancel import Cancel
    from modelfetch.manifest.model import Manifest, Model
    from modelfetch.manifest.uri import Uri
    from modelfetch.pipeline.plan import ModelRequest
    from modelfetch.pipeline.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOverrides:
    """Command-line settings that override the manifest's; None keeps the manifest's value. ``usable`` in bytes."""

    context: int | None = None
    parallel: int | None = None
    kv_type: str | None = None
    flash_attention: bool | None = None
    usable: int | None = None

    def applied_to(self, service: Service) -> Service:
        """Apply these settings to a service."""
        given = {name: value for name, value in asdict(self).items() if value is not None and name != "usable"}
        return replace(service, **given)


def fit_failed(
    errors: Sequence[ModelfetchError], *, tier: str | None, root: str = "", seconds: float = 0.0
) -> FitReport:
    """Return the report of an estimate that failed before it reached any model."""
    return FitReport(tier=tier, usable=None, needed=0, services=(), errors=tuple(errors))


# ── a tier ──
async def fit_manifests(manifests: Sequence[Manifest], session: Session, overrides: FitOverrides) -> FitReport:
    """Estimate all models of the manifests together; a source or file that fails becomes an error of the report."""
    services = tuple(service for manifest in manifests for service in _services(manifest, session, overrides))
    items = [item for item in select(manifests, session.options.consumers) if _is_loaded(item, services)]
    unpinned = [item for item in items if not _needs_no_source(item.model)]
    receipts = await asyncio.to_thread(read_receipts, session.options.root)
    found = dict(
        zip((id(item) for item in unpinned), await resolve_all(unpinned, session, receipts, set()), strict=True)
    )
    library = await asyncio.to_thread(ReaderRegistry, session, _store_of_sync(session))
    loop = asyncio.get_running_loop()
    candidates = [
        candidate(item.model, found[id(item)], library, _mirrors(item, session, loop))
        if id(item) in found
        else pinned_candidate(item.model)
        for item in items
    ]
    _warn_unbudgeted_models(services, candidates, session)
    usable = overrides.usable if overrides.usable is not None else _usable(manifests)
    tier = manifests[0].tier if manifests else None
    return await _reading(library, lambda: fit_tier(tier=tier, services=services, candidates=candidates, usable=usable))


async def _reading(library: ReaderRegistry, estimate: Callable[[], FitReport]) -> FitReport:
    """Estimate in a thread, and keep what was read for a later download."""

    def work() -> FitReport:
        try:
            report = estimate()
            library.keep()
        finally:
            library.close()
        return replace(report, bytes_fetched=library.fetched)

    return await asyncio.to_thread(work)


def _warn_unbudgeted_models(services: Iterable[Service], candidates: Sequence[Candidate], session: Session) -> None:
    """Warn if a service's budget is for a model that it does not have: the verdict covers the models that it has."""
    for service in services:
        mine = [candidate for candidate in candidates if consumer_of(service) in candidate.consumers]
        if service.model is None or not mine or any(names_model(service, candidate) for candidate in mine):
            continue
        message = f"{service.name} is budgeted for {service.model!r}, which is none of its models"
        has = ", ".join(candidate.name for candidate in mine)
        session.sink(Notice(level="warning", message=message, hint=f"it has {has}: the verdict is for these"))


def _store_of_sync(session: Session) -> Store | None:
    """The store that `sync` continues with; None if `sync` must first create its folder with the right owner."""
    options = session.options
    return session.store if (options.store or options.root).is_dir() else None


def _services(manifest: Manifest, session: Session, overrides: FitOverrides) -> tuple[Service, ...]:
    """The manifest's services; if it has none, one without a budget for each consumer."""
    chosen = session.options.consumers
    services = manifest.services
    if not services:
        used = {consumer for model in manifest.models for consumer in model.consumers}
        services = tuple(
            Service(name=name, exclusive="image" if name in IMAGE_SERVICES else None)
            for name in CONSUMERS
            if name in used
        )
    kept = (service for service in services if not chosen or consumer_of(service) in chosen)
    return tuple(overrides.applied_to(service) if service.name == "ollama" else service for service in kept)


def _is_loaded(item: ModelRequest, services: Iterable[Service]) -> bool:
    """Whether a model counts for one of the services, on the GPU.

    An optional alignment model does not: WhisperX loads it only once someone speaks its language.
    """
    if item.model.optional and item.model.kind == "torch-checkpoint":
        return False
    on_gpu = {consumer_of(service) for service in services if service.device != "cpu"}
    return item.model.kind in LOADED_KINDS and any(consumer in on_gpu for consumer in item.model.consumers)


def _needs_no_source(model: Model) -> bool:
    return set(model.consumers) <= {"diffrhythm", "immich"} or sizes_are_enough(model)


def _usable(manifests: Iterable[Manifest]) -> int | None:
    return min((m.usable for m in manifests if m.usable is not None), default=None)


def _mirrors(
    item: ModelRequest, session: Session, loop: asyncio.AbstractEventLoop
) -> Callable[[Artifact], Callable[[], Sequence[Location]]]:
    """For an artifact, a function that finds its locations at mirrors; call it in a thread: it waits for the loop."""

    async def find(artifact: Artifact) -> list[Location]:
        places: list[Location] = []
        for locate in mirrors_of(item, artifact, session):
            with contextlib.suppress(ModelfetchError):  # the source's own error is reported instead
                places += await locate()
        return places

    return lambda artifact: lambda: asyncio.run_coroutine_threadsafe(find(artifact), loop).result()


# ── one model ──
async def run_fit(
    uri: str,
    options: Mapping[str, Any],
    overrides: FitOverrides,
    *,
    sink: Sink = discard,
    cancel: Cancel | None = None,
) -> FitReport:
    """Estimate one model. No `ModelfetchError` is raised: errors are in the report."""
    return await run_session(
        lambda _: parse_options(options),
        lambda session: fit_uri(uri, session, overrides),
        failure=fit_failed,
        sink=sink,
        cancel=cancel,
    )


async def fit_uri(text: str, session: Session, overrides: FitOverrides) -> FitReport:
    """Estimate one model: a URI as in a manifest, a file, or a folder of a model.

    Raises:
        UsageError: It is neither.
        ModelfetchError: Its source failed, or it is no model.
    """
    path = Path(text)
    if not text.strip():
        raise UsageError("the URI is empty", hint="a file or folder on disk, or a URI such as ollama://NAME")
    if "://" not in text and await asyncio.to_thread(path.exists):
        return await asyncio.to_thread(_fit_path, path, overrides)
    uri = _parse(text, session)
    found = await _resolve(uri, session)
    cache = Store(own_folder(session.settings.cache_path()))
    library = await asyncio.to_thread(ReaderRegistry, session, cache)
    files = files_of(found, library, lambda _artifact: lambda: ())
    one = Candidate(name=_name(uri), uri=str(uri), files=files)
    try:
        return await _reading(library, lambda: _fit_one(one, overrides))
    except ModelfetchError as error:
        raise error.about(uri=str(uri)) from error.__cause__


def _fit_path(path: Path, overrides: FitOverrides) -> FitReport:
    try:
        files = files_below(path) if path.is_dir() else (local_file(path),)
        one = Candidate(name=path.resolve().name, uri=path.resolve().as_uri(), files=files)
        return replace(_fit_one(one, overrides), bytes_fetched=0)
    except OSError as error:
        raise os_errors.translate(error, path, doing="reading") from error
    except ModelfetchError as error:
        if isinstance(error, NotAModelError) and error.hint == NotAModelError.default_hint:
            error.hint = "the file may be cut off, or contain something other than model weights"
        raise error.about(uri=path.resolve().as_uri()) from error.__cause__


def _parse(text: str, session: Session) -> Uri:
    otherwise = "a file or folder on disk, or a URI: ollama://NAME, hf://NS/REPO/FILE, https://…"
    return parse_argument(text, otherwise, session.settings)


async def _resolve(uri: Uri, session: Session) -> Resolution:
    """Resolve a URI at its source; offline, from a receipt."""
    if session.settings.offline and (kept := await asyncio.to_thread(_kept, uri, session)):
        return kept
    if isinstance(uri, HfUri) and uri.path is not None and len(shards := shards_of(uri.path)) > 1:
        whole = replace(uri, path=None)
        return await session.sources.resolve(
            SourceRequest(
                uri=whole, kind="snapshot", files=tuple(FileSpec(path=shard) for shard in shards), allow_pickle=True
            )
        )
    whole_repo = isinstance(uri, HfUri) and uri.path is None
    kind = None if isinstance(uri, OllamaUri) else "snapshot" if whole_repo else "file"
    # Nothing that is read here is kept, so a pickle next to the weights need not be refused.
    return await session.sources.resolve(SourceRequest(uri=uri, kind=kind, allow_pickle=True))


def _kept(uri: Uri, session: Session) -> Resolution | None:
    for receipt in read_receipts(session.options.root).values():
        for frozen in receipt.frozen.values():
            if any(artifact.uri == str(uri) for artifact in frozen.resolution.artifacts):
                return frozen.resolution
    return None


def _fit_one(found: Candidate, overrides: FitOverrides) -> FitReport:
    """Estimate a candidate whose files belong to one model.

    Raises:
        UsageError: It has several quantizations, and one must be named.
    """
    names = {file.path for file in found.files if file.path.lower().endswith(".gguf") and "mmproj" not in file.path}
    models = {shards_of(name)[0] for name in names}
    if len(models) > 1:
        listed = format_list(sorted(models))
        raise UsageError(f"{found.uri} holds several models: {listed}", hint="name one of these files")
    return fit_alone(found, overrides.applied_to(_service(found)), usable=overrides.usable)


def _service(found: Candidate) -> Service:
    """The service that would load it; its name is only for the report, its kind determines the estimate."""
    names = [PurePosixPath(file.path).name.lower() for file in found.files]
    if any(name == "model" or name.endswith(".gguf") for name in names):
        return Service(name="ollama")
    if "model.bin" in names:
        return Service(name="whisper")
    return Service(name="comfyui")


def _name(uri: Uri) -> str:
    if isinstance(uri, OllamaUri):
        return f"{uri.model}:{uri.tag}"
    path = getattr(uri, "path", None) or getattr(uri, "repo", None) or str(uri)
    return PurePosixPath(path).name
