"""A tiny Whisper in CTranslate2's format, as faster-whisper loads it.

Source of the format: ctranslate2 4.8.5, ``specs/model_spec.py`` (binary version 6) and ``specs/whisper_spec.py``
(revision 3); the other files follow its Transformers converter and the published conversions.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

from modelfetch.demo.weights import constant, recital_embeddings, recital_outputs, small

if TYPE_CHECKING:
    from collections.abc import Sequence

BINARY_VERSION, REVISION = 6, 3
FLOAT32, INT8, INT16 = 0, 1, 2
WIDTH, MELS, LAYERS, AUDIO_POSITIONS, TEXT_POSITIONS = 32, 80, 2, 1500, 448
TIMESTAMPS = 1501
GELU = 3
SPECIALS = (
    *("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>"),
    *("<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
)

Variable = tuple[int, tuple[int, ...], bytes]


def whisper(sentence: str, *, seed: int) -> dict[str, bytes]:
    """Build the files of a model of about 800 KB that transcribes any two seconds of audio as ``sentence``."""
    alphabet = byte_alphabet()
    words = ["\u0120" + word for word in sentence.split()]
    stamps = [f"<|{index * 2 // 100}.{index * 2 % 100:02d}|>" for index in range(TIMESTAMPS)]
    tokens = [*alphabet, *words, *SPECIALS, *stamps]
    place = {token: index for index, token in enumerate(tokens)}
    chain = [place["<|0.00|>"], *(place[word] for word in words), place["<|2.00|>"], place["<|endoftext|>"]]
    return {
        "config.json": _json({"alignment_heads": [[1, 0]], "lang_ids": [place["<|en|>"]], **_suppressed(place)}),
        "model.bin": encode(_weights(len(tokens), chain, seed)),
        "preprocessor_config.json": _json(_preprocessor()),
        "tokenizer.json": _json(_tokenizer([*alphabet, *words], place)),
        "vocabulary.json": _json(tokens),
    }


def _suppressed(place: dict[str, int]) -> dict[str, list[int]]:
    return {"suppress_ids": [], "suppress_ids_begin": [place["<|endoftext|>"]]}


def _preprocessor() -> dict[str, object]:
    return {
        "chunk_length": 30,
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": MELS,
        "hop_length": 160,
        "n_fft": 400,
        "n_samples": 480000,
        "nb_max_frames": 3000,
        "sampling_rate": 16000,
    }


def _tokenizer(plain: Sequence[str], place: dict[str, int]) -> dict[str, object]:
    """Return a byte-level BPE tokenizer without merges; the rest of the vocabulary consists of special tokens."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": index, "content": token, **flags} for token, index in place.items() if index >= len(plain)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: place[token] for token in plain},
            "merges": [],
        },
    }


def byte_alphabet() -> list[str]:
    """Return the 256 printable characters for bytes in a byte-level vocabulary (GPT-2's mapping), in byte order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters, spare = [], 0x100
    for byte in range(256):
        if byte in printable:
            letters.append(chr(byte))
        else:
            letters.append(chr(spare))
            spare += 1
    return letters


def _weights(vocabulary: int, chain: Sequence[int], seed: int) -> dict[str, Variable]:
    variables: dict[str, Variable] = {
        "decoder/activation": _flag(GELU),
        "decoder/alibi": _flag(0),
        "decoder/alibi_use_positive_positions": _flag(0),
        "decoder/alignment_heads": _number(1),
        "decoder/alignment_layer": _number(-1),
        "decoder/num_heads": _number(1),
        "decoder/pre_norm": _flag(1),
        "decoder/scale_alibi": _flag(0),
        "decoder/scale_embeddings": _flag(0),
        "decoder/start_from_zero_embedding": _flag(0),
        "encoder/num_heads": _number(1),
        "decoder/embeddings/weight": _matrix(vocabulary, WIDTH, recital_embeddings(vocabulary, chain, WIDTH)),
        "decoder/projection/weight": _matrix(
            vocabulary, WIDTH, recital_outputs(vocabulary, chain, WIDTH, seed=seed + 1, scale=1.0)
        ),
        "decoder/position_encodings/encodings": _noise(seed + 2, TEXT_POSITIONS, WIDTH),
        "encoder/position_encodings/encodings": _noise(seed + 3, AUDIO_POSITIONS, WIDTH),
        "encoder/conv1/weight": _noise(seed + 4, WIDTH, MELS, 3),
        "encoder/conv2/weight": _noise(seed + 5, WIDTH, WIDTH, 3),
        **{f"encoder/conv{number}/bias": _vector(WIDTH, 0.0) for number in (1, 2)},
        **_layer_norm("encoder/layer_norm"),
        **_layer_norm("decoder/layer_norm"),
    }
    for layer in range(LAYERS):
        for side, attentions in (("encoder", ("self_attention",)), ("decoder", ("self_attention", "attention"))):
            scope = f"{side}/layer_{layer}"
            start = seed + 1000 * (layer + 1) + 100 * len(attentions)
            variables |= _feed_forward(f"{scope}/ffn", start)
            for index, attention in enumerate(attentions, start=1):
                variables |= _attention(f"{scope}/{attention}", start + 10 * index)
    return variables


def _attention(scope: str, seed: int) -> dict[str, Variable]:
    """Return attention weights; self-attention packs query, key and value, cross-attention only key and value."""
    outputs = (3 * WIDTH, WIDTH) if scope.endswith("self_attention") else (WIDTH, 2 * WIDTH, WIDTH)
    variables = _layer_norm(f"{scope}/layer_norm")
    for index, rows in enumerate(outputs):
        variables |= _linear(f"{scope}/linear_{index}", rows, WIDTH, seed + index)
    return variables


def _feed_forward(scope: str, seed: int) -> dict[str, Variable]:
    return {
        **_layer_norm(f"{scope}/layer_norm"),
        **_linear(f"{scope}/linear_0", 4 * WIDTH, WIDTH, seed),
        **_linear(f"{scope}/linear_1", WIDTH, 4 * WIDTH, seed + 1),
    }


def _linear(scope: str, rows: int, columns: int, seed: int) -> dict[str, Variable]:
    return {f"{scope}/weight": _noise(seed, rows, columns), f"{scope}/bias": _vector(rows, 0.0)}


def _layer_norm(scope: str) -> dict[str, Variable]:
    return {f"{scope}/gamma": _vector(WIDTH, 1.0), f"{scope}/beta": _vector(WIDTH, 0.0)}


def encode(variables: dict[str, Variable]) -> bytes:
    """Encode ``model.bin``: variables in the order of their names; repeated ones become aliases of the first."""
    first: dict[Variable, str] = {}
    aliases: list[tuple[str, str]] = []
    for name, value in sorted(variables.items()):
        if value[1] and value in first:
            aliases.append((name, first[value]))
        else:
            first[value if value[1] else (-1, (), name.encode())] = name
    kept = [(name, variables[name]) for name in first.values()]
    parts = [struct.pack("<I", BINARY_VERSION), _text("WhisperSpec"), struct.pack("<II", REVISION, len(kept))]
    for name, (kind, shape, data) in kept:
        parts += [_text(name), struct.pack(f"<B{len(shape)}I", len(shape), *shape)]
        parts += [struct.pack("<BI", kind, len(data)), data]
    parts.append(struct.pack("<I", len(aliases)))
    parts += [_text(alias) + _text(name) for alias, name in aliases]
    return b"".join(parts)


def _text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def _flag(value: int) -> Variable:
    return INT8, (), struct.pack("<b", value)


def _number(value: int) -> Variable:
    return INT16, (), struct.pack("<h", value)


def _vector(length: int, value: float) -> Variable:
    return FLOAT32, (length,), constant(length, value)


def _matrix(rows: int, columns: int, data: bytes) -> Variable:
    return FLOAT32, (rows, columns), data


def _noise(seed: int, *shape: int) -> Variable:
    count = 1
    for size in shape:
        count *= size
    return FLOAT32, shape, small(count, seed=seed)


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=2).encode() + b"\n"
