"""The demo's models: tiny, valid, and byte-identical on every machine."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING

from modelfetch.demo import ct2, gguf
from modelfetch.demo.body import BytesBody
from modelfetch.demo.tensors import safetensors
from modelfetch.demo.torchzip import Tensor, stored_zip, torch_file

if TYPE_CHECKING:
    from modelfetch.demo.body import Body

LLAMA_SENTENCE = "Hello from modelfetch: this tiny model was fetched, verified and put in place."
"""The language model's response to any prompt."""
WHISPER_SENTENCE = "Hello from the tiny model that modelfetch put in place."
"""The speech model's transcript of any two seconds of audio."""

_LICENSE = (
    "The weights of this demo model are noise and one sentence. They are dedicated to the public domain (CC0-1.0).\n"
)


@cache
def llama() -> bytes:
    """Build a language model in GGUF, about 440 KB."""
    return gguf.llama("modelfetch demo", LLAMA_SENTENCE, seed=1)


def ollama_layers() -> list[tuple[str, bytes]]:
    """Return the layers of the language model in the Ollama registry, in the library's order."""
    template = "{{ if .System }}{{ .System }}\n{{ end }}{{ .Prompt }}\n"
    return [
        ("model", llama()),
        ("template", template.encode()),
        ("license", _LICENSE.encode()),
        ("params", _compact({"num_ctx": gguf.CONTEXT, "stop": ["</s>"], "temperature": 0})),
    ]


def ollama_config() -> bytes:
    """Return the configuration blob for ``ollama_layers``."""
    diff_ids = [f"sha256:{BytesBody(layer).sha256}" for _, layer in ollama_layers()]
    return _compact(
        {
            "model_format": "gguf",
            "model_family": "llama",
            "model_families": ["llama"],
            "model_type": "109K",
            "file_type": "F32",
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    )


@cache
def checkpoint() -> Body:
    """Build a Stable Diffusion 1.x checkpoint reduced to 40 MiB: large enough to watch, with the usual tensor names."""
    unet = "model.diffusion_model."
    block = "1.1.transformer_blocks.0"
    text = "cond_stage_model.transformer.text_model."
    shapes: dict[str, tuple[int, ...]] = {
        f"{text}embeddings.position_embedding.weight": (77, 768),
        f"{text}embeddings.token_embedding.weight": (4096, 768),
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
        "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
        f"{unet}input_blocks.0.0.weight": (320, 4, 3, 3),
        f"{unet}input_blocks.{block}.attn2.to_k.weight": (320, 768),
        f"{unet}out.2.weight": (4, 320, 3, 3),
        f"{unet}time_embed.0.weight": (1280, 320),
    }
    for index in range(10):
        shapes[f"{unet}middle_block.{index}.weight"] = (1280, 1280)
    return safetensors(shapes, seed=10, title="modelfetch demo checkpoint")


@cache
def vae() -> Body:
    """Build a VAE of about 400 KB."""
    shapes: dict[str, tuple[int, ...]] = {
        "decoder.conv_in.weight": (512, 4, 3, 3),
        "decoder.conv_out.weight": (3, 128, 3, 3),
        "encoder.conv_in.weight": (128, 3, 3, 3),
        "post_quant_conv.weight": (4, 4, 1, 1),
        "decoder.mid.attn_1.q.weight": (512, 320, 1, 1),
    }
    return safetensors(shapes, seed=20, title="modelfetch demo VAE")


@cache
def lora() -> Body:
    """Build a LoRA of rank 8, about 130 KB."""
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_"
    shapes: dict[str, tuple[int, ...]] = {}
    for part in "qkv":
        for index in range(4):
            shapes[f"{stem}{part}.{index}.lora_down.weight"] = (8, 320)
            shapes[f"{stem}{part}.{index}.lora_up.weight"] = (320, 8)
    return safetensors(shapes, seed=30, title="modelfetch demo LoRA")


@cache
def upscaler() -> Body:
    """Build an ESRGAN upscaler of about 200 KB."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.0.weight": (64, 3, 3, 3),
        "model.1.sub.0.weight": (128, 64, 3, 3),
        "model.3.weight": (32, 64, 3, 3),
        "model.10.weight": (3, 64, 3, 3),
    }
    return safetensors(shapes, seed=40, title="modelfetch demo upscaler")


@cache
def embedding() -> Body:
    """Build a textual inversion of two vectors."""
    return safetensors({"emb_params": (2, 768)}, seed=50, title="modelfetch demo embedding")


@cache
def faster_whisper() -> dict[str, bytes]:
    """Build a repository for faster-whisper, about 1.3 MB."""
    return ct2.whisper(WHISPER_SENTENCE, seed=60)


@cache
def align_model() -> bytes:
    """Build a wav2vec2 state dictionary for WhisperX's alignment, about 300 KB."""
    layers = {f"encoder.transformer.layers.{index}.attention.k_proj.weight": index for index in range(4)}
    return torch_file({name: Tensor((144, 128), 70 + index) for name, index in layers.items()}, name="wav2vec2_tiny")


@cache
def openai_whisper() -> bytes:
    """Build a checkpoint of openai-whisper: dimensions and a state dictionary."""
    dims = {
        **dict.fromkeys(("n_audio_head", "n_audio_layer", "n_text_head", "n_text_layer"), 1),
        **dict.fromkeys(("n_audio_state", "n_text_state"), 64),
        "n_mels": 80,
        "n_vocab": 51865,
        "n_audio_ctx": 1500,
        "n_text_ctx": 448,
    }
    weights = {"encoder.positional_embedding": Tensor((1500, 64), 80), "decoder.ln.weight": Tensor((64,), 81)}
    return torch_file({"dims": {**dims}, "model_state_dict": {**weights}}, name="tiny")


@cache
def nltk_punkt() -> bytes:
    """Build NLTK's sentence splitter data for English in the layout of ``punkt_tab.zip``, with a few thousand entries.

    ``ortho_context.tab`` is about 90 KB (NLTK's own: 236 KB), above the size below which files are always copied.
    """
    files = {
        "abbrev_types.txt": "dr\nmr\nmrs\nvs\n",
        "collocations.tab": "",
        "ortho_context.tab": "the\t46\n" + "".join(f"word{number}\t{number % 64}\n" for number in range(8000)),
        "sent_starters.txt": "however\n",
    }
    members = [("punkt_tab/", b""), ("punkt_tab/README", b"Demo data.\n"), ("punkt_tab/english/", b"")]
    members += [(f"punkt_tab/english/{name}", text.encode()) for name, text in files.items()]
    return stored_zip(members)


@cache
def diffrhythm_cfm() -> dict[str, bytes]:
    """Build DiffRhythm's flow-matching model."""
    state = {f"ema_model.transformer.transformer_blocks.{index}.attn.to_q.weight": index for index in range(3)}
    model = torch_file({name: Tensor((128, 128), 90 + index) for name, index in state.items()}, name="cfm_model")
    return {"README.md": b"# Demo weights\n", "cfm_model.pt": model}


@cache
def diffrhythm_vae() -> dict[str, bytes]:
    """Build DiffRhythm's VAE."""
    return {"vae_model.pt": torch_file({"decoder.layers.0.weight": Tensor((128, 256), 100)}, name="vae_model")}


@cache
def muq_mulan() -> dict[str, bytes]:
    """Build MuQ-MuLan: a configuration and weights in PyTorch's format."""
    config = {"mulan": {"sr": 24000, "dim_latent": 64}, "audio_model": {"name": "modelfetch-demo/muq-tiny"}}
    state: dict[str, Tensor] = {"mulan.audio_to_latents.weight": Tensor((64, 256), 110)}
    return {"config.json": _pretty(config), "pytorch_model.bin": torch_file({**state}, name="pytorch_model")}


@cache
def muq() -> dict[str, bytes | Body]:
    """Build MuQ: a configuration and weights in safetensors."""
    config = {"encoder_dim": 64, "encoder_depth": 2, "label_rate": 25}
    shapes: dict[str, tuple[int, ...]] = {"model.conformer.layers.0.self_attn.linear_q.weight": (256, 256)}
    return {
        "config.json": _pretty(config),
        "model.safetensors": safetensors(shapes, seed=120, title="modelfetch demo MuQ"),
    }


@cache
def xlm_roberta() -> dict[str, bytes | Body]:
    """Build XLM-RoBERTa: a configuration, a tokenizer, and weights."""
    vocabulary = [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["\u2581", -2.0], ["a", -3.0]]
    config = {
        "architectures": ["XLMRobertaForMaskedLM"],
        "hidden_size": 64,
        "intermediate_size": 128,
        "max_position_embeddings": 66,
        "model_type": "xlm-roberta",
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": len(vocabulary),
    }
    replacement = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    tokenizer: dict[str, object] = {
        **dict.fromkeys(("truncation", "padding", "normalizer", "post_processor")),
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": replacement,
        "decoder": replacement,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocabulary, "byte_fallback": False},
    }
    shapes: dict[str, tuple[int, ...]] = {
        "roberta.embeddings.position_embeddings.weight": (66, 64),
        "roberta.embeddings.word_embeddings.weight": (len(vocabulary), 64),
        "roberta.encoder.layer.0.output.dense.weight": (64, 128),
    }
    return {
        "config.json": _pretty(config),
        "model.safetensors": safetensors(shapes, seed=130, title="modelfetch demo XLM-RoBERTa"),
        "tokenizer.json": _pretty(tokenizer),
        "tokenizer_config.json": _pretty({"model_max_length": 64, "tokenizer_class": "XLMRobertaTokenizerFast"}),
    }


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _pretty(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=2).encode() + b"\n"
