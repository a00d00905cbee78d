"""What manifests ask for: the paths below ROOT that they want, told from the receipts without asking any source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelfetch.errors import ModelfetchError
from modelfetch.pipeline.plan import frozen_for, select
from modelfetch.pipeline.resolve import resolve_quietly
from modelfetch.placement.layouts import PlacementMethod
from modelfetch.placement.receipts import Receipt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from modelfetch.care.inventory import Item
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.plan import ModelRequest
    from modelfetch.pipeline.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What some manifests want.

    Attributes:
        paths: Each wanted path below ROOT, with the request that wants it.
        folders: Folders that an archive is unpacked into, likewise.
        unresolved: Requests whose files only their source could tell; all that was placed for such a model counts.
    """

    paths: Mapping[str, ModelRequest] = field(default_factory=dict)
    folders: Mapping[str, ModelRequest] = field(default_factory=dict)
    unresolved: tuple[ModelRequest, ...] = ()

    def wants(self, item: Item) -> bool:
        """Whether a placement is one of those that are wanted."""
        return self._request_for(item) is not None

    def tier_of(self, item: Item) -> str | None:
        """The tier or manifest that wants a placement; None where none does."""
        request = self._request_for(item)
        return request.requested_by if request is not None else None

    def model_names(self) -> set[str]:
        """The names of all models that are wanted."""
        return {r.model.name for r in (*self.paths.values(), *self.folders.values(), *self.unresolved)}

    def _request_for(self, item: Item) -> ModelRequest | None:
        if item.path is None or item.entry is None:
            return None
        if item.path in self.paths:
            return self.paths[item.path]
        if item.entry.archive:
            for folder, request in self.folders.items():
                if item.path.startswith(f"{folder}/"):
                    return request
        return next(
            (r for r in self.unresolved if (r.model.name, r.requested_by in item.tiers) == (item.model, True)), None
        )


def asked_by(
    manifests: Sequence[Manifest],
    session: Session,
    receipts: Mapping[str, Receipt],
    *,
    consumers: Sequence[str] = (),
) -> Asked:
    """What the manifests want of the chosen consumers (none: all)."""
    paths: dict[str, ModelRequest] = {}
    folders: dict[str, ModelRequest] = {}
    unresolved: list[ModelRequest] = []
    for request in select(manifests, consumers):
        try:
            resolution = frozen_for(request, receipts, session.settings) or resolve_quietly(request, session, receipts)
        except ModelfetchError:
            resolution = None
        if resolution is None:
            unresolved.append(request)
            continue
        for consumer in request.consumers:
            receipt = receipts.get(consumer) or Receipt(consumer=consumer)
            for placement in session.examiner.lay_out(consumer, request.model, resolution, receipt, probe=False):
                unpacked = placement.how is PlacementMethod.UNPACK
                (folders if unpacked else paths)[placement.path] = request
    return Asked(paths=paths, folders=folders, unresolved=tuple(unresolved))
