"""The families of image, video and music models: the tensors that identify them, and the memory of their stages.

Sources (ComfyUI): comfy/model_detection.py at 0b61ce5 (tensors), comfy/supported_models.py at 01f03bb (factors),
comfy/sd.py at 033046c (decode).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]
Identify = Callable[[Shapes], tuple[str | None, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Memory parameters of a family's stages.

    Attributes:
        factor: ComfyUI's factor for the activation of the denoiser (``memory_usage_factor``); for a denoiser of
            ``width`` if it depends on that.
        width: The hidden size that ``factor`` is for; None if the factor is the same for all.
        guided: Passes that are computed together in a step, 2 with guidance.
        size: The usual width and height in pixels.
        cell: Side of one cell of the latent picture, in pixels.
        decode: Elements that the VAE needs for each pixel.
        frames: Frames of a video of the usual length; 1 for pictures.
        seconds: Seconds of a piece of music of the usual length; 0 for anything else.
    """

    name: str
    factor: float
    width: int | None = None
    guided: int = 1
    size: tuple[int, int] = (1024, 1024)
    cell: int = 8
    decode: int = 2178
    frames: int = 1
    seconds: int = 0


_WAN = Family(name="wan", factor=1.0, width=2222, size=(832, 480), decode=7000, frames=81)

FAMILIES = {
    family.name: family
    for family in (
        Family(name="sd15", factor=1.0, guided=2, size=(512, 512)),
        Family(name="sdxl", factor=0.8, guided=2),
        Family(name="sdxl-refiner", factor=1.0, guided=2),
        Family(name="sd3", factor=1.6, guided=2),
        Family(name="flux", factor=3.1),
        Family(name="chroma", factor=3.2, guided=2),
        Family(name="longcat-image", factor=2.5, guided=2),
        Family(name="flux2", factor=4 * 3.1, width=2604, cell=16),
        Family(name="z-image", factor=2.8),
        Family(name="lumina2", factor=1.4, guided=2),
        Family(name="qwen-image", factor=1.8, guided=2, decode=2200),
        Family(name="qwen-image-2.1", factor=6.0, guided=2, cell=16, decode=900),
        Family(name="krea2", factor=2.2, decode=2200),
        Family(name="hidream", factor=2.0, guided=2),
        Family(name="hidream-o1", factor=0.033, cell=1, decode=1),  # works on pixels and has no VAE
        _WAN,
        Family(name="wan-vace", factor=1.2, width=2222, size=_WAN.size, decode=_WAN.decode, frames=_WAN.frames),
        Family(name="wan2.2-5b", factor=1.0, width=2222, size=(1280, 704), cell=16, decode=8000, frames=121),
        Family(name="ace-step-1.5", factor=4.7, decode=1000 * 2048, seconds=120),
    )
}
"""The families with known stages; any other is reported as unknown."""

FRAMES_TOGETHER = 4
"""Frames that the VAEs of Wan make of one latent frame, after the first."""

LATENTS_PER_SECOND = 25
"""Latents for a second of music: ACE-Step 1.5's VAE makes 1920 samples of each, at 48 kHz."""

LATENTS_TOGETHER = 256
"""Latents that are decoded together where memory is short: ComfyUI decodes music in pieces then (decode_tiled_1d)."""


def family_of(shapes: Shapes) -> tuple[str | None, int]:
    """The family of a denoiser and its hidden size (0 if that does not matter), from tensors that only it has.

    A family that shares a tensor with a known one is ruled out by other tensors: nothing is guessed.
    """
    found = {name.removeprefix("model.diffusion_model."): shape for name, shape in shapes.items()}
    for mark, identify in _MARKS.items():
        if mark in found:
            return identify(found)
    return _stable_diffusion(found), 0


def _axis(found: Shapes, name: str, axis: int) -> int:
    shape = found.get(name, ())
    return shape[axis] if -len(shape) <= axis < len(shape) else 0


def _starts(names: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _flux2(found: Shapes) -> tuple[str | None, int]:
    return "flux2", _axis(found, "img_in.weight", 0) or _axis(found, "x_embedder.weight", 0) or 3072


def _wan(found: Shapes) -> tuple[str | None, int]:
    width = _axis(found, "head.modulation", -1)
    if "patch_embedding_global.weight" in found:  # WanDancer
        return None, width
    if "vace_patch_embedding.weight" in found:
        return "wan-vace", width
    return ("wan2.2-5b" if _axis(found, "head.head.weight", 0) == 4 * 48 else "wan"), width


def _flux(found: Shapes) -> tuple[str | None, int]:
    if _starts(found, "distilled_guidance_layer."):
        return (None if _starts(found, "nerf_blocks.") else "chroma"), 0  # Chroma Radiance works on pixels
    longcat = _axis(found, "txt_in.weight", 1) == 3584 and not _starts(found, "vector_in.")
    return ("longcat-image" if longcat else "flux"), 0


def _lumina2(found: Shapes) -> tuple[str | None, int]:
    width = _axis(found, "cap_embedder.1.weight", 0)
    pixels = "dec_net.cond_embed.weight" in found
    return (None if pixels else {3840: "z-image", 2304: "lumina2"}.get(width)), 0


def _qwen_image(found: Shapes) -> tuple[str | None, int]:
    lens = "transformer_blocks.0.img_mlp.w1.weight" in found
    mage_flow = _axis(found, "txt_norm.weight", 0) == 2560
    return (None if lens or mage_flow else "qwen-image"), 0


def _only(family: str | None) -> Identify:
    return lambda _: (family, 0)


_MARKS: Mapping[str, Identify] = {
    "joint_blocks.0.context_block.attn.qkv.weight": _only("sd3"),
    "txt_in.individual_token_refiner.blocks.0.norm1.weight": _only(None),  # HunyuanVideo and HunyuanImage
    "double_stream_modulation_img.lin.weight": _flux2,
    "double_stream_modulation_img.linear.weight": _flux2,
    "double_blocks.0.img_attn.qkv.weight": _flux,
    "single_transformer_blocks.0.attn.to_q.weight": _flux,
    "cap_embedder.1.weight": _lumina2,
    "head.modulation": _wan,
    "x_embedder.proj1.weight": _only("hidream-o1"),
    "caption_projection.0.linear.weight": _only("hidream"),
    "txt_in.text_norm.weight": _only("qwen-image-2.1"),
    "txt_norm.weight": _qwen_image,
    "txtfusion.projector.weight": _only("krea2"),
    "encoder.lyric_encoder.layers.0.input_layernorm.weight": _only("ace-step-1.5"),
}
"""Tensors that only a denoiser has, in the order in which they decide."""

DENOISER_TENSORS = frozenset((*_MARKS, "input_blocks.0.0.weight", "transformer_blocks.0.attn.to_q.weight"))
"""Tensors that only a denoiser has, of known families or others."""


def _stable_diffusion(found: Shapes) -> str | None:
    for name in ("label_emb.0.0.weight", "add_embedding.linear_1.weight"):
        if name in found:
            return {2816: "sdxl", 2560: "sdxl-refiner"}.get(_axis(found, name, -1))
    for block in ("input_blocks.1.1", "down_blocks.0.attentions.0"):
        name = f"{block}.transformer_blocks.0.attn2.to_k.weight"
        if name in found:
            return "sd15" if _axis(found, name, -1) == 768 else None
    return None
