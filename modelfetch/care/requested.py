"""The files that manifests request, as paths below ROOT; no source is queried."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelfetch.errors import ModelfetchError
from modelfetch.pipeline.frozen import at_current_endpoints, frozen_before
from modelfetch.pipeline.plan import select
from modelfetch.pipeline.resolve import resolve_settled
from modelfetch.placement.layouts import PlacementMethod
from modelfetch.placement.receipts import Receipt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from modelfetch.care.inventory import Item
    from modelfetch.core.artifact import Resolution
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.plan import ModelRequest
    from modelfetch.pipeline.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """The files that some manifests request.

    Attributes:
        paths: Each path below ROOT, with the request for it.
        folders: Folders that an archive is unpacked into, likewise.
        unresolved: Requests whose files only their source can list; ``paths`` has those of an earlier text, if any.
        probable: Paths that the entry of an unresolved request had in another or an older manifest.
        digests: The digests of the files, as far as they are known.
    """

    paths: Mapping[str, ModelRequest] = field(default_factory=dict)
    folders: Mapping[str, ModelRequest] = field(default_factory=dict)
    unresolved: tuple[ModelRequest, ...] = ()
    probable: Mapping[str, ModelRequest] = field(default_factory=dict)
    digests: frozenset[str] = frozenset()

    def includes(self, item: Item) -> bool:
        """Whether a placement is requested, or may be: for an unresolved request, all files of its model count."""
        return self._request_for(item) is not None

    def tier_of(self, item: Item) -> str | None:
        """The tier or manifest that requests a placement; None if none does."""
        request = self._request_for(item)
        return request.requested_by if request is not None else None

    def model_names(self) -> set[str]:
        """The names of all requested models."""
        return {r.model.name for r in (*self.paths.values(), *self.folders.values(), *self.unresolved)}

    def _request_for(self, item: Item) -> ModelRequest | None:
        if item.path is None or item.entry is None:
            return None
        if (request := self.paths.get(item.path) or self.probable.get(item.path)) is not None:
            return request
        if item.entry.archive:
            for folder, request in self.folders.items():
                if item.path.startswith(f"{folder}/"):
                    return request
        return next((request for request in self.unresolved if request.model.name == item.model), None)


def find_requested(
    manifests: Sequence[Manifest],
    session: Session,
    receipts: Mapping[str, Receipt],
    *,
    consumers: Sequence[str] = (),
) -> Requested:
    """Find the files that manifests request for the given consumers (none: all)."""
    paths: dict[str, ModelRequest] = {}
    folders: dict[str, ModelRequest] = {}
    probable: dict[str, ModelRequest] = {}
    unresolved: list[ModelRequest] = []
    digests: set[str] = set()

    def add(request: ModelRequest, resolution: Resolution, files: dict[str, ModelRequest]) -> None:
        digests.update(str(artifact.digest) for artifact in resolution.artifacts if artifact.digest is not None)
        for consumer in request.consumers:
            receipt = receipts.get(consumer) or Receipt(consumer=consumer)
            for placement in session.inspector.lay_out(consumer, request.model, resolution, receipt, probe=False):
                unpacked = placement.how is PlacementMethod.UNPACK
                (folders if unpacked else files)[placement.path] = request

    for request in select(manifests, consumers):
        settled = recorded = None
        with contextlib.suppress(ModelfetchError):
            settled = resolve_settled(request, session, receipts)
            recorded = settled or frozen_before(request, receipts, session.settings)
        if recorded is not None:
            add(request, recorded, paths)
        if settled is None:
            unresolved.append(request)
            for known in _resolutions_elsewhere(request, receipts):
                add(request, at_current_endpoints(known, session.settings), probable)
    return Requested(
        paths=paths, folders=folders, unresolved=tuple(unresolved), probable=probable, digests=frozenset(digests)
    )


def _resolutions_elsewhere(request: ModelRequest, receipts: Mapping[str, Receipt]) -> Iterator[Resolution]:
    """Resolutions of the same entry in other manifests, and in earlier texts of this one."""
    for receipt in receipts.values():
        for entry in request.entry_keys:
            for frozen in receipt.frozen_of(entry):
                yield frozen.resolution
