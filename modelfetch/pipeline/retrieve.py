"""Fetch one file by its URI into the user's cache."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelfetch.core import directories, fs, os_errors, temp_files
from modelfetch.core.digest import Digest
from modelfetch.errors import UsageError
from modelfetch.manifest.paths import safe_name
from modelfetch.manifest.uri import HfUri, Uri
from modelfetch.sources.argument import parse_argument

if TYPE_CHECKING:
    from pathlib import Path

    from modelfetch.config.settings import Settings
    from modelfetch.core.artifact import Artifact
    from modelfetch.pipeline.session import Session
    from modelfetch.store import Blob
    from modelfetch.transfer import Fetched

_NOTE_LIMIT = 64 * 1024
_OLLAMA_MODEL = "application/vnd.ollama.image.model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """A retrieved file: its path, sha256, size in bytes, and the report action that describes what was done."""

    path: Path
    uri: str
    digest: Digest
    size: int
    action: str
    served_by: str | None = None
    bytes_fetched: int = 0


def as_uri(text: str, settings: Settings) -> Uri:
    """Parse the URI of one file and check that it may be requested.

    Raises:
        UsageError: It is not a URI, or names more than one file.
        SettingError: It uses plain http to a host for which that is not allowed.
    """
    uri = parse_argument(text, "one file: https://…, hf://NS/REPO/FILE, civitai://VERSION_ID", settings)
    if isinstance(uri, HfUri) and uri.path is None:
        raise UsageError(f"{uri} is a whole repo, expected one file of it", hint=f"add its path: {uri}/FILE")
    return uri


def as_digest(digest: str | Digest | None) -> Digest | None:
    """Parse a digest; raises ValueError with the expected format."""
    return Digest.parse(digest) if isinstance(digest, str) else digest


async def into_cache(session: Session, uri: Uri, digest: Digest | None) -> Retrieved:
    """Fetch a file into the cache at the session's root. Raises typed errors."""
    with os_errors.translated(session.options.root, doing="can't write"):
        await asyncio.to_thread(session.block_removals)
        note = await _read_note(_index(session.options.root, uri))
        found = await asyncio.to_thread(_cached, session, uri, digest, note)
        if found is not None:
            return found
        artifact = await resolve_file(session, uri, digest)
        await asyncio.to_thread(session.block_removals, make=True)
        fetched = await session.engine.fetch(artifact, label=name_of(artifact))
        path = await asyncio.to_thread(_keep, session, uri, fetched.blob, name_of(artifact))
        return retrieved_from(path, artifact, fetched)


def retrieved_from(path: Path, artifact: Artifact, fetched: Fetched) -> Retrieved:
    """The result for an artifact that was fetched and is at ``path`` now."""
    return Retrieved(
        path=path,
        uri=artifact.uri,
        digest=fetched.blob.digest,
        size=fetched.blob.size,
        action=fetched.action,
        served_by=fetched.served_by,
        bytes_fetched=fetched.bytes_fetched,
    )


async def resolve_file(session: Session, uri: Uri, digest: Digest | None) -> Artifact:
    """Return the file of a URI, of a model of Ollama its weights. Raises typed errors."""
    from modelfetch.sources import SourceRequest, known
    from modelfetch.sources.base import refuse_pickles

    wanted = SourceRequest(uri=uri, kind="file", digest=digest)
    resolution = known(wanted, session.settings, session.store.read) or await session.sources.resolve(wanted)
    artifacts = resolution.artifacts
    if len(artifacts) > 1:
        artifacts = tuple(a for a in artifacts if a.media_type == _OLLAMA_MODEL)
    if len(artifacts) != 1:
        raise UsageError(f"{uri} is more than one file", hint="use a manifest and `modelfetch sync`")
    refuse_pickles(wanted, resolution)
    return artifacts[0]


def name_of(artifact: Artifact) -> str:
    """The name of a file in the cache and in events."""
    return safe_name(artifact.path) or "model"


def _index(cache: Path, uri: Uri) -> Path:
    return cache / "index" / f"{hashlib.sha256(uri.text.encode()).hexdigest()}.json"


async def _read_note(path: Path) -> bytes:
    """Read the note that an earlier call wrote for a URI; empty if there is none."""
    import aiofiles

    try:
        async with aiofiles.open(path, "rb", opener=fs.open_regular) as file:
            return await file.read(_NOTE_LIMIT)
    except OSError:
        return b""


def _cached(session: Session, uri: Uri, digest: Digest | None, note: bytes) -> Retrieved | None:
    """Return the file that an earlier call cached for this URI, if its bytes are unchanged."""
    try:
        known = json.loads(note)
        found, name = Digest.parse(known["digest"]), str(known["name"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    blob = session.store.find(digest or found)
    if blob is None or (digest is None and session.options.refresh):
        return None
    path = _keep(session, uri, blob, safe_name(name) or "model")
    return Retrieved(path=path, uri=str(uri), digest=blob.digest, size=blob.size, action="present")


def _keep(session: Session, uri: Uri, blob: Blob, name: str) -> Path:
    """Place a blob in the cache under its upstream name, and write a note for its URI."""
    cache = session.options.root
    path = cache / "files" / blob.digest.hex[:16] / name
    if not (path.exists() and path.samefile(blob.path)):
        temp_files.require_replaceable(path)
        temporary = _temporary(path.parent)
        try:
            os.link(blob.path, temporary)
        except OSError:
            fs.copy_bytes(blob.path, temporary)
        temporary.replace(path)
    index = _index(cache, uri)
    note = json.dumps({"uri": str(uri), "digest": str(blob.digest), "name": name}).encode()
    if not _is_noted(index, note):
        temp_files.write_atomically(index, note, mode=fs.PRIVATE_MODE, temporary=_temporary(index.parent))
    return path


def _temporary(folder: Path) -> Path:
    """A name for a temporary file in a folder of the cache, which is made and cleaned of those of killed runs.

    It is in the folder itself: the parts of a cache may be on several file systems.
    """
    directories.make_directory(folder)
    with contextlib.suppress(OSError):
        temp_files.sweep_temporaries(folder)
    return folder / temp_files.temporary_name()


def _is_noted(index: Path, note: bytes) -> bool:
    try:
        return fs.read_small(index, _NOTE_LIMIT) == note
    except OSError:
        return False
