"""Suggest settings that make a service fit, and compute what it needs with them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from modelfetch.core.units import format_size
from modelfetch.fitting.image import parse_resolution
from modelfetch.manifest.model import OFFLOADS, Service

if TYPE_CHECKING:
    from collections.abc import Iterator


_MIN_CONTEXT = 2048
_MAX_HINTS = 3


class Needs(Protocol):
    """Computes what a service would need."""

    def __call__(self, service: Service, *, fp8: bool) -> int | None:
        """Bytes with these settings (``fp8``: with 8-bit weights); None if unknown."""


class _Change(NamedTuple):
    text: str
    service: Service
    fp8: bool = False


def what_would_fit(service: Service, kind: str, limit: int, needs: Needs) -> str | None:
    """The mildest settings that bring a service to at most ``limit`` bytes; None if there are none.

    Args:
        service: The service with its settings.
        kind: ``llm``, ``image`` or ``speech``; anything else has no settings.
        limit: Bytes.
        needs: Computes what it needs with other settings.
    """
    hints: list[str] = []
    enough: list[str] = []
    for change in _changes(service, kind):
        if len(hints) == _MAX_HINTS:
            break
        if any(text in change.text for text in enough):
            continue  # a milder change is sufficient
        needed = needs(change.service, fp8=change.fp8)
        if needed is not None and needed <= limit:
            enough.append(change.text)
            hints.append(f"{change.text} (needs {format_size(needed)})")
    if kind in ("llm", "speech") and limit >= 0:
        hints.append("device: cpu (uses no VRAM)")
    return "it would fit with " + ", or ".join(hints) if hints else None


def smallest(service: Service, kind: str, needs: Needs, *, llm_on_cpu: bool = False) -> tuple[str, int] | None:
    """The change that minimises a service's need, and the bytes; on a tie the mildest. None if nothing is known.

    Speech is moved to the CPU; language models only with ``llm_on_cpu``, because they are slow there.
    """
    if kind == "speech" or (llm_on_cpu and kind == "llm"):
        return "device: cpu", 0
    found = [(c.text, needed) for c in _changes(service, kind) if (needed := needs(c.service, fp8=c.fp8)) is not None]
    return min(found, key=lambda one: one[1], default=None)


def _changes(service: Service, kind: str) -> Iterator[_Change]:
    if kind == "llm":
        yield from _llm(service)
    elif kind == "image":
        yield from _image(service)
    elif kind == "speech":
        yield from _speech(service)


def _llm(service: Service) -> Iterator[_Change]:
    """Each setting alone, then all together, then with shorter and shorter contexts."""
    steps: list[tuple[str, Service]] = []
    if (service.parallel or 1) > 1:
        steps.append(("parallel: 1", replace(service, parallel=1)))
    if service.flash_attention is False:
        steps.append(("flash_attention: true", replace(service, flash_attention=True)))
    for kv_type in ("q8_0", "q4_0"):
        if service.kv_type not in (kv_type, "q4_0"):
            flash = "flash_attention: true and " if service.flash_attention is False else ""
            steps.append((f"{flash}kv_type: {kv_type}", replace(service, flash_attention=True, kv_type=kv_type)))
    yield from (_Change(text, changed) for text, changed in steps)
    shorter = list(_shorter(service.context or 4096))
    yield from (_Change(f"context: {c}", replace(service, context=c)) for c in shorter)
    small = replace(service, parallel=1, flash_attention=True, kv_type="q8_0")
    words = f"parallel: 1, {'flash_attention: true, ' if service.flash_attention is False else ''}kv_type: q8_0"
    if len(steps) > 1:
        yield _Change(words, small)
    yield from (_Change(f"{words}, context: {c}", replace(small, context=c)) for c in shorter)


def _shorter(context: int) -> Iterator[int]:
    while context > _MIN_CONTEXT:
        context = max(_MIN_CONTEXT, context // 2)
        yield context


def _image(service: Service) -> Iterator[_Change]:
    further = OFFLOADS[OFFLOADS.index(service.offload or "none") + 1 :]
    milder = [(f"offload: {o}", replace(service, offload=o)) for o in further]
    yield from (_Change(text, changed) for text, changed in milder)
    yield _Change("weights in fp8", service, fp8=True)
    yield from (_Change(f"weights in fp8 and {text}", changed, fp8=True) for text, changed in milder)
    most = milder[-1][1] if milder else service
    prefix = f"{milder[-1][0]} and " if milder else ""
    side = max(parse_resolution(service.resolution)) if service.resolution else 1024
    for smaller in (768, 512):
        if smaller < side:
            text = f"resolution: {smaller}x{smaller}"
            yield _Change(text, replace(service, resolution=f"{smaller}x{smaller}"))
            yield _Change(prefix + text, replace(most, resolution=f"{smaller}x{smaller}"))


def _speech(service: Service) -> Iterator[_Change]:
    if (service.batch or 1) > 1:
        yield _Change("batch: 1", replace(service, batch=1))
    if service.compute_type != "int8":
        yield _Change("compute_type: int8", replace(service, compute_type="int8"))
        if (service.batch or 1) > 1:
            yield _Change("compute_type: int8 and batch: 1", replace(service, compute_type="int8", batch=1))
