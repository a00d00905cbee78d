"""The values that estimates are computed from, and the estimates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from modelfetch.errors import exit_code_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelfetch.errors import ModelfetchError
    from modelfetch.fitting.llm.layers import LayerSizes, OnGpu
    from modelfetch.formats.range_reader import HeaderBuffer

Method = Literal["header", "size", "table"]
"""How the weights were determined: exactly from the tensors, bounded by the file's size, or from a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """One file of a model.

    Attributes:
        path: Its path within the model; for an Ollama model the layer's kind (``model``, ``projector``).
        size: Its length in bytes, if known.
        prefix: Its beginning, if it can be read; it keeps the bytes for a later download.
    """

    path: str
    size: int | None = None
    prefix: HeaderBuffer | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model to estimate; ``consumers`` and ``kind`` are those of the manifest."""

    name: str
    uri: str
    files: tuple[ModelFile, ...]
    consumers: tuple[str, ...] = ()
    kind: str | None = None

    @property
    def fetched(self) -> int:
        """Bytes read of all its files."""
        return sum(file.prefix.fetched for file in self.files if file.prefix)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The GPU memory of a model, in bytes; a part that is not known is None, and ``unknown`` has the reason.

    Attributes:
        weights: The weights on the GPU.
        kv: The key-value cache.
        compute: Compute buffers and activations, at their peak.
        overhead: The runtime's own memory, such as the CUDA context.
        method: How the weights were determined.
        assumptions: The settings and rules that the numbers depend on.
        unknown: The reasons why a part is not known; empty if all are.
        margin: Memory that must stay free while it loads; with less, a part of the model runs on the CPU.
        most: An upper bound if a part is not known; None if there is no bound.
        layers: The parts of a chat model that run on the CPU if it does not fit; None if they are not known.
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
    layers: LayerSizes | None = field(default=None, repr=False)

    @property
    def known(self) -> int:
        """The sum of the known parts: a lower bound."""
        return (self.weights or 0) + (self.kv or 0) + (self.compute or 0) + self.overhead

    @property
    def total(self) -> int | None:
        """The sum of all parts; None if one is not known."""
        complete = None not in (self.weights, self.kv, self.compute)
        return self.known if complete and not self.unknown else None

    @property
    def needed(self) -> int:
        """The memory that must be free to load the whole model."""
        return self.known + self.margin

    def on_gpu(self, limit: int) -> OnGpu | None:
        """The layers that run on the GPU if ``limit`` bytes are free; None if the layers are not known."""
        taken = (self.compute or 0) + self.overhead + self.margin
        return None if self.layers is None else self.layers.within(limit - taken)

    def as_dict(self) -> dict[str, Any]:
        """Convert to the structure of the report."""
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
    """The need and the budget of one service, in bytes.

    ``sure`` is False if a part of a model is not known; ``needed`` is then a lower bound.
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
        """Whether it is known to fit into its budget; without a budget, whether everything is known."""
        return self.sure and (self.budget is None or self.needed <= self.budget)

    def as_dict(self) -> dict[str, Any]:
        """Convert to the structure of the report."""
        return {
            "service": self.service,
            "budget": self.budget,
            "needed": self.needed,
            "fits": self.fits,
            "models": [model.as_dict() for model in self.models],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """The result for a tier or for one model, in bytes.

    In ``needed``, of services with the same ``exclusive`` word only the largest counts.
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
        """0 if it fits, 1 if it does not or if this is not known; a failure to read a file takes precedence."""
        return exit_code_of(self.errors)

    @property
    def tight(self) -> bool:
        """Whether it fits, but less than a twentieth of the usable memory is left."""
        return self.usable is not None and self.needed <= self.usable < self.needed * 20 / 19

    def as_dict(self) -> dict[str, Any]:
        """Convert to the structure that ``fit --json`` prints."""
        return {
            "ok": self.ok,
            "tier": self.tier,
            "usable": self.usable,
            "needed": self.needed,
            "services": [service.as_dict() for service in self.services],
            "bytes_fetched": self.bytes_fetched,
            "errors": [single.as_dict() for error in self.errors for single in error.each()],
        }
