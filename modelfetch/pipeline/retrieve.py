"""Fetch one file by its URI, into the user's cache or to a given path."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.core import directories, fs, os_errors, temp_files
from modelfetch.core.digest import Digest
from modelfetch.errors import DestinationError, IntegrityError, UsageError
from modelfetch.manifest.paths import safe_name
from modelfetch.manifest.uri import HfUri, Uri
from modelfetch.pipeline.final_check import check_content, refuse_pickle
from modelfetch.sources.argument import parse_argument
from modelfetch.store import Store, is_store
from modelfetch.store.locks.lock import lock

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

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
        artifact = await _resolve(session, uri, digest)
        await asyncio.to_thread(session.block_removals, make=True)
        fetched = await session.engine.fetch(artifact, label=_name(artifact))
        path = await asyncio.to_thread(_keep, session, uri, fetched.blob, _name(artifact))
        return _retrieved(path, artifact, fetched)


async def to_path(
    session: Session, uri: Uri, digest: Digest | None, target: Path, *, keep: bool, force: bool = False
) -> Retrieved:
    """Download a file to ``target`` as a regular file.

    Args:
        session: The session whose store receives the blob.
        uri: The file's URI.
        digest: The expected digest of its bytes, if known.
        target: The destination. A file there with the same bytes is left unchanged.
        keep: Keep the blob in the session's store. Otherwise the store is a work folder, which is removed at the end
            but kept for the next attempt if the download fails.
        force: Replace another file at ``target`` once the new one is complete.

    Raises:
        DestinationError: Another file is at ``target`` (``foreign-file``), or it can't be written.
    """
    with os_errors.translated(target, doing="can't write"):
        if not force:
            await asyncio.to_thread(_refuse_other, target, None)
        if keep:
            await asyncio.to_thread(session.block_removals)
        if digest is not None and (there := await asyncio.to_thread(_present, target, uri, digest, force=force)):
            return there
        artifact = await _resolve(session, uri, digest)
        known = artifact.digest
        if known is not None and (there := await asyncio.to_thread(_present, target, uri, known, force=force)):
            return there
        if not force:
            await asyncio.to_thread(_refuse_other, target, artifact.size)
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        if keep:
            return await _fetch_to(target, session, uri, artifact, keep=True, force=force)
        with contextlib.ExitStack() as held:
            held.callback(session.store.remove_if_empty)
            await asyncio.to_thread(held.enter_context, _sole_user(session, target))
            if known is not None and (there := await asyncio.to_thread(_present, target, uri, known, force=force)):
                return there  # another process has just written it
            return await _fetch_to(target, session, uri, artifact, keep=False, force=force)


async def _fetch_to(
    target: Path, session: Session, uri: Uri, artifact: Artifact, *, keep: bool, force: bool
) -> Retrieved:
    """Download into the store, check the file under its new name, and deliver it."""
    fetched = await session.engine.fetch(artifact, label=_name(artifact))
    blob = fetched.blob
    try:
        await asyncio.to_thread(refuse_pickle, blob, artifact, (target.name,))
        await asyncio.to_thread(check_content, blob, artifact, target.name)
        if there := await asyncio.to_thread(_present, target, uri, blob.digest, force=force):
            return there
        await asyncio.to_thread(_deliver, blob, target, keep=keep, force=force)
    finally:
        if not keep:
            await asyncio.to_thread(session.store.clear)
    return _retrieved(target, artifact, fetched)


def _sole_user(session: Session, target: Path) -> AbstractContextManager[object]:
    """Let only one process at a time fetch to a path: the end of its work clears the work folder."""
    path = session.store.folder("locks") / "output.lock"
    return lock(path, label=target.name, **session.lock_options)


def _retrieved(path: Path, artifact: Artifact, fetched: Fetched) -> Retrieved:
    return Retrieved(
        path=path,
        uri=artifact.uri,
        digest=fetched.blob.digest,
        size=fetched.blob.size,
        action=fetched.action,
        served_by=fetched.served_by,
        bytes_fetched=fetched.bytes_fetched,
    )


def work_folder(target: Path) -> Path:
    """The work folder of a fetch to ``target``: in the same directory, so that the last step is a rename.

    Raises:
        DestinationError: The work folder's name is taken by something else.
    """
    path = target.with_name(f".{target.name}.modelfetch")
    if Store(path).is_foreign():
        text = f"{path} is in the way: modelfetch keeps its partial files there, and did not make it"
        raise DestinationError(text, code="foreign-file", hint="move it away, or give another -o PATH")
    return path


def check_output(target: Path) -> None:
    """Check that a path can be that of a user's file.

    Raises:
        DestinationError: It is a folder or a device, or it is below a folder with modelfetch's own data.
    """
    directories.require_file_path(target)
    folder = Path(os.path.realpath(target.parent))
    own = next((parent for parent in (folder, *folder.parents) if is_store(parent)), None)
    if own is not None:
        text = f"{target} is in {own}, which holds modelfetch's own files"
        raise DestinationError(text, hint="name a path outside it")


async def _resolve(session: Session, uri: Uri, digest: Digest | None) -> Artifact:
    from modelfetch.sources import SourceRequest, known
    from modelfetch.sources.base import refuse_pickles

    wanted = SourceRequest(uri=uri, kind="file", digest=digest)
    try:
        resolution = known(wanted, session.settings, session.store.read) or await session.sources.resolve(wanted)
    except IntegrityError as error:
        if error.code == IntegrityError.default_code:  # the hint is for the pin of a manifest
            error.hint = IntegrityError.default_hint
        raise
    artifacts = resolution.artifacts
    if len(artifacts) > 1:
        artifacts = tuple(a for a in artifacts if a.media_type == _OLLAMA_MODEL)
    if len(artifacts) != 1:
        raise UsageError(f"{uri} is more than one file", hint="use a manifest and `modelfetch sync`")
    refuse_pickles(wanted, resolution)
    return artifacts[0]


def _name(artifact: Artifact) -> str:
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


def _present(target: Path, uri: Uri, digest: Digest, *, force: bool) -> Retrieved | None:
    """Return the target if it already has the right bytes; None if it may be written.

    Raises:
        DestinationError: Another file is there, and ``force`` is not set.
    """
    if not target.is_file():
        directories.require_file_path(target)
        return None
    found, sha256 = fs.hash_file(target, digest.algorithm, "sha256")
    if found == digest:
        return Retrieved(path=target, uri=str(uri), digest=sha256, size=target.stat().st_size, action="present")
    if not force:
        raise _in_the_way(target)
    return None


def _refuse_other(target: Path, size: int | None) -> None:
    """Raise DestinationError before a download if a path is a broken link, or a file of another size in bytes."""
    if target.exists():
        if size is not None and target.stat().st_size != size:
            raise _in_the_way(target)
    elif target.is_symlink():
        text = f"{target} is a symbolic link that leads to no file"
        raise DestinationError(text, code="foreign-file", hint="--force replaces it, or name another path")


def _in_the_way(target: Path) -> DestinationError:
    text = f"{target} exists and is another file"
    return DestinationError(text, code="foreign-file", hint="--force replaces it, or name another path")


def _deliver(blob: Blob, target: Path, *, keep: bool, force: bool) -> None:
    """Make ``target`` a regular file with the blob's bytes, not a hardlink to the store.

    Raises:
        DestinationError: A file appeared there since it was checked, and ``force`` is not set.
    """
    if not keep and _has_moved(blob, target, force=force):
        directories.sync_directory(target.parent)
        return
    temporary = target.with_name(temp_files.temporary_name("fetch"))
    with contextlib.suppress(OSError):
        temp_files.sweep_temporaries(target.parent, stem="fetch")
    try:
        with fs.closing(fs.open_regular(blob.path)) as source, temporary.open("xb") as file:
            if not fs.clone_descriptor(source, file.fileno()):
                fs.copy_descriptor(source, file.fileno())
            # By the descriptor: others may replace the name by a link, if they may write to this folder.
            fs.finish_file(file.fileno(), mode=fs.mode_of_new_file())
        _rename(temporary, target, force=force)
    finally:
        temporary.unlink(missing_ok=True)
    directories.sync_directory(target.parent)


def _has_moved(blob: Blob, target: Path, *, force: bool) -> bool:
    """Move the blob itself to ``target``; False if that is not possible."""
    with contextlib.suppress(OSError):
        with fs.closing(fs.open_regular(blob.path)) as fd:
            os.fchmod(fd, fs.mode_of_new_file())
        _rename(blob.path, target, force=force)
        return True
    return False


def _rename(source: Path, target: Path, *, force: bool) -> None:
    if force:
        directories.require_file_path(target)
        source.replace(target)
        return
    try:
        directories.rename_new(str(source), str(target))
    except FileExistsError:
        raise _in_the_way(target) from None
