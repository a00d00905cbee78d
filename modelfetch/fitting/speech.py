"""The GPU memory of speech, music and photo services, from measured tables.

Their files (CTranslate2, pickles, ONNX) have no header that could be read by range, so weights come from sizes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelfetch.fitting.types import Estimate
from modelfetch.formats.range_reader import GIB

if TYPE_CHECKING:
    from collections.abc import Sequence

MB = 10**6

# Rule: weights + 850 MB + 18 MB a decoder layer, from faster-whisper's README (RTX 3070 Ti) and issue 1030 (2080 Ti):
# -0.4 to +2 % of the measured values, +11 to +12 % for int8 of the models with 2 and 4 decoder layers.
_WHISPER_BASE = 850 * MB
_WHISPER_LAYER = 18 * MB
_WHISPER_STREAM = 220 * MB  # each further stream of a batch, measured for large-v2
_DECODER_LAYERS = {
    "tiny": 4,
    "base": 6,
    "small": 12,
    "medium": 24,
    "large-v3-turbo": 4,
    "turbo": 4,
    "large-v1": 32,
    "large-v2": 32,
    "large-v3": 32,
    "large": 32,
}
_STORED_RATIO = {
    "float16": 1.0,
    "bfloat16": 1.0,
    "int8": 0.5,
    "int8_float16": 0.5,
    "int8_bfloat16": 0.5,
    "float32": 2.0,
}
"""Resident bytes for each stored byte of a 16-bit model."""
_DISTILLED = re.compile(r"distil-(?:whisper-)?(?:large|medium|small)", re.IGNORECASE)
_WHISPER = re.compile(
    r"whisper-(tiny|base|small|medium|large-v3-turbo|turbo|large-v[123]|large)(?:\.en|-ct2)?(?![\w-]*distil)(?=[@/\s]|\Z)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WhisperOptions:
    """How whisper is run: CTranslate2's compute type, and the number of parallel chunks."""

    compute_type: str = "float16"
    batch: int = 1


def decoder_layers(text: str) -> int | None:
    """The decoder layers of the whisper model in a name or URI; None if unknown."""
    if _DISTILLED.search(text):
        return 2
    match = _WHISPER.search(text)
    return _DECODER_LAYERS[match[1].lower()] if match else None


def whisper_estimate(name: str, uri: str, size: int | None, options: WhisperOptions) -> Estimate:
    """Estimate a CTranslate2 whisper model; ``size`` is that of its 16-bit ``model.bin`` in bytes."""
    layers = decoder_layers(uri) or decoder_layers(name)
    ratio = _STORED_RATIO.get(options.compute_type)
    doubts = []
    if size is None:
        doubts.append("the size of its model.bin is not known")
    if layers is None:
        doubts.append("which whisper model it is, is not known")
    if ratio is None:
        doubts.append(f"the compute type {options.compute_type!r} is not known")
    compute = None if layers is None else _WHISPER_LAYER * layers + _WHISPER_STREAM * (options.batch - 1)
    return Estimate(
        name=name,
        uri=uri,
        weights=None if size is None or ratio is None else int(size * ratio),
        compute=compute,
        overhead=_WHISPER_BASE,
        method="table",
        assumptions={"compute_type": options.compute_type, "batch": options.batch, "decoder_layers": layers},
        unknown=tuple(doubts),
    )


def aligner_estimate(name: str, uri: str, size: int | None) -> Estimate:
    """Estimate what a torchaudio alignment model adds: its weights, which stay in 32 bits as stored."""
    doubts = () if size is not None else ("its size is not known",)
    return Estimate(name=name, uri=uri, weights=size, method="size", assumptions={"role": "alignment"}, unknown=doubts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    total: int
    why: str


_MEASURED = {
    "diffrhythm": _Measured(
        total=8 * 10**9, why="its README asks for 8 GB with --chunked; 6.6 GB were measured so, 14.5 GB without"
    ),
    "immich": _Measured(
        total=3 * GIB, why="ViT-B-32 and buffalo_l; the ONNX arena grows in steps and has no hard bound"
    ),
}


def measured_service(service: str) -> str | None:
    """The service's name in the table; None if it is not listed."""
    return next((word for word in _MEASURED if service.startswith(word)), None)


def table_estimate(word: str, names: Sequence[str], uri: str, size: int | None) -> Estimate:
    """Estimate the total need of a service in the table; ``size`` of its files is the share of the weights."""
    row = _MEASURED[word]
    weights = min(size or 0, row.total)
    return Estimate(
        name=word,
        uri=uri,
        weights=weights,
        compute=row.total - weights,
        method="table",
        assumptions={"measured": row.why, **({"models": list(names)} if names else {})},
    )
