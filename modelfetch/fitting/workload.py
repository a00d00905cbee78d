"""Determine which of a service's models are on the GPU at the same time, and what they need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from modelfetch.core.units import total_size
from modelfetch.errors import ModelfetchError, unique
from modelfetch.fitting.estimate import (
    LOADED_KINDS,
    gguf_estimate,
    image_estimates,
    is_encoder,
    read_llm,
    read_parts,
    speech_estimate,
    unknown_estimate,
)
from modelfetch.fitting.speech import MEASURED_SERVICES, table_estimate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from modelfetch.fitting.image import Parts
    from modelfetch.fitting.types import Candidate, Estimate
    from modelfetch.manifest.model import Service

IMAGE_SERVICES = ("stable-diffusion", "comfyui")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a service loads: models that stay loaded together, models that take turns, and models that can't be read."""

    stay: tuple[Estimate, ...] = ()
    turns: tuple[Estimate, ...] = ()
    errors: tuple[ModelfetchError, ...] = ()

    @property
    def needed(self) -> int:
        """Bytes needed: all that stay loaded, the largest of those that take turns, and the largest margin once."""
        taken = sum(e.known for e in self.stay) + max((e.known for e in self.turns), default=0)
        return taken + max((e.margin for e in self.estimates), default=0)

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """All models, those that take turns first."""
        return self.turns + self.stay

    @property
    def sure(self) -> bool:
        """Whether every part of every model is known."""
        return not self.errors and all(not e.unknown for e in self.estimates)


def load(service: Service, candidates: Sequence[Candidate], *, fp8: bool = False) -> Load:
    """Compute what a service loads with its settings; ``candidates`` are those of all services.

    ``fp8``: as if an image model's 16-bit weights were held in 8 bits.
    """
    consumer = consumer_of(service)
    mine = [candidate for candidate in candidates if consumer in candidate.consumers]
    if consumer in MEASURED_SERVICES:
        return _from_table(consumer, mine)
    if service.name in IMAGE_SERVICES:
        return _images(service, mine, fp8=fp8)
    if consumer == "whisper":
        return _separately(service, mine, lambda c: speech_estimate(c, service), lambda c: c.kind == "torch-checkpoint")
    return _language(service, mine)


def consumer_of(service: Service) -> str:
    """The consumer whose models a service loads: a service may have a longer name, such as ``whisperx``."""
    words = ("whisper", "diffrhythm", "immich")
    return next((word for word in words if service.name.startswith(word)), service.name)


def names_model(service: Service, candidate: Candidate) -> bool:
    """Whether a service's ``model`` names this one: by the manifest's name, or by the end of its URI.

    Whisper services name their models by the last part only, such as ``small`` for ``…/faster-whisper-small``.
    """
    wanted = service.model
    if wanted is None or wanted == candidate.name:
        return True
    return candidate.uri.split("@", 1)[0].endswith((f"/{wanted}", f"/{wanted}:latest", f"whisper-{wanted}"))


def _from_table(word: str, mine: Sequence[Candidate]) -> Load:
    size = total_size(file.size for candidate in mine for file in candidate.files)
    return Load(turns=(table_estimate(word, [candidate.name for candidate in mine], "", size),))


def _images(service: Service, mine: Sequence[Candidate], *, fp8: bool) -> Load:
    read: list[tuple[Candidate, Parts | None]] = []
    errors: list[ModelfetchError] = []
    for candidate in mine:
        if candidate.kind not in LOADED_KINDS:
            continue
        try:
            read.append((candidate, read_parts(candidate)))
        except ModelfetchError as error:
            errors.append(error.about(model=candidate.name, uri=candidate.uri))
    made = image_estimates(read, service, fp8=fp8)
    chosen = [estimate for candidate, estimate in made if names_model(service, candidate)]
    return Load(turns=tuple(chosen or [estimate for _, estimate in made]), errors=tuple(errors))


def _separately(
    service: Service,
    mine: Sequence[Candidate],
    estimate: Callable[[Candidate], Estimate],
    stays: Callable[[Candidate], bool],
) -> Load:
    """Every model separately; of those that take turns, only the one that the service names, if any."""
    stay: list[Estimate] = []
    turns: list[Estimate] = []
    others: list[Estimate] = []
    errors: list[ModelfetchError] = []
    for candidate in mine:
        try:
            made = estimate(candidate)
            group = stay if stays(candidate) else turns if names_model(service, candidate) else others
            group.append(made)
        except ModelfetchError as error:
            errors.append(error.about(model=candidate.name, uri=candidate.uri))
    return Load(stay=tuple(stay), turns=tuple(turns or others), errors=tuple(errors))


def _language(service: Service, mine: Sequence[Candidate]) -> Load:
    """Ollama's models: embedding models stay loaded, chat models take turns.

    The first range of each file gives an upper bound. Only if that exceeds the budget, the tensors are read too, those
    of the chat models first: they are the larger ones.
    """
    if service.vram is not None:
        for exact in (_none, _is_chat):
            bound = _ollama(service, mine, exact=exact)
            if bound.sure and bound.needed <= service.vram:
                return bound
    return _ollama(service, mine, exact=lambda _: True)


def _none(_candidate: Candidate) -> bool:
    return False


def _is_chat(candidate: Candidate) -> bool:
    header, _ = read_llm(candidate, tensors=False)
    return header is not None and not is_encoder(header)


def _ollama(service: Service, mine: Sequence[Candidate], *, exact: Callable[[Candidate], bool]) -> Load:
    def estimate(candidate: Candidate) -> Estimate:
        if not candidate.files:
            return unknown_estimate(candidate, "its files are not known")
        return gguf_estimate(candidate, service, exact=exact(candidate))

    def stays(candidate: Candidate) -> bool:
        header, _ = read_llm(candidate, tensors=False)
        return header is not None and is_encoder(header)

    made = _separately(service, mine, estimate, stays)
    return replace(made, errors=unique(made.errors))
