"""Disk use per model and service, for `status`, and the overview shown by `report --html`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelfetch.care.inventory import Condition, Item, Origin, take_inventory
from modelfetch.care.listing import bytes_of, oldest_check, reclaimable_bytes, shown_items
from modelfetch.pipeline.preflight import check_folders
from modelfetch.store.checks import now

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from modelfetch.pipeline.session import Session
    from modelfetch.pipeline.status import ModelStatus

_OTHERS = {
    Origin.FOREIGN: "other files",
    Origin.BLOB: "unused blobs",
    Origin.PARTIAL: "unfinished downloads",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUse:
    """One model for one service.

    ``verified`` is the oldest date among its files, None if one was never verified; ``check_age`` is in seconds.
    """

    verified: datetime | None
    check_age: float | None
    damaged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskUse:
    """``models`` by (model, consumer); ``bytes`` by `Item.place`."""

    models: Mapping[tuple[str, str], ModelUse] = field(default_factory=dict)
    bytes: Mapping[str, int] = field(default_factory=dict)
    reclaimable: int = 0


def disk_use(session: Session, *, foreign: bool = False) -> DiskUse:
    """Collect the disk use; ``foreign``: walk the services' folders too. Blocks.

    Raises:
        DestinationError, DiskError: A folder or a receipt can't be read.
    """
    inventory = take_inventory(session, foreign=foreign)
    by_model: dict[tuple[str, str], list[Item]] = defaultdict(list)
    by_consumer: dict[str, list[Item]] = defaultdict(list)
    for item in inventory.placements:
        if item.model and item.consumer:
            by_model[item.model, item.consumer].append(item)
    for item in shown_items(inventory):
        by_consumer[item.place].append(item)
    return DiskUse(
        models={key: model_use(items) for key, items in by_model.items()},
        bytes={name: bytes_of(items) for name, items in by_consumer.items()},
        reclaimable=reclaimable_bytes(inventory),
    )


def model_use(items: Sequence[Item]) -> ModelUse:
    """Summarise a model's files that have a digest."""
    oldest = oldest_check(item for item in items if item.inode is not None)
    return ModelUse(
        verified=oldest,
        check_age=(now() - oldest).total_seconds() if oldest else None,
        damaged=sum(item.is_damaged for item in items),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One model of one service, or files that are not a model (``is_model`` is then false)."""

    model: str
    bytes: int
    files: int
    state: str
    tiers: tuple[str, ...]
    verified: datetime | None
    is_model: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceUse:
    """One service, or the store; the largest model first."""

    name: str
    bytes: int
    rows: tuple[ModelRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All data of the page. ``problems`` lists the model, service and state of everything that is not in order."""

    root: str
    tier: str | None
    made: datetime
    bytes: int
    reclaimable: int
    services: tuple[ServiceUse, ...]
    problems: tuple[tuple[str, str, str], ...]


def make_overview(session: Session, lines: Sequence[ModelStatus] = (), *, tier: str | None = None) -> Overview:
    """Build the overview; ``lines`` are the status of the chosen tier, if there is one. Blocks.

    Raises:
        DestinationError, DiskError: A folder or a receipt can't be read.
    """
    check_folders(session)
    inventory = take_inventory(session)
    shown = shown_items(inventory)
    groups: dict[str, dict[str, list[Item]]] = defaultdict(lambda: defaultdict(list))
    for item in (*shown, *(item for item in inventory.placements if item.condition is Condition.MISSING)):
        groups[item.place][item.model or _OTHERS.get(item.origin, "other files")].append(item)
    services = tuple(_service(name, models) for name, models in sorted(groups.items()))
    problems = {(line.model, line.consumer): line.state for line in lines if not line.is_ok}
    for service in services:
        for row in service.rows:
            if row.is_model and row.state in ("damaged", "changed", "missing"):
                problems[row.model, service.name] = row.state
    return Overview(
        root=str(session.options.root),
        tier=tier,
        made=now(),
        bytes=bytes_of(shown),
        reclaimable=reclaimable_bytes(inventory),
        services=services,
        problems=tuple((model, consumer, state) for (model, consumer), state in problems.items()),
    )


def _service(name: str, models: dict[str, list[Item]]) -> ServiceUse:
    rows = sorted((_row(model, items) for model, items in models.items()), key=lambda row: (-row.bytes, row.model))
    return ServiceUse(
        name=name, bytes=bytes_of([item for items in models.values() for item in items]), rows=tuple(rows)
    )


def _row(model: str, items: Sequence[Item]) -> ModelRow:
    is_model = any(item.model for item in items)
    return ModelRow(
        model=model,
        bytes=bytes_of(items),
        files=len(items),
        state=_state(items) if is_model else "-",
        tiers=tuple(dict.fromkeys(tier for item in items for tier in item.tiers)),
        verified=model_use(items).verified if is_model else None,
        is_model=is_model,
    )


def _state(items: Sequence[Item]) -> str:
    if any(item.is_damaged for item in items):
        return "damaged"
    conditions = {item.condition for item in items if item.is_placement}
    for condition in (Condition.CHANGED, Condition.MISSING, Condition.REWRITTEN):
        if condition in conditions:
            return str(condition)
    return "ready"
