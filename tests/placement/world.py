"""A root with a store, and the code that places files into it: each `place` is a separate run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelfetch.core.artifact import Artifact
from modelfetch.core.cancel import Cancel
from modelfetch.core.digest import Digest
from modelfetch.core.events import Event, Notice
from modelfetch.placement import Inspector, PlacementJob, PlacementRequest, Placer
from modelfetch.placement.layouts import Placement, PlacementMethod
from modelfetch.placement.receipts import read_receipt
from modelfetch.store import Blob, Store
from modelfetch.store.ingest import LINK_AT_LEAST

if TYPE_CHECKING:
    from pathlib import Path

    from modelfetch.placement.receipts import Entry

LARGE = b"weights!" * (LINK_AT_LEAST // 8)
SMALL = b'{"small": true}'


@dataclass
class World:
    root: Path
    owner: tuple[int, int] | None = None
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.new_run()

    def new_run(self) -> None:
        """What the next process starts with: nothing in memory."""
        self.store = Store(self.root / ".modelfetch", sink=self.events.append)
        inspector = Inspector(self.root, store=self.store, sink=self.events.append)
        self.placer = Placer(
            self.root, self.store, inspector=inspector, owner=self.owner, sink=self.events.append, cancel=Cancel()
        )

    def blob(self, data: bytes) -> Blob:
        return self.store.add_bytes(data)

    def job(self, path: str, data: bytes, how: PlacementMethod = PlacementMethod.FILE) -> PlacementJob:
        artifact = Artifact(uri=f"file:///{path}", path=path, size=len(data), digest=Digest.sha256(data))
        return PlacementJob(placement=Placement(path=path, how=how, artifact=artifact), blob=self.blob(data))

    def place(self, *jobs: PlacementJob, consumer: str = "comfyui", requested_by: str = "8g") -> None:
        self.new_run()
        self.placer.place(PlacementRequest(consumer=consumer, model="m", requested_by=requested_by, jobs=jobs))
        for error in self.placer.finish().values():
            raise error

    def receipt(self, path: str, consumer: str = "comfyui") -> Entry:
        return read_receipt(self.root, consumer).entries[path]

    @property
    def warnings(self) -> list[str]:
        return [e.message for e in self.events if isinstance(e, Notice)]
