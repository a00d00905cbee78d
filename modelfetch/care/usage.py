"""Disk use per model and service, for `status`: date of verification, damage, size."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelfetch.care.inventory import take_inventory
from modelfetch.care.listing import bytes_of, oldest_check, reclaimable_bytes, shown_items
from modelfetch.store.checks import now

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from modelfetch.care.inventory import Item
    from modelfetch.pipeline.session import Session


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
