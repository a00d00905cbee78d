"""The GPU memory of speech, music and photo services.

Their files (CTranslate2, pickles, NeMo, ONNX) have no header that could be read by range. Weights come from the size of
the files; the rest comes from rules and published measurements.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelfetch.fitting.image import OVERHEAD as PYTORCH_OVERHEAD
from modelfetch.fitting.types import Estimate
from modelfetch.formats.range_reader import GIB

if TYPE_CHECKING:
    from collections.abc import Sequence

MB = 10**6

# Rule: weights, 850 MB, and 18 MB for each decoder layer. It is derived from measurements in faster-whisper's README
# (RTX 3070 Ti) and its issue 1030 (RTX 2080 Ti). It is off by -0.4 to +2 %, and by +11 to +12 % for int8 models with 2
# or 4 decoder layers.
_WHISPER_BASE = 850 * MB
_WHISPER_LAYER = 18 * MB
_WHISPER_STREAM = 220 * MB  # for each further stream of a batch, measured with large-v2
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


_PARAKEET = re.compile(r"parakeet-(?:tdt|ctc|rnnt|tdt_ctc)-?\d", re.IGNORECASE)
_PARAKEET_SECONDS = 30
# The largest tensors of the encoder are the first convolution's output and what the second one makes of it: 256
# channels, 50 frames a second, 64 bins (of 128) of the spectrum, in 32 bits. (Source: NVIDIA NeMo, examples/asr/conf/
# fastconformer/hybrid_transducer_ctc/fastconformer_hybrid_tdt_ctc_bpe.yaml: dw_striding, subsampling_conv_channels,
# window_stride, features.) The attention over so short a piece is small.
_PARAKEET_SECOND = 2 * 256 * 50 * 64 * 4
_PARAKEET_NOTE = (
    f"assumes pieces of {_PARAKEET_SECONDS} seconds, computed from NeMo's configuration and not measured; "
    "a longer piece needs 6 MiB for each further second, and more for its attention"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WhisperOptions:
    """Settings of whisper: CTranslate2's compute type, and the number of chunks that are transcribed at once."""

    compute_type: str = "float16"
    batch: int = 1


def decoder_layers(text: str) -> int | None:
    """The decoder layers of the whisper model in a name or URI; None if unknown."""
    if _DISTILLED.search(text):
        return 2
    match = _WHISPER.search(text)
    return _DECODER_LAYERS[match[1].lower()] if match else None


def whisper_estimate(name: str, uri: str, size: int | None, options: WhisperOptions) -> Estimate:
    """Estimate a whisper model under CTranslate2; ``size`` is that of its weights in 16 bits, in bytes."""
    layers = decoder_layers(uri) or decoder_layers(name)
    ratio = _STORED_RATIO.get(options.compute_type)
    doubts = []
    if size is None:
        doubts.append("the size of its weights is not known")
    if layers is None:
        doubts.append("its name is not that of a known whisper model")
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


def is_parakeet(text: str) -> bool:
    """Whether a name or URI is that of one of NVIDIA's Parakeet models."""
    return _PARAKEET.search(text) is not None


def parakeet_estimate(name: str, uri: str, size: int | None) -> Estimate:
    """Estimate a Parakeet model in PyTorch; ``size`` is that of its weights in bytes, which stay as they are stored."""
    return Estimate(
        name=name,
        uri=uri,
        weights=size,
        compute=_PARAKEET_SECONDS * _PARAKEET_SECOND,
        overhead=PYTORCH_OVERHEAD,
        method="size",
        assumptions={"seconds": _PARAKEET_SECONDS, "notes": [_PARAKEET_NOTE]},
        unknown=() if size is not None else ("the size of its weights is not known",),
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
        total=8 * 10**9, why="its README requires 8 GB with --chunked; measured: 6.6 GB with it, 14.5 GB without"
    ),
    "immich": _Measured(
        total=3 * GIB, why="ViT-B-32 and buffalo_l; the ONNX arena grows in steps and has no hard bound"
    ),
}


MEASURED_SERVICES = frozenset(_MEASURED)
"""The services that are estimated as a whole, by their consumers' names."""


def table_estimate(word: str, names: Sequence[str], uri: str, size: int | None) -> Estimate:
    """Estimate a service in the table; ``size`` is that of its files, and counts as the weights."""
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
