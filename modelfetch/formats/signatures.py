"""What files of each format begin with, by their suffixes. Pure.

Sources: each format's specification or reference implementation, named next to it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from modelfetch.formats.archives import is_tar, is_zip
from modelfetch.formats.gguf import MAGICS
from modelfetch.formats.opcodes import PickleVerdict, read_pickle
from modelfetch.formats.pickles import PICKLE_SUFFIXES, is_torch_zip
from modelfetch.formats.safetensors import MAX_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


# ── models ──
def is_safetensors(head: bytes) -> bool:
    """Whether a file begins with the length and the first character of a safetensors header."""
    length = int.from_bytes(head[:8], "little")
    return len(head) >= 10 and 2 <= length <= MAX_HEADER and head[8:9] == b"{"


def is_gguf(head: bytes) -> bool:
    """Whether a file begins with the signature of GGUF, of either byte order."""
    return head[:4] in MAGICS


def _is_pickle(head: bytes) -> bool:
    return is_zip(head) or is_tar(head) or read_pickle(head) is not PickleVerdict.NO


def _is_compressed(head: bytes) -> bool:
    """One of joblib's ways to compress a pickle: zlib, gzip, bzip2, xz, lz4."""
    return head.startswith(
        (b"\x78\x01", b"\x78\x9c", b"\x78\xda", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x04\x22\x4d\x18")
    )


_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
_MODEL_PROTO = {field: _VARINT if field in (1, 5) else _BYTES for field in (*range(1, 9), 14, 20, 25, 26)}


def _is_protobuf(head: bytes, fields: dict[int, int] | None = None) -> bool:
    """Whether bytes begin as a protobuf message, or as one with these ``fields`` and wire types."""
    at = 0
    while at < len(head):
        key, at = _read_varint(head, at)
        field, wire = key >> 3, key & 7
        if at > len(head):
            break
        if not field or wire not in (_VARINT, _FIXED64, _BYTES, _FIXED32) or (fields and fields.get(field) != wire):
            return False
        value, after = _read_varint(head, at)
        at = {_VARINT: after, _BYTES: after + value, _FIXED64: at + 8, _FIXED32: at + 4}[wire]
    return True


def _read_varint(head: bytes, at: int) -> tuple[int, int]:
    """Return a number and the position behind it, which is beyond the end if it is cut off; 0 if it is too long."""
    value, digits = 0, head[at : at + _LONGEST_VARINT]
    for count, byte in enumerate(digits):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, at + count + 1
    return (0, at) if len(digits) == _LONGEST_VARINT else (value, max(at, len(head)) + 1)


def _is_onnx(head: bytes) -> bool:
    """A message that begins with fields of ModelProto, most with its version (source: onnx, onnx.proto)."""
    return (head[:1] == b"\x08" and head[1:2] < b"\x80") or _is_protobuf(head, _MODEL_PROTO)


def _is_ggml(head: bytes) -> bool:
    """Whisper.cpp's and older llama.cpp's files (source: whisper.cpp, GGML_FILE_MAGIC)."""
    return head[:4] in (b"lmgg", b"fmgg", b"tjgg", b"algg") or is_gguf(head)


def _is_hdf5(head: bytes) -> bool:
    return head.startswith(b"\x89HDF\r\n\x1a\n") or is_zip(head)  # Keras 3 writes a zip


def _is_msgpack(head: bytes) -> bool:
    """A map whose keys are texts, as flax writes one (source: msgpack, spec.md)."""
    after = {0xDE: 3, 0xDF: 5}.get(head[0], 1 if 0x80 <= head[0] <= 0x8F else len(head))
    key = head[after : after + 1]
    return b"\xa0" <= key <= b"\xbf" or key in (b"\xd9", b"\xda", b"\xdb")


def _is_tflite(head: bytes) -> bool:
    return head[4:8] == b"TFL3"


def _is_image(head: bytes) -> bool:
    return head.startswith((b"\x89PNG\r\n", b"\xff\x0a", b"\0\0\0\x0cJXL ")) or head[8:12] == b"WEBP"


def _is_other_raw(head: bytes) -> bool:
    """Whether a file of a format without a signature may be one, because it begins like no other file."""
    return not is_other_file(head)


def _is_unknown_protobuf(head: bytes) -> bool:
    return _is_protobuf(head) and not is_other_file(head)


# ── other files ──
_MEDIA = (
    *(b"%PDF-", b"%!PS-", b"{\\rtf", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),  # documents
    *(
        b"\x89PNG\r\n",
        b"\xff\xd8\xff",
        b"GIF8",
        b"RIFF",
        b"II*\0",
        b"MM\0*",
        b"8BPS",
        b"\0\0\0\x0cjP  ",
        b"\0\0\0\x0cJXL ",
    ),  # pictures
    *(
        b"\x1aE\xdf\xa3",
        b"OggS",
        b"fLaC",
        b"ID3\x02",
        b"ID3\x03",
        b"ID3\x04",
        b"FORM",
        b"MThd",
        b"FLV\x01",
    ),  # sound, films
    *(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"\0\0\1\xba"),
)
_PROGRAMS = (
    b"\x7fELF",
    b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",
    b"\0asm",
    b"!<arch>\n",
    b"\xed\xab\xee\xdb",
    b"dex\n",
)
_ARCHIVES = (b"PK\x05\x06", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd", b"MSCF\0", b"xar!", b"Cr24")
_DATA = (
    b"SQLite format 3",
    b"PAR1",
    b"ARROW1",
    b"bplist0",
    b"PACK\0\0\0",
    b"d8:announce",
    b"wOFF",
    b"wOF2",
    b"OTTO\0",
    b"\0\5\x16\7",
    b"Salted__",
)
_OTHER_FILES = (*_MEDIA, *_PROGRAMS, *_ARCHIVES, *_DATA)
"""Signatures of at least four bytes, or of three that no weights begin with (source: file(1), its magic files)."""
_FILM_PARTS = (b"ftyp", b"moov", b"mdat", b"wide")
"""The first box of an MP4 or QuickTime file, or of a HEIC or AVIF picture (source: ISO/IEC 14496-12)."""
_HEADER_FIELD = re.compile(rb"\r\nContent-[A-Z]", re.IGNORECASE)
"""What follows the boundary of a form or multipart body, or the first line of a response, that was stored as a file."""
_BITMAP_HEADERS = (b"\x0c\0\0\0", b"\x28\0\0\0", b"\x6c\0\0\0", b"\x7c\0\0\0")
IMAGE_SUFFIXES = (".png", ".webp", ".jxl")
"""Suffixes of embeddings stored in an image (source: AUTOMATIC1111's wiki, Textual Inversion)."""


def is_other_file(head: bytes) -> bool:
    """Whether a file begins as a document, an image, a video, a program or an archive does, and no weights do."""
    return (
        head.startswith(_OTHER_FILES)
        or head[4:8] in _FILM_PARTS
        or (head.startswith(b"MZ") and b"This program" in head)
        or (head.startswith((b"--", b"HTTP/1.")) and _HEADER_FIELD.search(head) is not None)
        or (head.startswith(b"BM") and head[6:10] == bytes(4) and head[14:18] in _BITMAP_HEADERS)
    )


def is_other_media(path: str, head: bytes) -> bool:
    """Whether a file begins as a document, an image or a video, and its name is not that of an image."""
    return is_other_file(head) and suffix_of(path) not in IMAGE_SUFFIXES


# ── by suffix ──
_PIECE = re.compile(r"(\.[a-z0-9]+)(?:[._]data(?:[._-]?[0-9][\w-]*)?|[.-](?:split|part)[\w-]*|\.[0-9]{3})\Z")
"""The end of the name of a part of a weight file: ``x.onnx.data``, ``x.gguf.part1of2``, ``x.ckpt.data-00000-of-00001``.

Only the first part begins as the file does.
"""
_PIECE_SUFFIX = ".onnx_data"


def suffix_of(path: str) -> str:
    """Return the suffix by which a file is judged, in lower case; that of a part of a weight file is ``.onnx_data``."""
    name = path.rpartition("/")[2].lower()
    stem, _, last = name.rpartition(".")
    if (piece := _PIECE.search(name)) is not None and piece[1] in STARTS:
        return _PIECE_SUFFIX
    return f".{last}" if stem and last else ""


def _begins(*starts: bytes, at: int = 0) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(starts, at)


_PROGRAM_STARTS: dict[str, Callable[[bytes], bool]] = {
    ".caffemodel": _is_unknown_protobuf,
    ".dduf": is_zip,
    ".ftz": _begins(b"\xba\x16\x4f\x2f"),  # fastText, fasttext.cc
    ".litertlm": _begins(b"LITERTLM"),
    ".mar": lambda head: is_zip(head) or head.startswith(b"\x1f\x8b"),
    ".mlmodel": lambda head: head[:1] == b"\x08" and _is_onnx(head),  # coremltools, Model.proto
    ".nemo": lambda head: is_tar(head) or head.startswith(b"\x1f\x8b"),
    ".ort": _begins(b"ORTM", at=4),  # ONNX Runtime, ort.fbs
    ".ot": is_zip,  # tch, as torch writes
    ".pb": _is_unknown_protobuf,
    ".pte": _begins(b"ET", at=4),  # ExecuTorch, program.fbs
    ".task": lambda head: is_zip(head) or _is_tflite(head),
    ".tensors": _begins(b"|TZR|"),  # tensorizer, serialization.py
    **dict.fromkeys(
        (".engine", ".mnn", _PIECE_SUFFIX, ".pdiparams", ".pdparams", ".plan", ".t7", ".trt", ".weights"), _is_other_raw
    ),
}
"""Weights that no image service lists; other programs read them."""
UNLISTED = frozenset(_PROGRAM_STARTS)
STARTS: dict[str, Callable[[bytes], bool]] = {
    ".safetensors": is_safetensors,
    ".sft": is_safetensors,
    ".gguf": is_gguf,
    ".onnx": _is_onnx,
    ".ggml": _is_ggml,
    ".h5": _is_hdf5,
    ".hdf5": _is_hdf5,
    ".keras": is_zip,
    ".msgpack": _is_msgpack,
    ".npy": _begins(b"\x93NUMPY"),
    ".npz": is_zip,
    ".pt2": is_zip,
    ".tflite": _is_tflite,
    ".zip": _begins(b"PK"),
    ".bin": _is_other_raw,  # CTranslate2, ggml, OpenVINO, raw tensors: many formats without one beginning
    ".model": _is_other_raw,  # a tokenizer: sentencepiece, or tiktoken's text
    **dict.fromkeys(PICKLE_SUFFIXES, _is_pickle),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), lambda head: _is_pickle(head) or _is_compressed(head)),
    **_PROGRAM_STARTS,
}
"""The suffixes of model weights, and the check of what a file of each begins with."""
PACKED: dict[str, tuple[bytes, ...]] = {
    **dict.fromkeys((".gz", ".tgz"), (b"\x1f\x8b",)),
    **dict.fromkeys((".bz2", ".tbz2"), (b"BZh",)),
    **dict.fromkeys((".xz", ".txz"), (b"\xfd7zXZ\0",)),
    ".7z": (b"7z\xbc\xaf\x27\x1c",),
    ".rar": (b"Rar!\x1a\x07",),
}
"""The suffixes of compressed files, and what these begin with; they do not count as weights."""


def begins_as_any_model(head: bytes) -> bool:
    """Whether a file begins as one of the formats that services load does."""
    known = (is_safetensors, is_gguf, _is_pickle, _is_ggml, _is_hdf5, _is_onnx, _is_tflite)
    return any(begins(head) for begins in known)


def begins_as(suffix: str, head: bytes) -> bool:
    """Whether a file begins as weights with this suffix do, or as an image that may hold an embedding."""
    return _is_image(head) if suffix in IMAGE_SUFFIXES else STARTS[suffix](head)


def has_signature(suffix: str) -> bool:
    """Whether all files with this suffix begin in a known way."""
    return STARTS.get(suffix) is not _is_other_raw


# ── archives, by the names of their files ──
def _has(name: str) -> Callable[[Collection[str]], bool]:
    return lambda names: name in names


def _is_numpy_zip(names: Collection[str]) -> bool:
    return bool(names) and all(name.endswith(".npy") for name in names)


def _is_mediapipe_zip(names: Collection[str]) -> bool:
    return any(name.endswith((".tflite", ".task")) or "TF_LITE" in name for name in names)


def is_torch_archive(names: Collection[str]) -> bool:
    """Whether torch or NumPy wrote an archive; NumPy's has only arrays (kokoro-onnx calls one ``voices.bin``)."""
    return is_torch_zip(names) or _is_numpy_zip(names) or {"pickle", "tensors"} <= set(names)


HOLDS: dict[str, Callable[[Collection[str]], bool]] = {
    ".dduf": _has("model_index.json"),
    **dict.fromkeys((".h5", ".hdf5", ".keras"), _has("config.json")),  # Keras 3, saving_lib.py
    ".mar": _has("MAR-INF/MANIFEST.json"),  # TorchServe, model archiver
    ".npz": _is_numpy_zip,
    ".ot": is_torch_zip,
    ".pt2": is_torch_zip,
    ".task": _is_mediapipe_zip,
    **dict.fromkeys((*PICKLE_SUFFIXES, ".joblib", ".pickle"), is_torch_archive),
    **{s: is_torch_archive for s, begins in STARTS.items() if begins is _is_other_raw and s != _PIECE_SUFFIX},
}
"""The suffixes of weights that may be archives, and the check of the names in one of each."""
