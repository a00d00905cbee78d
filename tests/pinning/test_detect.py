"""The kind of a model, detected by its tensors, its folder and its repo."""

from __future__ import annotations

import pytest

from modelfetch.demo import models as made
from modelfetch.formats.gguf import read_gguf
from modelfetch.formats.range_reader import HeaderBuffer
from modelfetch.formats.safetensors import read_safetensors
from modelfetch.pinning.detect import (
    Detected,
    by_files,
    by_folder,
    by_gguf,
    by_tensors,
    by_upstream,
    combine,
    consumers_for,
)
from tests.cases import each
from tests.fitting import real
from tests.fitting.build import MadeFile, gguf, safetensors, text
from tests.pinning.conftest import read


def of(*names: str) -> Detected:
    """The detection for a file with tensors of these names."""
    return by_tensors(read_safetensors(safetensors(dict.fromkeys(names, ("F16", (2, 2))))))


NAMES = [
    ("checkpoint", "sdxl", ["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.decoder.conv_in.weight",
                            "conditioner.embedders.1.model.ln_final.weight"]),
    ("diffusion-model", None, ["model.diffusion_model.input_blocks.0.0.weight"]),
    ("diffusion-model", "flux", ["double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight"]),
    ("diffusion-model", "flux", ["model.diffusion_model.double_blocks.0.img_attn.qkv.weight"]),
    ("diffusion-model", "qwen-image", ["transformer_blocks.0.img_mlp.net.0.proj.weight", "img_in.weight"]),
    ("diffusion-model", "wan", ["blocks.0.cross_attn.q.weight", "blocks.0.self_attn.q.weight", "head.head.weight"]),
    ("diffusion-model", "z-image", ["noise_refiner.0.attention.qkv.weight", "layers.0.attention.qkv.weight"]),
    ("diffusion-model", "sd3", ["joint_blocks.0.x_block.attn.qkv.weight", "context_embedder.weight"]),
    ("diffusion-model", None, ["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", "conv_in.weight"]),
    ("lora", "sd15", ["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"]),
    ("lora", "sdxl", ["lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "lora_unet_x.alpha"]),
    ("lora", "flux", ["lora_unet_double_blocks_0_img_attn_proj.lora_down.weight"]),
    ("lora", None, ["transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight"]),
    ("lora", None, ["unet.up_blocks.0.attentions.0.processor.to_k_lora.up.weight", "x.lora.up.weight"]),
    ("lora", None, ["lora_unet_x.hada_w1_a"]),
    ("lora", None, ["lycoris_blocks_0.lokr_w1"]),
    ("controlnet", None, ["control_model.input_hint_block.0.weight"]),
    ("controlnet", None, ["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"]),
    ("controlnet", None, ["controlnet_blocks.0.weight", "transformer_blocks.0.attn.to_q.weight"]),
    ("vae", None, ["encoder.down.0.block.0.conv1.weight", "decoder.mid.block_1.conv1.weight", "quant_conv.weight"]),
    ("vae", None, ["decoder.up_blocks.0.resnets.0.conv1.weight", "encoder.conv_in.weight"]),
    ("vae", None, ["first_stage_model.decoder.conv_out.weight"]),
    ("vae", None, ["encoder.downsamples.0.residual.0.gamma", "decoder.middle.0.residual.0.gamma", "conv1.weight"]),
    ("text-encoder", "clip", ["text_model.encoder.layers.0.self_attn.k_proj.weight", "text_projection.weight"]),
    ("text-encoder", "t5", ["encoder.block.0.layer.0.SelfAttention.k.weight", "shared.weight"]),
    ("text-encoder", None, ["model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight", "lm_head.weight"]),
    ("clip-vision", None, ["vision_model.encoder.layers.0.self_attn.k_proj.weight", "visual_projection.weight"]),
    ("style-model", None, ["redux_up.weight", "redux_down.weight"]),
    ("audio-encoder", None, ["feature_extractor.conv_layers.0.conv.weight", "encoder.pos_conv_embed.conv.bias"]),
    ("upscaler", None, ["model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight", "model.10.weight"]),
    ("upscaler", None, ["params_ema.conv_first.weight", "params_ema.body.0.rdb1.conv1.weight"]),
    ("upscaler", None, ["layers.0.residual_group.blocks.0.attn.qkv.weight", "conv_first.weight"]),
    ("embedding", None, ["emb_params"]),
    ("embedding", None, ["clip_l", "clip_g"]),
    (None, None, ["something.else"]),
]  # fmt: skip


@each(("kind", "family", "names"), NAMES)
def test_kind_and_family_are_detected_from_tensors(kind: str | None, family: str | None, names: list[str]) -> None:
    found = of(*names)
    assert (found.kind, found.family) == (kind, family)
    assert bool(found.why) == (kind is not None)


@each(
    ("file", "kind", "family"),
    [
        (real.sd15(), "checkpoint", "sd15"),
        (real.sdxl(), "checkpoint", "sdxl"),
        (real.flux_fp8(), "checkpoint", "flux"),
        (real.flux_dev(), "diffusion-model", "flux"),
        (real.t5(), "text-encoder", None),
        (real.clip_l(), "text-encoder", None),
        (real.flux_vae(), "vae", None),
    ],
)
def test_files_of_the_catalog_are_detected(file: MadeFile, kind: str, family: str | None) -> None:
    found = by_tensors(read_safetensors(file))
    assert (found.kind, found.family) == (kind, family)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (made.checkpoint(), "checkpoint"),
        (made.vae(), "vae"),
        (made.lora(), "lora"),
        (made.upscaler(), "upscaler"),
        (made.embedding(), "embedding"),
    ],
)
def test_files_of_the_demo_are_detected(body: object, kind: str) -> None:
    data = read(body)
    assert by_tensors(read_safetensors(HeaderBuffer(MadeFile(header=data, size=len(data))))).kind == kind


@each(
    ("arch", "kind", "consumers"),
    [
        ("flux", "diffusion-model", ()),
        ("qwen_image", "diffusion-model", ()),
        ("t5encoder", "text-encoder", ()),
        ("llama", None, ("ollama",)),
        ("qwen3", None, ("ollama",)),
    ],
)
def test_a_gguf_file_is_detected_by_its_architecture(arch: str, kind: str | None, consumers: tuple[str, ...]) -> None:
    found = by_gguf(read_gguf(gguf({"general.architecture": text(arch)}, [])))
    assert (found.kind, found.consumers, found.family) == (kind, consumers, arch)


@each(
    ("path", "kind"),
    [
        ("split_files/text_encoders/qwen_3_4b.safetensors", "text-encoder"),
        ("unet/diffusion_pytorch_model.safetensors", "diffusion-model"),
        ("latent_upscale_models/x.safetensors", "latent-upscaler"),
        ("ESRGAN/x.pth", "upscaler"),
        ("x.safetensors", None),
    ],
)
def test_the_kind_is_detected_from_the_folder(path: str, kind: str | None) -> None:
    assert by_folder(path).kind == kind


@each(
    ("address", "category", "kind"),
    [
        ("civitai://1", "LORA", "lora"),
        ("civitai://1", "TextualInversion", "embedding"),
        ("civitai://1", "Wildcards", None),
        ("https://openaipublic.azureedge.net/main/whisper/models/ab/small.pt", None, "whisper"),
        ("https://download.pytorch.org/torchaudio/models/w.pth", None, "torch-checkpoint"),
        ("https://files.example/x.safetensors", None, None),
    ],
)
def test_the_kind_is_detected_from_the_address_or_the_hub(address: str, category: str | None, kind: str | None) -> None:
    assert by_upstream(address, category).kind == kind


def test_the_folder_decides_between_parts_but_never_against_the_content() -> None:
    nothing, folder = Detected(), by_folder("text_encoders/x.safetensors")
    assert combine(Detected(kind="vae"), folder, nothing).kind == "text-encoder"
    assert combine(Detected(kind="lora"), folder, nothing).kind == "lora"
    assert combine(nothing, folder, nothing).kind == "text-encoder"
    assert combine(Detected(kind="vae"), nothing, nothing).consumers == ("stable-diffusion", "comfyui")


def test_metadata_of_the_hub_is_used_last() -> None:
    checkpoint = by_upstream("civitai://1", "Checkpoint")
    assert combine(Detected(kind="diffusion-model", family="flux"), Detected(), checkpoint).kind == "diffusion-model"
    assert combine(Detected(), Detected(), checkpoint).kind == "checkpoint"
    assert combine(Detected(consumers=("ollama",)), Detected(), checkpoint).kind is None


def test_services_that_can_not_load_a_family_are_left_out() -> None:
    assert consumers_for("diffusion-model", "qwen-image") == ("comfyui",)
    assert consumers_for("checkpoint", "sdxl") == ("stable-diffusion", "comfyui")
    assert consumers_for("audio-encoder", None) == ("comfyui",)


def test_a_repo_is_detected_by_its_files() -> None:
    ct2 = by_files("Systran/faster-whisper-small", ["config.json", "model.bin", "tokenizer.json", "vocabulary.txt"])
    assert (ct2.kind, ct2.consumers) == ("snapshot", ("whisper",))
    assert by_files("a/b", ["model_index.json", "unet/x.safetensors"]).consumers == ("comfyui",)
    assert by_files("ASLP-lab/DiffRhythm-1_2", ["cfm_model.pt", "config.json"]).consumers == ("diffrhythm",)
    clip = by_files("immich-app/ViT-B-32__openai", ["textual/model.onnx", "visual/model.onnx", "config.json"])
    assert (clip.kind, clip.task, clip.consumers) == ("immich-model", "clip", ("immich",))
    parts = ["detection/model.onnx", "recognition/model.onnx"]
    assert by_files("immich-app/buffalo_l", parts).task == "facial-recognition"
    assert by_files("immich-app/PP-OCRv5_mobile", parts).task == "ocr"
    assert by_files("a/b", ["README.md", "x.gguf", "y.gguf"]).choices == ("x.gguf", "y.gguf")
