"""Families of image, video and music models: detected by tensors, never guessed, with ComfyUI's own numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from modelfetch.fitting.families import FAMILIES, family_of
from modelfetch.fitting.image import OVERHEAD, ImageOptions, Parts, image_estimate, parts_of, parts_of_gguf
from modelfetch.formats.gguf import read_gguf
from modelfetch.formats.range_reader import GIB, MIB
from modelfetch.formats.safetensors import read_safetensors
from tests.cases import each
from tests.fitting.build import TensorSpec, gguf, safetensors, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Shapes = dict[str, tuple[int, ...]]

FLUX: Shapes = {"double_blocks.0.img_attn.qkv.weight": (9216, 3072), "img_in.weight": (3072, 64)}
SCHNELL: Shapes = {**FLUX, "txt_in.weight": (3072, 4096), "vector_in.in_layer.weight": (3072, 768)}
QWEN: Shapes = {"txt_norm.weight": (3584,), "proj_out.weight": (64, 3072)}
WAN: Shapes = {"head.modulation": (1, 2, 5120), "head.head.weight": (64, 5120)}
MARKS: Sequence[tuple[str | None, int, Shapes]] = [
    ("sd3", 0, {"joint_blocks.0.context_block.attn.qkv.weight": (7296, 2432)}),
    ("flux", 0, SCHNELL),
    ("flux", 0, {"single_transformer_blocks.0.attn.to_q.weight": (3072, 3072)}),
    ("chroma", 0, {**FLUX, "distilled_guidance_layer.norms.0.scale": (5120,)}),
    ("longcat-image", 0, {**FLUX, "txt_in.weight": (3072, 3584)}),
    ("flux2", 3072, {"double_stream_modulation_img.lin.weight": (18432, 3072), "img_in.weight": (3072, 128)}),
    ("flux2", 6144, {**FLUX, "double_stream_modulation_img.lin.weight": (1, 1), "img_in.weight": (6144, 128)}),
    ("flux2", 6144, {"double_stream_modulation_img.linear.weight": (1, 1), "x_embedder.weight": (6144, 128)}),
    ("z-image", 0, {"cap_embedder.1.weight": (3840, 2560)}),
    ("lumina2", 0, {"cap_embedder.1.weight": (2304, 2304)}),
    ("qwen-image", 0, QWEN),
    ("qwen-image-2.1", 0, {"txt_in.text_norm.weight": (4096,), "modulation.1.weight": (1, 1)}),
    ("krea2", 0, {"txtfusion.projector.weight": (1, 12)}),
    ("hidream", 0, {"caption_projection.0.linear.weight": (2560, 4096)}),
    ("hidream-o1", 0, {"t_embedder1.mlp.0.weight": (1, 1), "x_embedder.proj1.weight": (1, 1)}),
    ("wan", 5120, WAN),
    ("wan", 5120, {**WAN, "patch_embedding.weight": (5120, 48, 1, 2, 2)}),  # FunControl: more inputs, not the 5B model
    ("wan2.2-5b", 3072, {"head.modulation": (1, 2, 3072), "head.head.weight": (192, 3072)}),
    ("wan-vace", 5120, {**WAN, "vace_patch_embedding.weight": (5120, 96, 1, 2, 2)}),
    ("ace-step-1.5", 0, {"encoder.lyric_encoder.layers.0.input_layernorm.weight": (2048,)}),
    # models that share tensors with a known family and need something else
    (None, 0, {**FLUX, "txt_in.individual_token_refiner.blocks.0.norm1.weight": (3072,)}),  # HunyuanVideo
    (None, 0, {**FLUX, "distilled_guidance_layer.norms.0.scale": (1,), "nerf_blocks.0.norm.scale": (1,)}),  # Radiance
    (None, 0, {"cap_embedder.1.weight": (3840, 2560), "dec_net.cond_embed.weight": (1, 1)}),  # Z-Image on pixels
    (None, 0, {"cap_embedder.1.weight": (1234, 2560)}),
    (None, 0, {"txt_norm.weight": (2560,), "proj_out.weight": (128, 1)}),  # Mage-Flow
    (None, 0, {"txt_norm.weight": (2880,), "transformer_blocks.0.img_mlp.w1.weight": (1, 1)}),  # Lens
    (None, 5120, {**WAN, "patch_embedding_global.weight": (1, 1)}),  # WanDancer
    # tensors without dimensions
    ("wan", 0, {"head.modulation": ()}),
    (None, 0, {"label_emb.0.0.weight": ()}),
    (None, 0, {"add_embedding.linear_1.weight": ()}),
    (None, 0, {"input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": ()}),
]


@each(("family", "width", "shapes"), MARKS)
def test_a_family_is_detected_by_tensors_unique_to_it(family: str | None, width: int, shapes: Shapes) -> None:
    for prefix in ("", "model.diffusion_model."):
        assert family_of({prefix + name: shape for name, shape in shapes.items()}) == (family, width)


def test_every_known_family_can_be_detected() -> None:
    told = {family for family, _, _ in MARKS if family}
    assert told | {"sd15", "sdxl", "sdxl-refiner"} == FAMILIES.keys()


@each(("family", "width", "shapes"), [mark for mark in MARKS if mark[0]])
def test_a_gguf_file_is_detected_by_the_same_tensors(family: str, width: int, shapes: Shapes) -> None:
    tensors = [TensorSpec(name=name, shape=shape[::-1], kind="F16") for name, shape in shapes.items()]
    found = parts_of_gguf(read_gguf(gguf({"general.architecture": text("made-here")}, tensors)))
    assert found is not None
    assert (found.family, found.width) == (family, width)
    assert found.denoiser == sum(2 * math.prod(shape) for shape in shapes.values())


def test_a_gguf_language_model_can_be_declared_a_text_encoder() -> None:
    header = read_gguf(
        gguf({"general.architecture": text("qwen3")}, [TensorSpec(name="x", shape=(256, 4), kind="Q8_0")])
    )
    assert parts_of_gguf(header) is None
    assert parts_of_gguf(header, kind="text-encoder") == Parts(text=256 * 4 // 32 * 34)


# ── what the stages take, computed by hand from ComfyUI's formulas ──
# activation of the denoiser in MiB at 1024 x 1024 (or the usual size), elements of the decode for each pixel
STAGES: Mapping[str, tuple[float, int]] = {
    "sd3": (2 * 128 * 128 * 0.02 * 1.6, 2178),
    "flux": (128 * 128 * 0.02 * 3.1, 2178),
    "chroma": (2 * 128 * 128 * 0.02 * 3.2, 2178),
    "z-image": (128 * 128 * 0.02 * 2.8, 2178),
    "qwen-image": (2 * 128 * 128 * 0.02 * 1.8, 2200),
    "qwen-image-2.1": (2 * 64 * 64 * 0.02 * 6.0, 900),
    "krea2": (128 * 128 * 0.02 * 2.2, 2200),
    "hidream": (2 * 128 * 128 * 0.02 * 2.0, 2178),
    "hidream-o1": (1024 * 1024 * 0.02 * 0.033, 1),
}


@each("name", STAGES)
def test_the_stages_use_the_memory_that_comfyui_reserves(name: str) -> None:
    denoise, decode = STAGES[name]
    pipeline = Parts(denoiser=10 * GIB, text=GIB, vae=GIB, family=name)
    made = image_estimate("m", "u", pipeline, ImageOptions(offload="medium"))
    assert made.assumptions["peak"] == "denoise"
    assert (made.compute or 0) / MIB == pytest.approx(denoise, rel=1e-6)
    small = image_estimate("m", "u", Parts(denoiser=1, vae=1, family=name), ImageOptions())
    assert small.compute == max(int(denoise * MIB), 1024 * 1024 * decode * 2)


@each(("width", "factor"), [(3072, 14.629), (4096, 19.505), (6144, 29.258)])
def test_the_estimate_of_flux2_grows_with_its_width(width: int, factor: float) -> None:
    pipeline = Parts(denoiser=10 * GIB, family="flux2", width=width)
    made = image_estimate("m", "u", pipeline, ImageOptions(offload="medium"))
    assert (made.compute or 0) / MIB == pytest.approx(64 * 64 * 0.02 * factor, rel=1e-3)


@each(
    ("family", "width", "resolution", "denoise", "decode"),
    [
        ("wan", 5120, "832x480", 104 * 60 * 21 * 0.02 * 5120 / 2222, 832 * 480 * 7000 * 2),
        ("wan-vace", 5120, "832x480", 104 * 60 * 21 * 0.02 * 1.2 * 5120 / 2222, 832 * 480 * 7000 * 2),
        ("wan2.2-5b", 3072, "1280x704", 80 * 44 * 31 * 0.02 * 3072 / 2222, 1280 * 704 * 8000 * 2),
    ],
)
def test_videos_have_their_usual_size_and_length(
    family: str, width: int, resolution: str, denoise: float, decode: int
) -> None:
    large = image_estimate(
        "m", "u", Parts(denoiser=30 * GIB, family=family, width=width), ImageOptions(offload="medium")
    )
    assert large.assumptions["resolution"] == resolution
    assert (large.compute or 0) / MIB == pytest.approx(denoise, rel=1e-6)
    assert image_estimate("m", "u", Parts(denoiser=1, family=family, width=1), ImageOptions()).compute == decode


def test_music_is_decoded_in_pieces_of_ten_seconds() -> None:
    pipeline = Parts(denoiser=4_787_825_604, text=1_191_588_248, vae=168_715_866, family="ace-step-1.5")
    made = image_estimate("m", "u", pipeline, ImageOptions(offload="medium"))
    assert made.assumptions["seconds"] == 120
    assert "resolution" not in made.assumptions
    assert (made.compute or 0) / MIB == pytest.approx(120 * 25 * 0.02 * 4.7, rel=1e-6)
    decode = image_estimate("m", "u", Parts(denoiser=1, vae=1, family="ace-step-1.5"), ImageOptions())
    assert decode.compute == 256 * 1920 / 1920 * 1000 * 2048 * 2
    assert made.needed < 5.5 * GIB


# ── how weights are stored ──
def _formats(rows: int, columns: int) -> Mapping[str, Mapping[str, tuple[str, Sequence[int]]]]:
    """A linear layer in each format that ComfyUI loads (source: comfy/quant_ops.py, QUANT_ALGOS)."""
    return {
        "bf16": {"weight": ("BF16", (rows, columns))},
        "fp8": {"weight": ("F8_E4M3", (rows, columns)), "weight_scale": ("F32", ()), "input_scale": ("F32", ())},
        "fp8 e5m2": {"weight": ("F8_E5M2", (rows, columns)), "weight_scale": ("F32", ())},
        "nvfp4": {
            "weight": ("U8", (rows, columns // 2)),
            "weight_scale": ("F8_E4M3", (rows, columns // 16)),
            "weight_scale_2": ("F32", ()),
        },
        "mxfp8": {"weight": ("F8_E4M3", (rows, columns)), "weight_scale": ("U8", (rows, columns // 32))},
        "int8": {"weight": ("I8", (rows, columns)), "weight_scale": ("F32", (rows, 1))},
        "w4a8": {"weight": ("I8", (rows, columns // 2)), "weight_scale": ("F32", (rows, 1))},
    }


BYTES_PER_WEIGHT = {"bf16": 2, "fp8": 1, "fp8 e5m2": 1, "nvfp4": 0.5625, "mxfp8": 1.03125, "int8": 1, "w4a8": 0.5}


@each("name", BYTES_PER_WEIGHT)
@each("family", ["z-image", "flux2", "qwen-image", "sd3", "wan", "flux"])
def test_weights_count_as_they_are_stored(name: str, family: str) -> None:
    rows = columns = 2048
    marks = next(shapes for told, _, shapes in MARKS if told == family)
    layer = {f"layer.{part}": spec for part, spec in _formats(rows, columns)[name].items()}
    small = {mark: ("BF16", shape) for mark, shape in marks.items()}
    found = parts_of(read_safetensors(safetensors({**small, **layer})), kind="diffusion-model")
    assert found is not None
    assert found.unknown_types == ()
    marked = sum(2 * math.prod(shape) for shape in marks.values())
    assert found.denoiser - marked == pytest.approx(BYTES_PER_WEIGHT[name] * rows * columns, rel=0.005)
    made = image_estimate("m", "u", found, ImageOptions())
    assert made.total is not None


def test_the_text_encoder_of_each_family_is_detected_and_can_leave_the_gpu() -> None:
    for mark in (
        "model.embed_tokens.weight",  # Qwen 3, Mistral
        "model.language_model.embed_tokens.weight",  # Qwen 3 VL
        "shared.weight",  # T5, UMT5
        "text_model.embeddings.token_embedding.weight",  # CLIP
    ):
        found = parts_of(read_safetensors(safetensors({mark: ("F8_E4M3", (1024, 1024))})))
        assert found == Parts(text=1024 * 1024)
    pipeline = Parts(denoiser=4 * GIB, text=8 * GIB, vae=GIB // 4, family="flux2", width=3072)
    needs = [
        image_estimate("m", "u", pipeline, ImageOptions(offload=offload)).needed - OVERHEAD
        for offload in ("none", "text-encoder", "medium")
    ]
    decode = 1024 * 1024 * 2178 * 2
    assert needs == [pipeline.all + decode, max(8 * GIB, 4 * GIB + GIB // 4 + decode), 8 * GIB]
