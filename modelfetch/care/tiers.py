"""The tiers as a table: what each requires, and how much of it is present."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from modelfetch.errors import ManifestError, ModelfetchError
from modelfetch.manifest.budget import in_turns, vram_of
from modelfetch.pipeline.status import status_of
from modelfetch.tiers.discovery import list_tiers
from modelfetch.tiers.loader import read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelfetch.core.report import ModelReport
    from modelfetch.manifest.model import Model, Service
    from modelfetch.pipeline.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The part of the card for one service, or for several that take turns.

    Attributes:
        services: The names of the services.
        models: The models that they load.
        vram: Their budget in bytes; 0 if they run on the CPU.
    """

    services: tuple[str, ...]
    models: tuple[str, ...]
    vram: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TierLine:
    """One tier; sizes in bytes: ``bytes`` of all files as far as known, ``present`` of those in place.

    ``open`` are the models that have a file of unknown size until their source is queried; ``shares`` are the services
    that run at the same time.
    """

    name: str
    vram: int | None
    usable: int | None
    services: tuple[str, ...]
    models: tuple[str, ...]
    bytes: int
    present: int
    auto: bool
    description: str = ""
    open: tuple[str, ...] = ()
    shares: tuple[Share, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Convert to the contract's JSON structure."""
        return {name: value for name, value in asdict(self).items() if name != "open"}


def list_lines(
    session: Session, *, auto: str | None = None
) -> tuple[tuple[TierLine, ...], tuple[ModelfetchError, ...]]:
    """Return a line for each tier, smallest card first, and the errors of tiers whose manifest is invalid."""
    lines: list[TierLine] = []
    errors: list[ModelfetchError] = []
    settings = session.settings
    for name, path in list_tiers(settings.tiers_dir):
        try:
            manifest = read_manifest(path, settings)
        except ManifestError as error:
            errors.append(error)
            continue
        report, _ = status_of([manifest], session)
        sizes = [_sizes(model, found) for model, found in zip(manifest.models, report.models, strict=True)]
        files = {a.digest or a.uri: a for model in report.models for a in model.artifacts}.values()
        lines.append(
            TierLine(
                name=name,
                vram=manifest.vram,
                usable=manifest.usable,
                services=tuple(service.name for service in manifest.services),
                models=tuple(model.name for model in manifest.models),
                bytes=sum(size or 0 for size in {name: s for known in sizes for name, s in known.items()}.values()),
                present=sum(a.size or 0 for a in files if a.action == "present"),
                auto=name == auto,
                description=" ".join((manifest.description or "").split()),
                open=tuple(m.name for m, known in zip(manifest.models, sizes, strict=True) if None in known.values()),
                shares=shares(manifest.services),
            )
        )
    return tuple(sorted(lines, key=lambda line: (line.vram or 0, line.name))), tuple(errors)


def shares(services: Iterable[Service]) -> tuple[Share, ...]:
    """The services that run at the same time; those that take turns (``exclusive``) are one share."""
    return tuple(
        Share(
            services=tuple(service.name for service in group),
            models=tuple(dict.fromkeys(service.model for service in group if service.model)),
            vram=max(vram_of(service) for service in group),
        )
        for group in in_turns(services)
    )


def _sizes(model: Model, found: ModelReport) -> dict[str, int | None]:
    """The size of each file of a model, by the identity of its bytes: as resolved, otherwise as pinned."""
    unasked = len(found.artifacts) == 1 and found.artifacts[0].uri == str(model.source)
    if not (unasked and found.artifacts[0].action in ("missing", "foreign")):
        return {a.digest or a.uri: a.size for a in found.artifacts}
    return {str(file.digest or f"{model.source}/{file.path}"): file.size for file in model.pins}
