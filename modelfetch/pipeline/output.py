"""Fetch one file by its URI to a path that the user names."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.core import directories, fs, os_errors, temp_files
from modelfetch.errors import DestinationError
from modelfetch.pipeline.final_check import check_content, refuse_pickle
from modelfetch.pipeline.retrieve import Retrieved, name_of, resolve_file, retrieved_from
from modelfetch.store import Store, is_store
from modelfetch.store.locks.lock import lock

if TYPE_CHECKING:
    from modelfetch.core.artifact import Artifact
    from modelfetch.core.digest import Digest
    from modelfetch.manifest.uri import Uri
    from modelfetch.pipeline.session import Session
    from modelfetch.store import Blob


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


async def fetch_to(output: Output, session: Session, digest: Digest | None) -> Retrieved:
    """Download a file to a path as a regular file.

    Args:
        output: The destination. A file there with the same bytes is left unchanged.
        session: The session whose store receives the blob.
        digest: The expected digest of its bytes, if known.

    Raises:
        DestinationError: Another file is at the path (``foreign-file``), or it can't be written.
    """
    with os_errors.translated(output.path, doing="can't write"):
        await asyncio.to_thread(output.refuse_other)
        if output.keep:
            await asyncio.to_thread(session.block_removals)
        if digest is not None and (there := await asyncio.to_thread(output.present, digest)):
            return there
        artifact = await resolve_file(session, output.uri, digest)
        known = artifact.digest
        if known is not None and (there := await asyncio.to_thread(output.present, known)):
            return there
        await asyncio.to_thread(output.refuse_other, artifact.size)
        await asyncio.to_thread(output.path.parent.mkdir, parents=True, exist_ok=True)
        if output.keep:
            return await _fetch(output, session, artifact)
        with contextlib.ExitStack() as held:
            held.callback(session.store.remove_if_empty)
            # One process at a time fetches to a path: the end of its work clears the work folder.
            guard = lock(session.store.folder("locks") / "output.lock", label=output.path.name, **session.lock_options)
            await asyncio.to_thread(held.enter_context, guard)
            if known is not None and (there := await asyncio.to_thread(output.present, known)):
                return there  # another process has just written it
            return await _fetch(output, session, artifact)


async def _fetch(output: Output, session: Session, artifact: Artifact) -> Retrieved:
    """Download into the store, check the file under its new name, and deliver it."""
    fetched = await session.engine.fetch(artifact, label=name_of(artifact))
    blob = fetched.blob
    try:
        await asyncio.to_thread(refuse_pickle, blob, artifact, (output.path.name,))
        await asyncio.to_thread(check_content, blob, artifact, output.path.name)
        if there := await asyncio.to_thread(output.present, blob.digest):
            return there
        await asyncio.to_thread(output.deliver, blob)
    finally:
        if not output.keep:
            await asyncio.to_thread(session.store.clear)
    return retrieved_from(output.path, artifact, fetched)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The file to write.

    Attributes:
        path: Its path.
        uri: What is fetched to it.
        keep: Keep the blob in the session's store. Otherwise the store is a work folder, which is removed at the end
            but kept for the next attempt if the download fails.
        force: Replace another file at the path once the new one is complete.
    """

    path: Path
    uri: Uri
    keep: bool = False
    force: bool = False

    def present(self, digest: Digest) -> Retrieved | None:
        """Return the file if it already has the right bytes; None if it may be written.

        Raises:
            DestinationError: Another file is there, and ``force`` is not set.
        """
        if not self.path.is_file():
            directories.require_file_path(self.path)
            return None
        found, sha256 = fs.hash_file(self.path, digest.algorithm, "sha256")
        if found == digest:
            size = self.path.stat().st_size
            return Retrieved(path=self.path, uri=str(self.uri), digest=sha256, size=size, action="present")
        if not self.force:
            raise self._in_the_way()
        return None

    def refuse_other(self, size: int | None = None) -> None:
        """Refuse, unless ``force`` is set, a broken link or a file of another size in bytes, before a download.

        Raises:
            DestinationError: There is one.
        """
        if self.force:
            return
        if self.path.exists():
            if size is not None and self.path.stat().st_size != size:
                raise self._in_the_way()
        elif self.path.is_symlink():
            text = f"{self.path} is a symbolic link that leads to no file"
            raise DestinationError(text, code="foreign-file", hint="--force replaces it, or name another path")

    def deliver(self, blob: Blob) -> None:
        """Make the path a regular file with the blob's bytes, not a hardlink to the store.

        Raises:
            DestinationError: A file appeared there since it was checked, and ``force`` is not set.
        """
        if self.keep or not self._has_moved(blob):
            temporary = self.path.with_name(temp_files.temporary_name("fetch"))
            with contextlib.suppress(OSError):
                temp_files.sweep_temporaries(self.path.parent, stem="fetch")
            try:
                with fs.closing(fs.open_regular(blob.path)) as source, temporary.open("xb") as file:
                    if not fs.clone_descriptor(source, file.fileno()):
                        fs.copy_descriptor(source, file.fileno())
                    # By the descriptor: others may replace the name by a link, if they may write to this folder.
                    fs.finish_file(file.fileno(), mode=fs.mode_of_new_file())
                self._rename(temporary)
            finally:
                temporary.unlink(missing_ok=True)
        directories.sync_directory(self.path.parent)

    def _has_moved(self, blob: Blob) -> bool:
        """Move the blob itself to the path; False if that is not possible."""
        with contextlib.suppress(OSError):
            with fs.closing(fs.open_regular(blob.path)) as fd:
                os.fchmod(fd, fs.mode_of_new_file())
            self._rename(blob.path)
            return True
        return False

    def _rename(self, source: Path) -> None:
        if self.force:
            directories.require_file_path(self.path)
            source.replace(self.path)
            return
        try:
            directories.rename_new(str(source), str(self.path))
        except FileExistsError:
            raise self._in_the_way() from None

    def _in_the_way(self) -> DestinationError:
        text = f"{self.path} exists and is another file"
        return DestinationError(text, code="foreign-file", hint="--force replaces it, or name another path")
