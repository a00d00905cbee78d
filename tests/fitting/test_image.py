"""Image models: parts by tensor names, stages by the rule, and the published measurements."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from modelfetch.fitting.image import (
    OVERHEAD,
    ImageOptions,
    Parts,
    image_estimate,
    parse_resolution,
    parts_of,
    parts_of_gguf,
)
from modelfetch.formats.gguf import read_gguf
from modelfetch.formats.range_reader import GIB, MIB
from modelfetch.formats.safetensors import read_safetensors
from tests.cases import each
from tests.fitting.build import MadeFile, TensorSpec, gguf, safetensors, text
from tests.fitting.real import clip_l, flux_dev, flux_fp8, flux_vae, sd15, sdxl, sdxl_vae, t5

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelfetch.manifest.model import Offload


def gib(size: float) -> int:
    return int(size * GIB)


def parts(file: MadeFile, **kwargs: str) -> Parts:
    found = parts_of(read_safetensors(file), **kwargs)
    assert found is not None
    return found


def flux(transformer: str) -> Parts:
    return parts(flux_dev(transformer)) + parts(t5()) + parts(clip_l()) + parts(flux_vae())


def without_context(pipeline: Parts, **options: object) -> float:
    made = image_estimate("m", "u", pipeline, ImageOptions(**options))  # type: ignore[arg-type]
    assert made.total is not None
    return (made.total - OVERHEAD) / GIB


# GiB of UNet or transformer, text encoders and VAE as ComfyUI logs them or as the parameters give them
@each(
    ("file", "denoiser", "text_encoder", "vae", "family"),
    [
        (sd15(), 1.60, 0.23, 0.16, "sd15"),
        (sd15("F16"), 1.60, 0.23, 0.16, "sd15"),
        (sdxl(), 4.78, 1.52, 0.16, "sdxl"),
        (flux_fp8(), 11.08, 4.67, 0.16, "flux"),
        (flux_dev(), 22.17, 0, 0, "flux"),
        (t5(), 0, 8.87, 0, None),
        (t5("F8_E4M3"), 0, 4.44, 0, None),
        (clip_l(), 0, 0.23, 0, None),
        (flux_vae(), 0, 0, 0.16, None),
        (sdxl_vae(), 0, 0, 0.16, None),
    ],
)
def test_parts_have_the_sizes_that_are_resident(
    file: MadeFile, denoiser: float, text_encoder: float, vae: float, family: str | None
) -> None:
    found = parts(file)
    sizes = [found.denoiser / GIB, found.text / GIB, found.vae / GIB]
    assert sizes == [pytest.approx(size, abs=0.008) for size in (denoiser, text_encoder, vae)]
    assert found.family == family


# pipeline, options, measured GiB without context, the rule's own number where it was noted, error below and above
BF16, Q8 = flux("BF16"), Parts(denoiser=11_901_408_320 * 34 // 32, family="flux")
PUBLISHED: Sequence[tuple[Parts, dict[str, object], float, float, float, float]] = [
    (parts(sd15("F16")), {}, 2.62, 3.05, 0, 0.20),
    (parts(sd15("F16")), {}, 3.07, 3.05, -0.01, 0.20),
    (parts(sdxl()), {}, 8.96, 10.72, 0, 0.20),
    (BF16, {}, 36.17, 35.70, -0.03, 0.03),
    (BF16, {"offload": "medium"}, 23.27, 23.16, -0.03, 0.03),
    (flux("F8_E4M3"), {"offload": "medium"}, 12.35, 12.08, -0.03, 0.03),
    (Q8, {"offload": "medium"}, 12.96, 12.77, -0.03, 0.03),
]


@each(("pipeline", "options", "measured", "rule", "below", "above"), PUBLISHED)
def test_estimates_match_published_measurements(
    pipeline: Parts, options: dict[str, object], measured: float, rule: float, below: float, above: float
) -> None:
    value = without_context(pipeline, **options)
    assert value == pytest.approx(rule, abs=0.03)
    assert below - 0.001 <= value / measured - 1 <= above


def test_the_denoiser_of_sdxl_alone_with_one_pass_a_step() -> None:
    made = image_estimate("m", "u", Parts(denoiser=gib(4.78), family="sdxl"), ImageOptions(offload="medium"))
    both_passes = 2 * 16384 * 2 * 0.01 * 0.8 * MIB
    assert made.assumptions["peak"] == "denoise"
    assert made.compute == pytest.approx(both_passes, abs=1)
    assert (gib(4.78) + both_passes / 2) / GIB == pytest.approx(5.05, abs=0.02)


# needs of the catalog with the context, in GiB
@each(
    ("pipeline", "offload", "needed"),
    [
        (parts(sd15()), "none", 3.65),
        (parts(sdxl()), "none", 11.3),
        (parts(sdxl()), "medium", 5.9),
        (parts(flux_fp8()), "none", 20.75),
        (parts(flux_fp8()), "text-encoder", 16.1),
        (parts(flux_fp8()), "medium", 12.7),
        (BF16, "text-encoder", 27.2),
        (BF16, "none", 36.3),
        (BF16, "medium", 23.75),
    ],
)
def test_the_needs_of_the_models_of_the_catalog(pipeline: Parts, offload: Offload, needed: float) -> None:
    assert without_context(pipeline, offload=offload) + OVERHEAD / GIB == pytest.approx(needed, abs=0.06)


@each(("side", "width", "gib"), [(512, 2, 1.06), (1024, 2, 4.25), (1024, 4, 8.51)])
def test_the_memory_of_the_decoding_stage(side: int, width: int, gib: float) -> None:
    pipeline = Parts(denoiser=GIB, vae=GIB, family="sdxl")
    made = image_estimate("m", "u", pipeline, ImageOptions(width=side, height=side, vae_bytes=width))
    assert (made.compute or 0) / GIB == pytest.approx(gib, abs=0.01)


def test_a_batch_multiplies_the_memory_of_the_stages_but_not_the_weights() -> None:
    one, four = (image_estimate("m", "u", parts(sdxl()), ImageOptions(batch=batch)) for batch in (1, 4))
    assert four.weights == one.weights
    assert (four.compute or 0) == 4 * (one.compute or 0)


# ── detecting parts and families ──
def test_ema_weights_are_not_loaded() -> None:
    plain = {"model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": ("F16", (320, 768))}
    assert parts(safetensors({**plain, "model_ema.x": ("F32", (10**6,))})) == parts(safetensors(plain))


@each(
    ("kwargs", "role"),
    [
        ({"kind": "vae"}, "vae"),
        ({"kind": "text-encoder"}, "text"),
        ({"kind": "diffusion-model"}, "denoiser"),
        ({"path": "unet/diffusion_pytorch_model.safetensors"}, "denoiser"),
        ({"path": "text_encoder_2/model.safetensors"}, "text"),
        ({"path": "vae/model.safetensors"}, "vae"),
    ],
)
def test_a_part_without_a_prefix_is_detected_by_its_kind_or_folder(kwargs: dict[str, str], role: str) -> None:
    found = parts(safetensors({"weight": ("F16", (100,))}), **kwargs)
    assert getattr(found, role) == found.all == 200


def test_an_unrecognised_file_has_no_parts() -> None:
    assert parts_of(read_safetensors(safetensors({"weight": ("F16", (100,))}))) is None


@each(
    ("name", "shape", "family"),
    [
        ("label_emb.0.0.weight", (1280, 2816), "sdxl"),
        ("label_emb.0.0.weight", (1536, 2560), "sdxl-refiner"),
        ("label_emb.0.0.weight", (1280, 999), None),
        ("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", (320, 768), "sd15"),
        ("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", (320, 1024), None),
        ("add_embedding.linear_1.weight", (1280, 2816), "sdxl"),
        ("single_transformer_blocks.0.attn.to_q.weight", (3072, 3072), "flux"),
        ("something_new.weight", (4, 4), None),
    ],
)
def test_families_are_detected_by_shapes_and_never_guessed(
    name: str, shape: tuple[int, ...], family: str | None
) -> None:
    for prefix in ("", "model.diffusion_model."):
        found = parts(safetensors({prefix + name: ("F16", shape)}), kind="diffusion-model")
        assert found.family == family
        made = image_estimate("m", "u", found, ImageOptions())
        assert (made.total is None) == (family is None)
        assert made.unknown == (() if family else ("the family of its denoiser is not known",))
        assert made.weights == math.prod(shape) * 2


@each(("arch", "family"), [("flux", "flux"), ("sdxl", "sdxl"), ("sd1", "sd15"), ("t5encoder", None)])
def test_gguf_files_of_image_programs_keep_their_types(arch: str, family: str | None) -> None:
    file = gguf({"general.architecture": text(arch)}, [TensorSpec(name="x", shape=(256, 64), kind="Q8_0")])
    found = parts_of_gguf(read_gguf(file))
    assert found is not None
    assert (found.family, found.all) == (family, 256 * 64 // 32 * 34)


def test_gguf_files_of_other_programs_or_of_unknown_types_have_no_parts() -> None:
    assert parts_of_gguf(read_gguf(gguf({"general.architecture": text("llama")}, []))) is None
    strange = [TensorSpec(name="x", shape=(256,), kind_id=99)]
    assert parts_of_gguf(read_gguf(gguf({"general.architecture": text("flux")}, strange))) is None


def test_missing_parts_are_named() -> None:
    made = image_estimate("m", "u", parts(flux_dev()), ImageOptions())
    assert made.assumptions["notes"] == ["no text encoder and no VAE among its files"]


@each(("given", "expected"), [("1024x768", (1024, 768)), ("512", (512, 512)), (" 64X64 ", (64, 64))])
def test_a_resolution_is_read(given: str, expected: tuple[int, int]) -> None:
    assert parse_resolution(given) == expected


@each("given", ["", "x", "1024x", "axb", "9999999", "1024x768x3", "-5x5"])
def test_an_invalid_resolution_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="expected a resolution"):
        parse_resolution(given)
