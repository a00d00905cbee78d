"""Add links to a manifest: resolve them, detect their kind, pin them and append their entries."""

from __future__ import annotations

import asyncio
import re
import shlex
import time
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from modelfetch.core import os_errors
from modelfetch.core.directories import require_parent
from modelfetch.core.events import Notice, Sink, discard
from modelfetch.core.root import CONSUMERS
from modelfetch.core.similar import nearest
from modelfetch.core.units import total_size
from modelfetch.core.urls import without_credentials
from modelfetch.errors import DestinationError, ManifestError, ModelfetchError, NotAModelError, UsageError
from modelfetch.fitting import FitOverrides, fit_uri
from modelfetch.fitting.candidates import ReaderRegistry
from modelfetch.fitting.estimate import LOADED_KINDS
from modelfetch.formats.content_check import HEAD
from modelfetch.formats.gguf import MAGICS, read_gguf
from modelfetch.formats.pickles import PICKLE_SUFFIXES
from modelfetch.formats.safetensors import read_safetensors
from modelfetch.manifest.kinds import KINDS, WEIGHT_KINDS, consumers_of
from modelfetch.manifest.model import Model, Position
from modelfetch.manifest.schema import json_schema_text
from modelfetch.manifest.uri import CivitaiUri, HfUri, HttpUri, OllamaUri, parse_uri
from modelfetch.pinning.append import new_manifest
from modelfetch.pinning.detect import (
    Detected,
    by_files,
    by_folder,
    by_gguf,
    by_tensors,
    by_upstream,
    combine,
    consumers_for,
)
from modelfetch.pinning.document import check_writable, load_text, read_document, with_entries, write_document
from modelfetch.pinning.entry import PinEntry, fill_pins
from modelfetch.pinning.types import Added, AddReport, AddRequest
from modelfetch.pinning.upstream import measure_all
from modelfetch.pipeline.run import in_cache, run_session
from modelfetch.sources import SourceRequest
from modelfetch.sources.argument import parse_argument
from modelfetch.sources.factory import canonical_uri

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from modelfetch.core.artifact import Artifact
    from modelfetch.core.cancel import Cancel
    from modelfetch.fitting.types import FitReport
    from modelfetch.manifest.uri import Uri
    from modelfetch.pinning.document import Document
    from modelfetch.pipeline.session import Session

SCHEMA_FILE = "manifest.schema.json"
"""The schema that a new manifest's first line names; written next to it, so that editors find it offline."""

KINDS_TO_ADD = tuple(kind for kind in KINDS if kind in WEIGHT_KINDS or kind == "snapshot")
"""The kinds that a caller may choose."""

_NOWHERE = Position(file="", line=0, column=0)
_QUANT = re.compile(r"(?:^|[._-])((?:UD-)?(?:IQ|Q|TQ)\d\w*|F16|BF16|F32|FP16|MXFP4\w*)(?=[._-]|\Z)", re.IGNORECASE)


async def run_add(
    request: AddRequest, options: Mapping[str, Any], *, sink: Sink = discard, cancel: Cancel | None = None
) -> AddReport:
    """Add links to a manifest. No `ModelfetchError` is raised: errors are in the report."""

    def failure(errors: Sequence[ModelfetchError], *, tier: str | None, root: str, seconds: float) -> AddReport:
        return AddReport(manifest=str(request.manifest), errors=tuple(errors), seconds=seconds)

    return await run_session(
        in_cache(options),
        lambda session: add_links(request, session),
        failure=failure,
        sink=sink,
        cancel=cancel,
    )


async def add_links(request: AddRequest, session: Session) -> AddReport:
    """Resolve links, detect their kind, pin them, and append their entries to a manifest; all of them or none.

    Raises:
        UsageError: A link is invalid, or its kind can't be detected and ``choose`` is None.
        ManifestError: The manifest can't be read or is invalid, or would be with the new entries.
        DestinationError, DiskError: It can't be written.
        ModelfetchError: A source failed, or what it has is no model.
    """
    started = time.monotonic()
    _check(request)
    document = await _read(request.manifest, session)
    models = list(document.manifest.models) if document else []
    added: list[Added] = []
    for link in request.links:
        uri = _parse(link, session)
        known = next((model for model in models if _is_same(model.source, uri, session)), None)
        one = (
            Added(model=known, is_new=False, size=_pinned_size(known))
            if known
            else await _Resolver(request, session, models).add(uri)
        )
        added.append(one)
        if one.is_new:
            models.append(one.model)
    _warn_of_ignored(request, [one.model for one in added if not one.is_new], session)
    new = [one.model for one in added if one.is_new]
    text = _text(document, new, request, session) if new else None
    usable = document.manifest.usable if document else None
    added = [replace(one, fit=await _fit(one.model, session, usable)) if one.is_new else one for one in added]
    session.cancel.check()
    if text is not None and not request.dry_run:
        await asyncio.to_thread(_write, document, text, request.manifest)
    return AddReport(
        manifest=str(request.manifest),
        added=tuple(added),
        written=text is not None and not request.dry_run,
        seconds=time.monotonic() - started,
        requests=session.requests,
    )


def _warn_of_ignored(request: AddRequest, known: Sequence[Model], session: Session) -> None:
    """Warn if the caller's choice differs from an entry that the manifest already has."""
    for model in known:
        chosen = (
            ("--name", request.name, model.name),
            ("--kind", request.kind, model.kind),
            ("--for", ",".join(request.consumers) or None, ",".join(model.consumers)),
        )
        for option, value, has in chosen:
            if value is not None and value != has:
                message = f"{option} {value} was ignored: {model.position} has this link as {model.name!r}"
                session.sink(Notice(level="warning", message=message, hint="change the entry there"))


def _check(request: AddRequest) -> None:
    if not request.links:
        raise UsageError("no link given", hint="modelfetch add LINK, such as hf://NS/REPO/FILE")
    if request.name is not None and len(request.links) > 1:
        raise UsageError("--name names one model, but several links were given")
    if request.kind is not None:
        check_kind(request.kind)
    if unknown := [name for name in request.consumers if name not in CONSUMERS]:
        raise _unknown("consumer", unknown[0], CONSUMERS)


def check_kind(kind: str) -> str:
    """Return a kind that `add` can write; raises UsageError."""
    if kind not in KINDS_TO_ADD:
        raise _unknown("kind", kind, KINDS_TO_ADD)
    return kind


def _unknown(what: str, name: str, known: Sequence[str]) -> UsageError:
    near = nearest(name, known)
    suggestion = f"did you mean {near}? " if near else ""
    return UsageError(f"unknown {what} {name[:40]!r}", hint=f"{suggestion}known: {', '.join(known)}")


def _parse(link: str, session: Session) -> Uri:
    uri = parse_argument(link, "paste a page's address, or a URI such as hf://NS/REPO/FILE", session.settings)
    return canonical_uri(uri, session.settings, keep_text=False)


def _is_same(source: Uri, uri: Uri, session: Session) -> bool:
    """Whether an entry's source is this one; without a revision, or at ``main``, any pinned commit matches."""
    home = canonical_uri(source, session.settings)
    if isinstance(home, HfUri) and isinstance(uri, HfUri):
        return (home.repo, home.path) == (uri.repo, uri.path) and uri.revision in (None, "main", home.revision)
    if isinstance(home, HttpUri) and isinstance(uri, HttpUri):
        return without_credentials(home.text) == without_credentials(uri.text)
    return str(home) == str(uri)


# ── one link ──
class _Resolver:
    """Makes one link's entry."""

    def __init__(self, request: AddRequest, session: Session, models: Sequence[Model]) -> None:
        self._request = request
        self._session = session
        self._models = models

    async def add(self, uri: Uri) -> Added:
        if isinstance(uri, OllamaUri):
            found = Detected(consumers=("ollama",), why="an Ollama model")
            return await self._pinned(uri, found, f"{uri.model}-{uri.tag}")
        if isinstance(uri, HfUri) and uri.path is None:
            listing = await self._session.sources.resolve(SourceRequest(uri=uri, kind="snapshot", allow_pickle=True))
            found = by_files(uri.repo, [artifact.path for artifact in listing.artifacts])
            if self._request.kind == "snapshot" and found.kind is None:
                found = Detected(kind="snapshot", consumers=consumers_for("snapshot", None))
            if found.kind is not None:
                return await self._pinned(uri, found, uri.repo.rpartition("/")[2])
            uri = await self._file_of(uri, found.choices)
        return await self._single(uri)

    async def _file_of(self, repo: HfUri, paths: Sequence[str]) -> HfUri:
        """The file of a repo to add: the only one, or the chosen one."""
        links = [f"{repo.text.rstrip('/')}/{quote(path)}" for path in paths]
        link = (
            links[0]
            if len(links) == 1
            else await self._choose(f"Which file of {repo.repo}?", links, _unnamed(repo, links))
        )
        uri = parse_uri(link)
        assert isinstance(uri, HfUri)  # noqa: S101 - it was made from one
        return uri

    async def _single(self, uri: Uri) -> Added:
        wanted = SourceRequest(uri=uri, kind=self._request.kind or "file", allow_pickle=True)
        resolution = await self._session.sources.resolve(wanted)
        if len(resolution.artifacts) != 1:
            raise UsageError(f"{uri} is {len(resolution.artifacts)} files, expected one", uri=str(uri))
        (artifact,) = resolution.artifacts
        content = await asyncio.to_thread(self._by_content, artifact)
        found = combine(content, by_folder(artifact.path), by_upstream(str(uri), resolution.category))
        if found.kind is None and self._request.kind is None and found.consumers == ("ollama",):
            raise _language_model(uri, artifact)
        return await self._pinned(uri, found, PurePosixPath(artifact.path).stem, licence=resolution.license)

    def _by_content(self, artifact: Artifact) -> Detected:
        """Detect a file's kind by its header, read by range."""
        suffix = PurePosixPath(artifact.path).suffix.lower()
        if suffix in (*PICKLE_SUFFIXES, ".bin", ".onnx", ".zip"):
            return Detected()
        registry = ReaderRegistry(self._session, None)
        try:
            header = registry.prefix(artifact, lambda: ())
            if bytes(header.upto(min(HEAD, header.size or 4))[:4]) in MAGICS:
                return by_gguf(read_gguf(header, tensors=False))
            return by_tensors(read_safetensors(header))
        except NotAModelError as error:
            raise NotAModelError(f"{artifact.path}: {error.message}", hint=error.hint, uri=artifact.uri) from None
        finally:
            registry.close()

    async def _pinned(self, uri: Uri, found: Detected, name: str, *, licence: str | None = None) -> Added:
        """The entry with all that pins it."""
        self._check_name()
        kind = self._request.kind or found.kind
        if kind is None and not isinstance(uri, OllamaUri):
            all_kinds = [kind for kind in KINDS if kind in WEIGHT_KINDS]
            kinds = [kind for kind in all_kinds if set(self._request.consumers) <= set(consumers_of(kind))] or all_kinds
            kind = await self._choose(f"What kind of model is {uri}?", kinds, _unknown_kind(uri, kinds))
        consumers = self._request.consumers
        _check_choices(uri, kind, self._request.kind, consumers)
        if not consumers:
            consumers = found.consumers if kind == found.kind else consumers_for(kind or "", found.family)
        model = Model(
            name=self._request.name or self._unique(name),
            kind=kind,
            source=uri,
            consumers=consumers,
            position=_NOWHERE,
            task=found.task if kind == found.kind else None,
        )
        entry = PinEntry(model=model, home=uri)
        # The caller names this very file, and its digest is written: that is what allows a pickle.
        wanted = replace(entry.request, allow_pickle=True)
        resolution = await self._session.sources.resolve(wanted)
        (measured,) = await measure_all([entry], [resolution], self._session)
        if isinstance(measured, ModelfetchError):
            raise measured
        model = replace(fill_pins(entry, resolution, measured), license=resolution.license or licence)
        why = found.why if kind == found.kind else ""
        return Added(model=model, family=found.family, why=why, size=_pinned_size(model))

    def _check_name(self) -> None:
        """Refuse a chosen name that another entry has."""
        name = self._request.name
        if name is not None and any(model.name == name for model in self._models):
            another = shlex.quote(self._unique(name))
            raise UsageError(f"{self._request.manifest} already has a model {name!r}", hint=f"add --name {another}")

    def _unique(self, name: str) -> str:
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
        taken = {model.name for model in self._models}
        return next(n for n in (base, *(f"{base}-{number}" for number in range(2, 10_000))) if n not in taken)

    async def _choose(self, question: str, choices: Sequence[str], otherwise: UsageError) -> str:
        """The answer to a prompt; raises ``otherwise`` if no prompt is possible."""
        if self._request.choose is None or not choices:
            raise otherwise
        return await asyncio.to_thread(self._request.choose, question, choices)


def _unknown_kind(uri: Uri, kinds: Sequence[str]) -> UsageError:
    whole = f"; for the whole repo: modelfetch add hf://{uri.repo} --kind snapshot" if isinstance(uri, HfUri) else ""
    hint = f"add --kind, one of {', '.join(kinds)}{whole}"
    return UsageError(f"the kind of {uri} can't be detected", hint=hint)


def _check_choices(uri: Uri, kind: str | None, chosen: str | None, consumers: Sequence[str]) -> None:
    """Refuse a kind or services that the caller chose, where they don't go with the link."""
    if isinstance(uri, OllamaUri) and chosen is not None:
        raise UsageError(f"{uri} is a model for Ollama, which has no kind", hint="leave out --kind")
    able = ("ollama",) if isinstance(uri, OllamaUri) else consumers_of(kind or "")
    if wrong := [name for name in consumers if name not in able]:
        what = "a model for Ollama" if isinstance(uri, OllamaUri) else f"a {kind}"
        raise UsageError(f"{uri} is {what}, which {wrong[0]} can't load", hint=f"--for accepts {', '.join(able)} here")


def _pinned_size(model: Model) -> int | None:
    return total_size(file.size for file in model.pins)


def _unnamed(repo: HfUri, links: Sequence[str]) -> UsageError:
    if not links:
        return UsageError(f"{repo.repo} has no files", uri=str(repo))
    first, *others = links[:8]
    left = f" and {len(links) - 8} more" if len(links) > 8 else ""
    return UsageError(
        f"{repo.repo} has {len(links)} files, and none of them is named",
        hint=f"for one of them: modelfetch add {shlex.quote(first)} (the others: {' '.join(others)}{left}); "
        f"for the whole repo: modelfetch add {shlex.quote(str(repo))} --kind snapshot",
        uri=str(repo),
    )


def _language_model(uri: Uri, artifact: Artifact) -> UsageError:
    text = f"{artifact.path} is a language model, which Ollama takes from a registry only"
    if isinstance(uri, HfUri):
        quant = _QUANT.search(PurePosixPath(artifact.path).stem)
        tag = f":{quant[1]}" if quant else ""
        return UsageError(text, hint=f"modelfetch add ollama://hf.co/{uri.repo}{tag}", uri=str(uri))
    return UsageError(text, hint="add its name in Ollama's library: modelfetch add ollama://NAME:TAG", uri=str(uri))


async def _fit(model: Model, session: Session, usable: int | None) -> FitReport | None:
    """Estimate a model by itself; None for kinds that need no separate VRAM, and if no estimate is possible."""
    if model.kind not in LOADED_KINDS or (isinstance(model.source, CivitaiUri | HttpUri) and model.size is None):
        return None
    try:
        return await fit_uri(model.source.text, session, FitOverrides(usable=usable))
    except ModelfetchError:
        return None


# ── the manifest ──
async def _read(path: Path, session: Session) -> Document | None:
    """The existing manifest; None if there is none."""
    if not await asyncio.to_thread(path.exists):
        await asyncio.to_thread(require_parent, path)
        return None
    document = await asyncio.to_thread(read_document, path, session.settings)
    await asyncio.to_thread(check_writable, document)
    return document


def _text(document: Document | None, models: Sequence[Model], request: AddRequest, session: Session) -> bytes:
    """The manifest's new text, checked to differ from the old one by the new entries only."""
    if document is not None:
        return with_entries(document, models, session.settings)
    data = new_manifest(models, SCHEMA_FILE).encode()
    try:
        load_text(request.manifest, data, session.settings)
    except ManifestError as error:
        raise UsageError("; ".join(problem.message for problem in error.problems[:3])) from None
    return data


def _write(document: Document | None, data: bytes, path: Path) -> None:
    if document is not None:
        write_document(document, data)
        return
    try:
        with path.open("xb") as file:
            try:
                file.write(data)
                file.flush()
            except OSError:
                path.unlink()  # a part of it could be a valid manifest
                raise
        schema = path.with_name(SCHEMA_FILE)
        if not schema.exists():
            schema.write_text(json_schema_text(), encoding="utf-8")
    except FileExistsError:
        raise DestinationError(f"{path} was made by another program meanwhile", hint="run it again") from None
    except OSError as error:
        raise os_errors.translate(error, path, doing="writing") from error
