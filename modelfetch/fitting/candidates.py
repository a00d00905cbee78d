"""Find a model's files, and read the beginning of each from the store, from ROOT or over the network."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from modelfetch.errors import DestinationError, ModelfetchError, UsageError
from modelfetch.fitting.readers import BrokenReader, ContinuedReader, HttpReader
from modelfetch.fitting.types import Candidate, ModelFile
from modelfetch.formats import safetensors
from modelfetch.formats.pickles import PICKLE_SUFFIXES
from modelfetch.formats.range_reader import FIRST, FileReader, HeaderBuffer
from modelfetch.manifest.kinds import upstream_name
from modelfetch.manifest.uri import OllamaUri
from modelfetch.placement.receipts import read_receipts
from modelfetch.sources.base import offline_error
from modelfetch.transfer.prefill import PartialPrefix, prefill

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from modelfetch.core.artifact import Artifact, Location, Resolution
    from modelfetch.formats.range_reader import RangeReader
    from modelfetch.manifest.model import Model
    from modelfetch.pipeline.session import Session
    from modelfetch.store import Store

    Mirrors = Callable[[Artifact], Callable[[], Sequence[Location]]]

_LAYER = "application/vnd.ollama.image."
_READABLE = (".safetensors", ".sft", ".gguf")
WEIGHT_SUFFIXES = (*_READABLE, ".bin", ".onnx", *PICKLE_SUFFIXES)
_MAX_FILES = 10_000
_SHARD = re.compile(r"(.*-)(\d{5})(-of-)(\d{5})(\.(?:gguf|safetensors))\Z")


def first_range(path: str) -> int:
    """Bytes of the first range that is read of a file."""
    return safetensors.FIRST if safetensors.is_safetensors_name(path) else FIRST


class ReaderRegistry:
    """Creates readers for artifacts and keeps track of them, so that they can be counted, kept and closed.

    Args:
        session: The command's session; if ``offline`` is set, only files on this machine are read.
        later: The store of a later download: it may have the beginning of a file, and bytes that are read are kept
            there; None if there is no such store.
    """

    def __init__(self, session: Session, later: Store | None) -> None:
        self._session = session
        self._later = later
        self._read: list[tuple[Artifact, HeaderBuffer, HttpReader]] = []
        self._placed: dict[str, tuple[Path, int]] = {}
        try:
            tree = session.inspector.tree
        except DestinationError:
            return  # the folder of a service is not mounted: the headers are read elsewhere
        for receipt in read_receipts(session.options.root).values():
            for path, entry in receipt.entries.items():
                if entry.digest is not None and entry.target is None:
                    self._placed[entry.digest] = (tree.path(path), entry.size)

    @property
    def fetched(self) -> int:
        """The number of bytes received over the network."""
        return sum(reader.fetched for _, _, reader in self._read)

    def close(self) -> None:
        """Close all open connections of the readers."""
        for _, _, reader in self._read:
            reader.close()

    def keep(self) -> None:
        """Keep the bytes of files with valid headers, so that a later download continues from them."""
        for artifact, prefix, reader in self._read:
            if self._later is not None and reader.fetched and reader.identity is not None and prefix.memo:
                prefill(self._later, artifact, memoryview(prefix.data), reader.identity)

    def prefix(self, artifact: Artifact, more: Callable[[], Sequence[Location]]) -> HeaderBuffer:
        """The beginning of a file, read when it is needed."""
        first = first_range(artifact.path)
        local = self._on_disk(artifact)
        if local is not None:
            return HeaderBuffer(FileReader(local), first=first)
        if self._session.settings.offline:
            missing = BrokenReader(offline_error(artifact.uri), artifact.size)
            return HeaderBuffer(self._continued(artifact, missing), first=first)
        reader = self._remote(artifact, more)
        prefix = HeaderBuffer(self._continued(artifact, reader), first=first)
        self._read.append((artifact, prefix, reader))
        return prefix

    def _continued(self, artifact: Artifact, rest: RangeReader) -> RangeReader:
        return rest if self._later is None else ContinuedReader(PartialPrefix(self._later, artifact), rest)

    def _remote(self, artifact: Artifact, more: Callable[[], Sequence[Location]]) -> HttpReader:
        return HttpReader(
            self._session.http,
            artifact.locations,
            more=more,
            size=artifact.size,
            attempts=self._session.options.retries,
            cancel=self._session.cancel,
        )

    def _on_disk(self, artifact: Artifact) -> Path | None:
        """The file of the store, of ROOT (as its receipt knows it), or the one that a file:// address names."""
        for store in (self._session.store, self._later):
            if store is not None and artifact.digest is not None and (blob := store.peek(artifact.digest)):
                return blob.path
        path, size = self._placed.get(str(artifact.digest), (None, 0))
        if path is not None and _has_size(path, size):
            return path
        for place in artifact.locations:
            if place.is_local:
                return place.local_path
        return None


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def candidate(
    model: Model, found: Resolution | ModelfetchError, library: ReaderRegistry, mirrors: Mirrors
) -> Candidate:
    """A manifest's model with its files; if its source failed, reading its file raises that error."""
    uri = str(model.source)
    files: tuple[ModelFile, ...]
    if isinstance(found, ModelfetchError):
        name = "model" if isinstance(model.source, OllamaUri) else upstream_name(model.source) or "model.safetensors"
        files = (ModelFile(path=name, size=model.size, prefix=HeaderBuffer(BrokenReader(found, model.size))),)
    else:
        files = files_of(found, library, mirrors)
    return Candidate(name=model.name, uri=uri, kind=model.kind, consumers=model.consumers, files=files)


def files_of(found: Resolution, library: ReaderRegistry, mirrors: Mirrors) -> tuple[ModelFile, ...]:
    """The files of a resolved model that affect memory: an Ollama model's layers, otherwise all files."""
    layers = [a for a in found.artifacts if a.media_type and a.media_type.startswith(_LAYER)]
    if layers:
        return tuple(_layer(artifact, library, mirrors) for artifact in layers)
    alone = len(found.artifacts) == 1
    return tuple(_file(artifact, library, mirrors, alone=alone) for artifact in found.artifacts)


def _layer(artifact: Artifact, library: ReaderRegistry, mirrors: Mirrors) -> ModelFile:
    kind = (artifact.media_type or "").removeprefix(_LAYER)
    prefix = library.prefix(artifact, mirrors(artifact)) if kind == "model" else None
    return ModelFile(path=kind, size=artifact.size, prefix=prefix)


def _file(artifact: Artifact, library: ReaderRegistry, mirrors: Mirrors, *, alone: bool) -> ModelFile:
    """A single file is read whatever its name; of several, only those whose names suggest a header."""
    suffix = PurePosixPath(artifact.path).suffix.lower()
    readable = suffix in _READABLE or (alone and suffix not in WEIGHT_SUFFIXES)
    prefix = library.prefix(artifact, mirrors(artifact)) if readable else None
    return ModelFile(path=artifact.path, size=artifact.size, prefix=prefix)


def pinned_candidate(model: Model) -> Candidate:
    """A model whose memory can be computed from the sizes that its manifest pins."""
    if model.files is not None:
        files = tuple(ModelFile(path=file.path, size=file.size) for file in model.files)
    else:
        files = (ModelFile(path=model.filename or upstream_name(model.source) or model.name, size=model.size),)
    return Candidate(name=model.name, uri=str(model.source), kind=model.kind, consumers=model.consumers, files=files)


def sizes_are_enough(model: Model) -> bool:
    """Whether a model needs no query or read, because speech models are estimated from the size of their weights."""
    if model.files is not None:
        weights = [file for file in model.files if PurePosixPath(file.path).suffix.lower() in WEIGHT_SUFFIXES]
        readable = any(file.path.lower().endswith(_READABLE) for file in weights)
        return not readable and all(file.size is not None for file in weights)
    return model.kind == "torch-checkpoint" and model.size is not None


def shards_of(path: str) -> tuple[str, ...]:
    """All shards of a model, from the name of one of them; just the one for any other file."""
    match = _SHARD.match(path)
    if match is None or not 1 <= int(match[4]) <= 1000:
        return (path,)
    return tuple(f"{match[1]}{number:05}{match[3]}{match[4]}{match[5]}" for number in range(1, int(match[4]) + 1))


def files_below(folder: Path) -> tuple[ModelFile, ...]:
    """The files of a model's folder on disk; of a Hugging Face cache of one repo those of its only snapshot.

    Only files whose names suggest a header are read; hidden files are ignored.

    Raises:
        UsageError: It contains no model file, several snapshots, or too many files to be one.
        OSError: It can't be read.
    """
    folder = _snapshot(folder)
    files = []
    for place, names, found in os.walk(folder, onerror=_raise):
        names[:] = sorted(name for name in names if not name.startswith("."))
        paths = (Path(place) / name for name in sorted(found) if not name.startswith("."))
        for path in (path for path in paths if path.is_file()):
            readable = path.suffix.lower() in _READABLE
            files.append(_local(path, path.relative_to(folder).as_posix(), readable=readable))
            if len(files) > _MAX_FILES:
                raise UsageError(f"{folder} holds more than {_MAX_FILES} files", hint="name the folder of one model")
    if not any(PurePosixPath(file.path).suffix.lower() in WEIGHT_SUFFIXES for file in files):
        raise UsageError(
            f"{folder} contains no model file",
            hint=f"name a file, or a folder with one of {', '.join(WEIGHT_SUFFIXES)}",
        )
    return tuple(files)


def _snapshot(folder: Path) -> Path:
    if not ((folder / "snapshots").is_dir() and (folder / "blobs").is_dir()):
        return folder
    found = sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())
    if len(found) > 1:
        raise UsageError(f"{folder} holds {len(found)} snapshots", hint=f"name one: {found[0]}")
    return found[0] if found else folder


def _raise(error: OSError) -> None:
    raise error


def local_file(path: Path) -> ModelFile:
    """One file on disk. Its header is read unless its name is that of a file without weights.

    Raises:
        UsageError: It is neither a file nor a folder.
        OSError: It can't be read.
    """
    if not path.is_file():
        raise UsageError(f"{path} is neither a file nor a folder", hint="name a model's file or folder")
    suffix = path.suffix.lower()
    readable = suffix in _READABLE or suffix not in (*WEIGHT_SUFFIXES, ".json", ".txt", ".md")
    return _local(path, path.name, readable=readable)


def _local(path: Path, name: str, *, readable: bool) -> ModelFile:
    prefix = HeaderBuffer(FileReader(path), first=first_range(path.name)) if readable else None
    return ModelFile(path=name, size=path.stat().st_size, prefix=prefix)
