"""The GPU memory of an image, video or music model: the parts that are resident at each stage, and its activations.

The need is the largest stage (encode, denoise, decode): its resident weights, its activation, and the CUDA context.
Activations follow ComfyUI: comfy/model_base.py (``memory_required``), comfy/sd.py (``memory_used_decode``). The
numbers of each family are in `modelfetch.fitting.families`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from modelfetch.fitting.families import (
    DENOISER_TENSORS,
    FAMILIES,
    FRAMES_TOGETHER,
    LATENTS_PER_SECOND,
    LATENTS_TOGETHER,
    Family,
    family_of,
)
from modelfetch.fitting.types import Estimate
from modelfetch.formats.range_reader import GIB, MIB
from modelfetch.formats.safetensors import BITS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelfetch.formats.gguf import GgufHeader
    from modelfetch.formats.safetensors import SafetensorsHeader, StoredTensor
    from modelfetch.manifest.model import Offload

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
class Parts:
    """Resident bytes of a pipeline's parts, and the family of its denoiser if it is known.

    Attributes:
        width: The hidden size of the denoiser.
        wide: Bytes of the denoiser's 16-bit weights, which could be held in 8 bits.
        several: Whether there are denoisers of several models.
        unknown_types: The types of weights that are not known; they count as they are stored.
    """

    denoiser: int = 0
    text: int = 0
    vae: int = 0
    wide: int = 0
    family: str | None = None
    width: int = 0
    several: bool = False
    unknown_types: tuple[str, ...] = ()

    def __add__(self, other: Parts) -> Parts:
        """The parts of both."""
        return Parts(
            denoiser=self.denoiser + other.denoiser,
            text=self.text + other.text,
            vae=self.vae + other.vae,
            wide=self.wide + other.wide,
            family=self.family or other.family,
            width=self.width or other.width,
            several=self.several or other.several,
            unknown_types=tuple(sorted({*self.unknown_types, *other.unknown_types})),
        )

    @property
    def all(self) -> int:
        """Bytes of all parts together."""
        return self.denoiser + self.text + self.vae


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """Settings of a request; sizes in pixels. ``vae_bytes`` is 4 if the VAE runs in 32 bits."""

    width: int | None = None
    height: int | None = None
    batch: int = 1
    offload: Offload = "none"
    vae_bytes: int = 2


def parse_resolution(text: str) -> tuple[int, int]:
    """Parse width and height from ``1024x768`` or ``512``.

    Raises:
        ValueError: It is not a resolution.
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
    prefixed, wide = False, 0
    for tensor in header.tensors:
        role, known = _prefix_role(tensor.name)
        prefixed = prefixed or known
        role = role if known else single
        if role is not None:
            sizes[role] += resident_bytes(tensor)
        if role == "denoiser" and tensor.dtype in ("F32", "F16", "BF16"):
            wide += resident_bytes(tensor)
    if not prefixed and single is None:
        return None
    family, width = family_of({tensor.name: tensor.shape for tensor in header.tensors})
    return Parts(
        denoiser=sizes["denoiser"],
        text=sizes["text"],
        vae=sizes["vae"],
        wide=wide,
        family=family,
        width=width,
        unknown_types=tuple(sorted({tensor.dtype for tensor in header.tensors} - BITS.keys())),
    )


def parts_of_gguf(header: GgufHeader, *, kind: str | None = None) -> Parts | None:
    """The denoiser or text encoder in a GGUF file made for image programs; None for any other, or an unknown type.

    ``kind`` is the manifest's: only it shows that a language model is used as a text encoder.
    """
    arch = header.metadata.get("general.architecture")
    if header.tensors is None or any(tensor.nbytes is None for tensor in header.tensors):
        return None
    size = sum(tensor.nbytes or 0 for tensor in header.tensors)
    if arch in _GGUF_ENCODERS or kind == "text-encoder":
        return Parts(text=size)
    family, width = family_of({tensor.name: tensor.shape[::-1] for tensor in header.tensors})
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
    if names & DENOISER_TENSORS:
        return "denoiser"
    if names & _ENCODER:
        return "text"
    return "vae" if names & {"decoder.conv_in.weight", "encoder.conv_in.weight", "decoder.conv1.weight"} else None


_ENCODER = {
    "shared.weight",
    "encoder.embed_tokens.weight",
    "text_model.embeddings.token_embedding.weight",
    "model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
}


# ── stages ──
def image_estimate(name: str, uri: str, parts: Parts, options: ImageOptions) -> Estimate:
    """Estimate a pipeline of these parts; the weights are those resident at the peak."""
    family = FAMILIES.get(parts.family or "")
    if family is None or not parts.denoiser:
        why = "the family of its denoiser is not known" if parts.denoiser else "it has no denoiser"
        return Estimate(
            name=name, uri=uri, weights=parts.all, compute=None, overhead=OVERHEAD, method="header", unknown=(why,)
        )
    reasons = tuple(f"weights of the unknown type {kind}" for kind in parts.unknown_types)
    width = options.width or family.size[0]
    height = options.height or options.width or family.size[1]
    run = replace(options, width=width, height=height)
    stage, weights, compute = max(_stages(parts, family, run), key=lambda s: s[1] + s[2])
    return Estimate(
        name=name,
        uri=uri,
        weights=weights,
        compute=compute,
        overhead=OVERHEAD,
        method="header",
        unknown=reasons,
        most=2 * weights + compute + OVERHEAD if reasons else None,
        assumptions={
            "family": family.name,
            **({"seconds": family.seconds} if family.seconds else {"resolution": f"{width}x{height}"}),
            "batch": run.batch,
            **({"frames": family.frames} if family.frames > 1 else {}),
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
    if family.seconds:
        notes.append("music is decoded in pieces; where more memory is free, the decode uses it")
    without = () if family.cell == 1 else (("text encoder", parts.text), ("VAE", parts.vae))
    if missing := [word for word, size in without if not size]:
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
        latents = family.seconds * LATENTS_PER_SECOND
        together = min(latents, LATENTS_TOGETHER)
        return _denoise(family, parts.width, run.batch * latents), run.batch * together * family.decode * run.vae_bytes
    cells = -(-(run.width or 0) // family.cell) * -(-(run.height or 0) // family.cell)
    latent_frames = 1 + (family.frames - 1) // FRAMES_TOGETHER
    pixels = cells * family.cell**2
    denoise = _denoise(family, parts.width, run.batch * family.guided * cells * latent_frames)
    return denoise, run.batch * pixels * family.decode * run.vae_bytes


def _denoise(family: Family, width: int, cells: int) -> int:
    """Bytes for so many cells of latents, computed in 16 bits (source: comfy/model_base.py, ``memory_required``)."""
    factor = family.factor * ((width or family.width) / family.width if family.width else 1)
    return int(cells * 2 * 0.01 * factor * MIB)
