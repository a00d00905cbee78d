"""The values that estimates are made of and become."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from modelfetch.errors import exit_code_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelfetch.errors import ModelfetchError
    from modelfetch.formats.range_reader import HeaderBuffer

Method = Literal["header", "size", "table"]
"""How weights were found: exactly from tensor sizes, bounded by the file's size, or looked up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of a model.

    Attributes:
        path: Its path within the model; for an Ollama model the layer's kind (``model``, ``projector``).
        size: Its length in bytes, where it is known.
        prefix: Its beginning, where it can be read; it keeps what was fetched, for a later download to begin with.
    """

    path: str
    size: int | None = None
    prefix: HeaderBuffer | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model whose memory is asked for; ``consumers`` and ``kind`` are the manifest's words."""

    name: str
    uri: str
    files: tuple[File, ...]
    consumers: tuple[str, ...] = ()
    kind: str | None = None

    @property
    def fetched(self) -> int:
        """Bytes that were read of its files, in all."""
        return sum(file.prefix.fetched for file in self.files if file.prefix)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The GPU memory that a model takes, in bytes; a part that is not known is None, and ``unknown`` says why.

    Attributes:
        weights: What stays on the GPU of the weights.
        kv: The key-value cache.
        compute: Compute buffers and activations, at their peak.
        overhead: What the runtime takes for itself, such as the CUDA context.
        method: How the weights were found.
        assumptions: The settings and rules that the numbers rest on.
        unknown: Why a part is not known; empty where all are.
        margin: Memory that must stay free beside it while it loads; with less, a part of it runs on the CPU.
        most: The most that it may take where a part is not known; None where there is no bound.
        steps: Bytes of what is put on the GPU together, in that order, where layers can stay on the CPU.
    """

    name: str
    uri: str
    weights: int | None
    kv: int | None = 0
    compute: int | None = 0
    overhead: int = 0
    method: Method
    assumptions: Mapping[str, Any] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    margin: int = 0
    most: int | None = None
    steps: tuple[int, ...] = field(default=(), repr=False)

    @property
    def known(self) -> int:
        """The sum of the parts that are known: the model takes at least that."""
        return (self.weights or 0) + (self.kv or 0) + (self.compute or 0) + self.overhead

    @property
    def total(self) -> int | None:
        """The sum of all parts, None where one is not known."""
        complete = None not in (self.weights, self.kv, self.compute)
        return self.known if complete and not self.unknown else None

    @property
    def needed(self) -> int:
        """What must be free for it to load as a whole."""
        return self.known + self.margin

    def steps_within(self, limit: int) -> int:
        """How many of its ``steps`` fit ``limit`` bytes, beside its buffers, its overhead and the margin."""
        left = limit - (self.compute or 0) - self.overhead - self.margin
        for count, size in enumerate(self.steps):
            left -= size
            if left < 0:
                return count
        return len(self.steps)

    def as_dict(self) -> dict[str, Any]:
        """The model as the report shows it."""
        extra: dict[str, Any] = {"margin": self.margin} if self.margin else {}
        extra |= {"at_least": self.known} if self.unknown else {}
        extra |= {"at_most": self.most} if self.most is not None else {}
        unknown = {"unknown": list(self.unknown)} if self.unknown else {}
        return {
            "name": self.name,
            "uri": self.uri,
            "weights": self.weights,
            "kv": self.kv,
            "compute": self.compute,
            "overhead": self.overhead,
            "total": self.total,
            "method": self.method,
            "assumptions": {**self.assumptions, **extra, **unknown},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFit:
    """One service: what it needs, against what the tier gives it; bytes.

    ``sure`` is False where a part of a model is not known, so that ``needed`` is only what it needs at least.
    """

    service: str
    budget: int | None
    needed: int
    models: tuple[Estimate, ...]
    exclusive: str | None = None
    on_cpu: bool = False
    sure: bool = True

    @property
    def fits(self) -> bool:
        """Whether it is known to fit its budget; without a budget only what is unknown counts."""
        return self.sure and (self.budget is None or self.needed <= self.budget)

    def as_dict(self) -> dict[str, Any]:
        """The service as the report shows it."""
        return {
            "service": self.service,
            "budget": self.budget,
            "needed": self.needed,
            "fits": self.fits,
            "models": [model.as_dict() for model in self.models],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """The verdict on a tier or on one model; bytes.

    ``needed`` counts services with the same ``exclusive`` word once, at the largest.
    """

    tier: str | None
    usable: int | None
    needed: int
    services: tuple[ServiceFit, ...]
    errors: tuple[ModelfetchError, ...] = ()
    bytes_fetched: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything is known to fit."""
        return not self.errors

    @property
    def exit_code(self) -> int:
        """0 when it fits; a failure to read beats 1, which says that it does not fit or that this is not known."""
        return exit_code_of(self.errors)

    @property
    def tight(self) -> bool:
        """Whether it fits with less than a twentieth of the usable memory left."""
        return self.usable is not None and self.needed <= self.usable < self.needed * 20 / 19

    def as_dict(self) -> dict[str, Any]:
        """The report as ``fit --json`` prints it."""
        return {
            "ok": self.ok,
            "tier": self.tier,
            "usable": self.usable,
            "needed": self.needed,
            "services": [service.as_dict() for service in self.services],
            "bytes_fetched": self.bytes_fetched,
            "errors": [single.as_dict() for error in self.errors for single in error.each()],
        }
