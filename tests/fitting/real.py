"""The headers of the catalog's models, with their real shapes and sizes, and not a byte of weights."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from tests.fitting.build import MadeFile, Shape, llm, safetensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REAL = {
    "qwen2.5:0.5b": Shape(
        arch="qwen2",
        layers=24,
        embedding=896,
        heads=14,
        kv_heads=2,
        ff=4864,
        vocab=151936,
        context=32768,
        tied=True,
        mix=True,
    ),
    "llama3.2:3b": Shape(
        layers=28,
        embedding=3072,
        heads=24,
        kv_heads=8,
        ff=8192,
        vocab=128256,
        head_dim=128,
        tied=True,
        mix=True,
        rope_freqs=True,
    ),
    "llama3.1:8b": Shape(
        layers=32, embedding=4096, heads=32, kv_heads=8, ff=14336, vocab=128256, mix=True, rope_freqs=True
    ),
    "llama3.3:70b": Shape(
        layers=80, embedding=8192, heads=64, kv_heads=8, ff=28672, vocab=128256, mix=True, rope_freqs=True
    ),
}
"""The shapes of the catalog's language models (source: their config.json upstream)."""


@functools.cache
def _made(name: str) -> MadeFile:
    return llm(REAL[name])


def real_llm(name: str) -> MadeFile:
    """The GGUF file of one of `REAL`; made once, since a vocabulary of 128,256 tokens takes a while."""
    made = _made(name)
    return MadeFile(header=made.header, size=made.size)


# Parameters of each part of the catalog's image models; with the types below their sum is each file's size less its
# header (the header sizes are then those of the facts: 0.2, 0.4 and 0.1 MB).
_UNET_SD15, _UNET_SDXL, _FLUX_DEV, _FLUX_SCHNELL = 859_520_964, 2_567_463_684, 11_901_408_320, 11_891_178_560
_CLIP_L, _CLIP_G, _T5, _VAE, _FLUX_VAE = 123_060_480, 694_659_840, 4_762_310_656, 83_653_863, 83_819_683


def _with_total(
    part: str, total: int, dtype: str, markers: Mapping[str, Sequence[int]]
) -> dict[str, tuple[str, Sequence[int]]]:
    """Tensors of a part: those that identify its family, and one with the rest of its parameters."""
    rest = total - sum(math.prod(shape) for shape in markers.values())
    named = {f"{part}{name}": (dtype, shape) for name, shape in markers.items()}
    return {**named, f"{part}all_other_weights": (dtype, (rest,))}


SD15_MARKS = {
    "input_blocks.0.0.weight": (320, 4, 3, 3),
    "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
}
SDXL_MARKS = {"input_blocks.0.0.weight": (320, 4, 3, 3), "label_emb.0.0.weight": (1280, 2816)}
FLUX_MARKS = {"double_blocks.0.img_attn.qkv.weight": (9216, 3072)}
_UNET, _FIRST = "model.diffusion_model.", "first_stage_model."


def sd15(dtype: str = "F32") -> MadeFile:
    """``v1-5-pruned-emaonly.safetensors``: 32 bits."""
    return safetensors(
        _with_total(_UNET, _UNET_SD15, dtype, SD15_MARKS)
        | _with_total("cond_stage_model.transformer.text_model.", _CLIP_L, dtype, {})
        | _with_total(_FIRST, _VAE, dtype, {})
    )


def sdxl() -> MadeFile:
    """``sd_xl_base_1.0.safetensors``: 16 bits."""
    return safetensors(
        _with_total(_UNET, _UNET_SDXL, "F16", SDXL_MARKS)
        | _with_total("conditioner.embedders.0.transformer.text_model.", _CLIP_L, "F16", {})
        | _with_total("conditioner.embedders.1.model.", _CLIP_G, "F16", {})
        | _with_total(_FIRST, _VAE, "F16", {})
    )


def flux_fp8() -> MadeFile:
    """``flux1-schnell-fp8.safetensors``: transformer and T5 in 8 bits, CLIP in 16, the VAE in 32."""
    return safetensors(
        _with_total(_UNET, _FLUX_SCHNELL, "F8_E4M3", FLUX_MARKS)
        | _with_total("text_encoders.t5xxl.transformer.", _T5, "F8_E4M3", {})
        | _with_total("text_encoders.clip_l.transformer.", _CLIP_L, "F16", {})
        | _with_total("vae.", _FLUX_VAE, "F32", {})
    )


def flux_dev(dtype: str = "BF16") -> MadeFile:
    """``flux1-dev.safetensors``: the transformer alone, its names without a prefix."""
    return safetensors(_with_total("", _FLUX_DEV, dtype, FLUX_MARKS))


def t5(dtype: str = "F16") -> MadeFile:
    """``t5xxl_fp16.safetensors``."""
    return safetensors(_with_total("", _T5, dtype, {"shared.weight": (32128, 4096)}))


def clip_l() -> MadeFile:
    """``clip_l.safetensors``."""
    return safetensors(_with_total("", _CLIP_L, "F16", {"text_model.embeddings.token_embedding.weight": (49408, 768)}))


def flux_vae() -> MadeFile:
    """``ae.safetensors``: 32 bits."""
    return safetensors(_with_total("", _FLUX_VAE, "F32", {"decoder.conv_in.weight": (512, 16, 3, 3)}))


def sdxl_vae() -> MadeFile:
    """``sdxl_vae.safetensors``, the one that runs in 16 bits."""
    return safetensors(_with_total("", _VAE, "F32", {"decoder.conv_in.weight": (512, 4, 3, 3)}))
