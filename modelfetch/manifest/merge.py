"""Merge the files of a chain of ``extends`` into one manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelfetch.core.units import format_size
from modelfetch.manifest import budget
from modelfetch.manifest.model import Manifest

if TYPE_CHECKING:
    from modelfetch.manifest.composite_types import Values
    from modelfetch.manifest.field_types import Reader
    from modelfetch.manifest.model import Model, Service


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The content of one file; ``extends`` is the name or path of the file that it changes."""

    file: str
    values: Values
    extends: str | None
    services: tuple[Service, ...]
    models: tuple[Model, ...]


def merge(
    parts: tuple[Part, ...], reader: Reader, *, sha256: str, files: tuple[str, ...], complete: bool = True
) -> Manifest:
    """Merge parts, the last one first; budgets are checked and problems noted.

    Args:
        parts: The content of each file, the manifest itself first.
        reader: Takes the problems.
        sha256: Of all files, for the result.
        files: All files, the manifest itself first.
        complete: Whether every extended file could be read; otherwise missing names are not reported.
    """
    models: dict[str, Model] = {}
    services: dict[str, Service] = {}
    for part in reversed(parts):
        _drop(part, models, services, reader if complete else None)
        models |= {model.name: model for model in part.models}
        services |= {service.name: service for service in part.services}
    vram, usable = _card(parts, reader)
    if message := budget.check_budget(services.values(), usable):
        reader.problem(next(p.values.at("services") for p in parts if p.services), message)
    return Manifest(
        file=files[0],
        sha256=sha256,
        tier=_first(parts, "tier"),
        models=tuple(models.values()),
        services=tuple(services.values()),
        vram=vram,
        usable=usable,
        description=_first(parts, "description"),
        files=files,
    )


def _drop(part: Part, models: dict[str, Model], services: dict[str, Service], reader: Reader | None) -> None:
    """Remove the models and services that a part drops."""
    if part.extends is None:
        return
    for name, at in part.values.get("drop", ()):
        known = (*models, *services)
        if reader is not None and name not in known:
            near = reader.suggest(name, known)
            reader.problem(at, f"drop: expected a model or service of what is extended, found {name!r}{near}")
        models.pop(name, None)
        services.pop(name, None)


def _card(parts: tuple[Part, ...], reader: Reader) -> tuple[int | None, int | None]:
    """Return ``vram`` and ``usable``; a file with its own ``vram`` does not inherit ``usable``."""
    vram = usable = None
    for part in parts:
        vram = part.values.get("vram")
        usable = part.values.get("usable") if usable is None else usable
        if vram is not None:
            break
    if vram is not None and usable is None:
        usable = budget.default_usable(vram)
    if vram is not None and usable is not None and usable > vram:
        at = next(part.values.at("usable") for part in parts if "usable" in part.values.keys)
        reader.problem(at, f"usable: expected at most vram, {format_size(vram)}, found {format_size(usable)}")
    return vram, usable


def _first(parts: tuple[Part, ...], key: str) -> Any:
    return next((value for part in parts if (value := part.values.get(key)) is not None), None)
