"""Obtain the bytes of artifacts: from the store, from files on this machine, or by a transfer that all models share."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from modelfetch.core.check_progress import reporting_large
from modelfetch.core.events import Notice
from modelfetch.errors import OF_THE_SOURCE, DestinationError, IntegrityError, ModelfetchError
from modelfetch.pipeline.resolve import mirrors_of
from modelfetch.placement import Action
from modelfetch.placement.layouts import PlacementMethod
from modelfetch.store.adopted import mark_adopted
from modelfetch.store.ingest import add_file
from modelfetch.transfer import Fetched
from modelfetch.transfer.fetch import find_present

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Sequence
    from pathlib import Path
    from typing import Any

    from modelfetch.core.artifact import Artifact
    from modelfetch.core.digest import Digest
    from modelfetch.manifest.model import Model
    from modelfetch.pipeline.plan import ModelPlan, ModelRequest
    from modelfetch.pipeline.session import Session
    from modelfetch.store import Blob


class TransferDeduplicator:
    """Runs each transfer once for all models of a run; if it fails, a model that has another source tries that.

    Results are kept: for a file without a digest, only another query of its source could show that it is the same
    file. Between processes, the lock of `modelfetch.transfer.fetch` does the same.
    """

    def __init__(self) -> None:
        self._current: dict[str, tuple[Hashable, asyncio.Task[Fetched]]] = {}
        self._failed: dict[tuple[str, Hashable], ModelfetchError] = {}

    async def get(
        self, key: str, way: Hashable, start: Callable[[], Coroutine[Any, Any, Fetched]]
    ) -> tuple[Fetched, bool]:
        """Return what was fetched, and whether this call was the one that fetched it.

        Args:
            key: Identifies the bytes.
            way: Identifies a way to get them; each way is tried at most once.
            start: Starts the transfer by this way.

        Raises:
            ModelfetchError: This way has failed, or the failure would be the same any other way.
        """
        while True:
            mine = key not in self._current
            if (known := self._failed.get((key, way))) is not None:
                raise known
            if mine:
                self._current[key] = way, asyncio.create_task(start())
            current, task = self._current[key]
            try:
                return await asyncio.shield(task), mine
            except ModelfetchError as error:
                self._failed[key, current] = error
                if current == way or not isinstance(error, OF_THE_SOURCE):
                    raise
                if self._current.get(key) == (current, task):
                    del self._current[key]

    async def close(self) -> None:
        """Cancel the transfers that no caller is waiting for."""
        tasks = [task for _, task in self._current.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class ArtifactProvider:
    """Makes the blobs of one run available in the store; models that need the same bytes share one transfer.

    Args:
        plans: The run's plans; files that they found in place are used, too.
        session: The session.
    """

    def __init__(self, plans: Sequence[ModelPlan], session: Session) -> None:
        self._session = session
        self._transfers = TransferDeduplicator()
        self._reusable = _reusable_files(plans, session)

    async def obtain(self, request: ModelRequest, artifact: Artifact) -> Fetched:
        """Return an artifact's blob, of which ``request`` names the model and its mirrors.

        Raises:
            ModelfetchError: No source has it, or the disk failed.
        """
        key = str(artifact.digest or artifact.uri)
        way = (artifact.locations, request.model.mirrors, artifact.size, artifact.allow_pickle)
        fetched, mine = await self._transfers.get(key, way, partial(self._find_or_fetch, request, artifact))
        return fetched if mine else Fetched(blob=fetched.blob)

    async def close(self) -> None:
        """Cancel the transfers that no model is waiting for."""
        await self._transfers.close()

    async def _find_or_fetch(self, request: ModelRequest, artifact: Artifact) -> Fetched:
        if found := await asyncio.to_thread(self._find_on_disk, artifact):
            return found
        label = _label(request.model.name, artifact)
        mirrors = mirrors_of(request, artifact, self._session)
        engine = self._session.engine
        try:
            return await engine.fetch(artifact, mirrors, label=label)
        except IntegrityError:
            if not mirrors or not _size_is_unpinned(request.model, artifact):
                raise
        # The source has a different file, so its size does not apply to the mirrors.
        return await engine.fetch(replace(artifact, size=None, locations=()), mirrors, label=label)

    def _find_on_disk(self, artifact: Artifact) -> Fetched | None:
        """Look in the store, the source's response, the files in place, and other programs' files on this machine."""
        if found := find_present(self._session.store, artifact):
            return found
        for path in self._reusable.get(artifact.digest, ()) if artifact.digest else ():
            with contextlib.suppress(IntegrityError, OSError):  # changed or removed since it was inspected
                return Fetched(blob=self._share(path, artifact))
        for path in self._session.local_files.find(artifact):
            with contextlib.suppress(IntegrityError, DestinationError, OSError):  # a different file of that name
                blob = self._add_file(path, artifact, keep_mode=True)
                self._session.sink(Notice(level="info", message=f"{artifact.path}: taken from {path}"))
                return Fetched(blob=blob, action="adopted")
        return None

    def _add_file(self, path: Path, artifact: Artifact, *, keep_mode: bool = False) -> Blob:
        """Import a file of this machine, and report the hashing of a large one."""
        session = self._session
        with reporting_large(session.sink, f"{path}: checking", size=path.stat().st_size) as advance:

            def hashed(count: int) -> None:
                session.cancel.check()
                advance(count)

            return add_file(session.store, path, digest=artifact.digest, keep_mode=keep_mode, advance=hashed)[0]

    def _share(self, path: Path, artifact: Artifact) -> Blob:
        """Import a placed file as a blob to share with other services; warns if a hardlink makes the file read-only."""
        store = self._session.store
        if artifact.digest is not None and artifact.digest.algorithm == "sha256":
            mark_adopted(store.path, artifact.digest)
        before = path.stat().st_mode
        blob = self._add_file(path, artifact)
        mark_adopted(store.path, blob.digest)
        if path.stat().st_mode != before:
            message = f"{path} is now shared by several services, and read-only"
            self._session.sink(
                Notice(level="warning", message=message, hint="replace it to change it; don't write into it")
            )
        return blob


def _reusable_files(plans: Sequence[ModelPlan], session: Session) -> dict[Digest, list[Path]]:
    """The complete and correct files that this run's placements already have, by digest."""
    found: dict[Digest, list[Path]] = defaultdict(list)
    for plan in plans:
        for target in plan.targets:
            artifact = target.placement.artifact
            if target.action is not Action.KEEP or artifact is None or artifact.digest is None:
                continue
            path = session.inspector.tree.path(target.placement.path)
            is_link = target.placement.how is PlacementMethod.SYMLINK and path.is_symlink()
            if target.placement.how is not PlacementMethod.UNPACK and not is_link:
                found[artifact.digest].append(path)
    return found


def _size_is_unpinned(model: Model, artifact: Artifact) -> bool:
    """Whether the manifest pins an artifact's digest but not its size."""
    if model.files is not None:
        return any(f.path == artifact.path and f.digest is not None and f.size is None for f in model.files)
    return model.digest is not None and model.size is None


def _label(model: str, artifact: Artifact) -> str:
    """The display name of an artifact: the kind of a registry layer, the file name otherwise."""
    kind = (artifact.media_type or "").rpartition(".")[2].partition("+")[0].replace("v1", "config")
    name = artifact.path.rpartition("/")[2]
    return f"{model}: {kind if name.startswith('sha256') and kind else name}"
