"""The GPU memory of an image, video or music model: the parts that are resident at each stage, and its activations.

Rule: the peak over the stages (encode, denoise, decode) of resident weights plus the stage's activation, plus the CUDA
context. Activations: ComfyUI, comfy/model_base.py (memory_required), comfy/supported_models.py (factors), comfy/sd.py
(decode). Families are told by the tensors that comfy/model_detection.py looks for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from modelfetch.fitting.types import Estimate
from modelfetch.formats.range_reader import GIB, MIB
from modelfetch.formats.safetensors import BITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from modelfetch.fitting.types import Method
    from modelfetch.formats.gguf import GgufHeader
    from modelfetch.formats.safetensors import SafetensorsHeader, StoredTensor

Offload = Literal["none", "text-encoder", "medium"]
OFFLOADS: tuple[Offload, ...] = ("none", "text-encoder", "medium")
"""What leaves the GPU: nothing; the text encoder after its stage; every part that the stage does not use (medvram)."""

OVERHEAD = int(0.6 * GIB)
"""Memory of a PyTorch process in addition to tensors, in bytes."""

Role = Literal["denoiser", "text", "vae"]

_PREFIXES: tuple[tuple[str, Role | None], ...] = (  # (source: ComfyUI, comfy/supported_models.py)
    ("model_ema.", None),
    ("model.diffusion_model.", "denoiser"),
    ("first_stage_model.", "vae"),
    ("vae.", "vae"),
    ("cond_stage_model.", "text"),
    ("conditioner.embedders.", "text"),
    ("text_encoders.", "text"),
)
_GGUF_ENCODERS = ("t5encoder", "t5", "clip_l")
_GGUF_FAMILIES = {"flux": "flux", "sdxl": "sdxl", "sd1": "sd15", "sd3": "sd3", "hidream": "hidream"}
_FOLDERS: dict[str, Role] = {"unet": "denoiser", "transformer": "denoiser", "vae": "vae"}
_KINDS: dict[str, Role] = {"diffusion-model": "denoiser", "text-encoder": "text", "vae": "vae"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Memory parameters of a model family's stages.

    Attributes:
        factor: ComfyUI's factor of the denoiser's activation, for a denoiser of ``width`` where it depends on that.
        width: The hidden size that ``factor`` is for; None: it is the same for all.
        guided: Passes that are computed together in a step, 2 with guidance.
        side: The usual side of a picture in pixels.
        cell: Pixels of the side of one cell of the latent picture.
        decode: Elements that the VAE takes for each pixel.
        frames: Frames of a video at its usual length; 1 for pictures.
        seconds: Seconds of a piece of music at its usual length; 0 for anything else.
    """

    name: str
    factor: float
    width: int | None = None
    guided: int = 1
    side: int = 1024
    cell: int = 8
    decode: int = 2178
    frames: int = 1
    seconds: int = 0


_WAN_DECODE = 7000
_FRAMES_TOGETHER = 4  # the VAE of Wan makes so many frames of one latent one

FAMILIES = {
    family.name: family
    for family in (
        Family(name="sd15", factor=1.0, guided=2, side=512),
        Family(name="sdxl", factor=0.8, guided=2),
        Family(name="sdxl-refiner", factor=1.0, guided=2),
        Family(name="sd3", factor=1.6, guided=2),
        Family(name="flux", factor=3.1),
        Family(name="flux2", factor=4 * 3.1, width=2604, cell=16),
        Family(name="z-image", factor=2.8),
        Family(name="lumina2", factor=1.4, guided=2),
        Family(name="qwen-image", factor=1.8, guided=2, decode=2200),
        Family(name="hidream", factor=1.4, guided=2),
        Family(name="wan", factor=1.0, width=2222, side=832, decode=_WAN_DECODE, frames=81),
        Family(name="wan2.2-5b", factor=1.0, width=2222, side=1280, cell=16, decode=8000, frames=121),
        Family(name="ace-step-1.5", factor=0.0, seconds=120),
    )
}
"""The families with known stages; any other is reported as unknown."""

_MUSIC = 11 * 10**6
"""Bytes of activation for a second of music, of each piece of a batch (source: ACE-Step 1.5's own preflight check)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Resident bytes of a pipeline's parts, and the family of its denoiser where it is a known one.

    ``width`` is the denoiser's hidden size, ``wide`` its bytes of 16-bit weights, which could be held in 8 bits.
    ``several`` is set where the denoisers of several models are among them. ``strange`` names the types of weights that
    are not known: they count as they are stored.
    """

    denoiser: int = 0
    text: int = 0
    vae: int = 0
    wide: int = 0
    family: str | None = None
    width: int = 0
    several: bool = False
    strange: tuple[str, ...] = ()

    def __add__(self, other: Parts) -> Parts:
        """Both together."""
        return Parts(
            denoiser=self.denoiser + other.denoiser,
            text=self.text + other.text,
            vae=self.vae + other.vae,
            wide=self.wide + other.wide,
            family=self.family or other.family,
            width=self.width or other.width,
            several=self.several or other.several,
            strange=tuple(sorted({*self.strange, *other.strange})),
        )

    @property
    def all(self) -> int:
        """The bytes of all parts."""
        return self.denoiser + self.text + self.vae


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """How images are made; pixels; ``vae_bytes`` is 4 where the VAE runs in 32 bits."""

    width: int | None = None
    height: int | None = None
    batch: int = 1
    offload: Offload = "none"
    vae_bytes: int = 2


def parse_resolution(text: str) -> tuple[int, int]:
    """Width and height from ``1024x768`` or ``512``.

    Raises:
        ValueError: Neither.
    """
    match = re.fullmatch(r"(\d{2,5})(?:[xX](\d{2,5}))?", text.strip())
    if match is None:
        raise ValueError(f"expected a resolution such as 1024x768, found {text[:40]!r}")
    return int(match[1]), int(match[2] or match[1])


# ── parts ──
def parts_of(header: SafetensorsHeader, *, kind: str | None = None, path: str = "") -> Parts | None:
    """The parts in a safetensors file, identified by tensor names, kind or folder; None if unknown."""
    single = _KINDS.get(kind or "") or _folder_role(path) or _role_of(header.tensors)
    sizes: dict[Role, int] = {"denoiser": 0, "text": 0, "vae": 0}
    told, wide = False, 0
    for tensor in header.tensors:
        role, known = _prefix_role(tensor.name)
        told = told or known
        role = role if known else single
        if role is not None:
            sizes[role] += resident_bytes(tensor)
        if role == "denoiser" and tensor.dtype in ("F32", "F16", "BF16"):
            wide += resident_bytes(tensor)
    if not told and single is None:
        return None
    family, width = _family({tensor.name: tensor.shape for tensor in header.tensors})
    return Parts(
        denoiser=sizes["denoiser"],
        text=sizes["text"],
        vae=sizes["vae"],
        wide=wide,
        family=family,
        width=width,
        strange=tuple(sorted({tensor.dtype for tensor in header.tensors} - BITS.keys())),
    )


def parts_of_gguf(header: GgufHeader) -> Parts | None:
    """The denoiser or text encoder in a GGUF file made for image programs; None for any other, or an unknown type."""
    arch = header.metadata.get("general.architecture")
    if header.tensors is None or any(tensor.nbytes is None for tensor in header.tensors):
        return None
    size = sum(tensor.nbytes or 0 for tensor in header.tensors)
    if arch in _GGUF_ENCODERS:
        return Parts(text=size)
    family, width = _family({tensor.name: tensor.shape[::-1] for tensor in header.tensors})
    family = family or _GGUF_FAMILIES.get(str(arch))
    return Parts(denoiser=size, family=family, width=width) if family else None


def resident_bytes(tensor: StoredTensor) -> int:
    """Bytes of a tensor on the GPU: 32-bit floats are held in 16 bits, anything else as it is stored."""
    return tensor.nbytes // 2 if tensor.dtype == "F32" else tensor.nbytes


def _prefix_role(name: str) -> tuple[Role | None, bool]:
    for prefix, role in _PREFIXES:
        if name.startswith(prefix):
            return role, True
    return None, False


def _folder_role(path: str) -> Role | None:
    folder = path.split("/", 1)[0] if "/" in path else ""
    return "text" if re.fullmatch(r"text_encoder(_\d)?", folder) else _FOLDERS.get(folder)


def _role_of(tensors: Iterable[StoredTensor]) -> Role | None:
    """The role of a file that holds one part without a prefix, by tensors that only that part has."""
    names = {tensor.name for tensor in tensors}
    if names & _DENOISER:
        return "denoiser"
    if names & _ENCODER:
        return "text"
    return "vae" if names & {"decoder.conv_in.weight", "encoder.conv_in.weight", "decoder.conv1.weight"} else None


_DENOISER = {
    "double_blocks.0.img_attn.qkv.weight",
    "double_stream_modulation_img.lin.weight",
    "input_blocks.0.0.weight",
    "transformer_blocks.0.attn.to_q.weight",
    "cap_embedder.1.weight",
    "txt_norm.weight",
    "joint_blocks.0.context_block.attn.qkv.weight",
    "head.modulation",
    "caption_projection.0.linear.weight",
    "encoder.lyric_encoder.layers.0.input_layernorm.weight",
}
_ENCODER = {
    "shared.weight",
    "encoder.embed_tokens.weight",
    "text_model.embeddings.token_embedding.weight",
    "model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
}


def _family(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str | None, int]:
    """The family of the denoiser and its hidden size, by tensors that only that family has."""
    found = {name.removeprefix("model.diffusion_model."): shape for name, shape in shapes.items()}
    if "double_stream_modulation_img.lin.weight" in found:
        return "flux2", found.get("img_in.weight", (3072,))[0]
    if "double_blocks.0.img_attn.qkv.weight" in found or "single_transformer_blocks.0.attn.to_q.weight" in found:
        return "flux", 0
    if "cap_embedder.1.weight" in found:
        return ("z-image" if found["cap_embedder.1.weight"][0] == 3840 else "lumina2"), 0
    if "head.modulation" in found:
        small = found.get("patch_embedding.weight", (0, 16))[1] == 48
        return ("wan2.2-5b" if small else "wan"), found["head.modulation"][-1]
    for name, family in (
        ("txt_norm.weight", "qwen-image"),
        ("joint_blocks.0.context_block.attn.qkv.weight", "sd3"),
        ("caption_projection.0.linear.weight", "hidream"),
        ("encoder.lyric_encoder.layers.0.input_layernorm.weight", "ace-step-1.5"),
    ):
        if name in found:
            return family, 0
    return _stable_diffusion(found), 0


def _stable_diffusion(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    label = shapes.get("label_emb.0.0.weight") or shapes.get("add_embedding.linear_1.weight")
    if label is not None:
        return {2816: "sdxl", 2560: "sdxl-refiner"}.get(label[-1])
    for name in ("input_blocks.1.1", "down_blocks.0.attentions.0"):
        keys = shapes.get(f"{name}.transformer_blocks.0.attn2.to_k.weight")
        if keys is not None:
            return "sd15" if keys[-1] == 768 else None
    return None


# ── stages ──
def image_estimate(name: str, uri: str, parts: Parts, options: ImageOptions, *, method: Method = "header") -> Estimate:
    """Estimate a pipeline of these parts; the weights are those resident at the peak."""
    family = FAMILIES.get(parts.family or "")
    if family is None or not parts.denoiser:
        why = "the family of its denoiser is not known" if parts.denoiser else "it has no denoiser"
        return Estimate(
            name=name, uri=uri, weights=parts.all, compute=None, overhead=OVERHEAD, method=method, unknown=(why,)
        )
    strange = tuple(f"weights of the unknown type {kind}" for kind in parts.strange)
    run = replace(options, width=options.width or family.side, height=options.height or options.width or family.side)
    stage, weights, compute = max(_stages(parts, family, run), key=lambda s: s[1] + s[2])
    return Estimate(
        name=name,
        uri=uri,
        weights=weights,
        compute=compute,
        overhead=OVERHEAD,
        method=method,
        unknown=strange,
        most=2 * weights + compute + OVERHEAD if strange else None,
        assumptions={
            "family": family.name,
            "resolution": f"{run.width}x{run.height}",
            "batch": run.batch,
            **({"frames": family.frames} if family.frames > 1 else {}),
            **({"seconds": family.seconds} if family.seconds else {}),
            "offload": run.offload,
            "peak": stage,
            "parts": {"denoiser": parts.denoiser, "text_encoder": parts.text, "vae": parts.vae},
            **({"notes": notes} if (notes := _notes(family, parts)) else {}),
        },
    )


def _notes(family: Family, parts: Parts) -> list[str]:
    notes = []
    if family.name == "sdxl":
        notes.append("the VAE runs in 16 bits: use sdxl-vae-fp16-fix; in 32 bits the decode takes twice as much")
    if not parts.text or not parts.vae:
        missing = [word for word, size in (("text encoder", parts.text), ("VAE", parts.vae)) if not size]
        notes.append(f"no {' and no '.join(missing)} among its files")
    return notes


def _stages(parts: Parts, family: Family, run: ImageOptions) -> list[tuple[str, int, int]]:
    """Each stage: its name, resident weights, activation; bytes."""
    denoise, decode = _activations(parts, family, run)
    if run.offload == "none":
        return [("denoise", parts.all, denoise), ("decode", parts.all, decode)]
    if run.offload == "text-encoder":
        rest = parts.denoiser + parts.vae
        return [("encode", parts.text, 0), ("denoise", rest, denoise), ("decode", rest, decode)]
    return [("encode", parts.text, 0), ("denoise", parts.denoiser, denoise), ("decode", parts.vae, decode)]


def _activations(parts: Parts, family: Family, run: ImageOptions) -> tuple[int, int]:
    """The activation of denoising and of decoding, in bytes; a video's frames are decoded a few at a time."""
    if family.seconds:
        music = _MUSIC * family.seconds * run.batch
        return music, music
    width, height = run.width or 0, run.height or 0
    cells = -(-width // family.cell) * -(-height // family.cell)
    steps = 1 + (family.frames - 1) // _FRAMES_TOGETHER
    factor = family.factor * ((parts.width or family.width) / family.width if family.width else 1)
    denoise = int(run.batch * family.guided * cells * steps * 2 * 0.01 * factor * MIB)
    pixels = cells * family.cell**2
    return denoise, run.batch * pixels * family.decode * run.vae_bytes
