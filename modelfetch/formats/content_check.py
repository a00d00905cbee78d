"""Check bytes that no digest verifies: whether they match the file's name, or the kind of its entry.

Pure: it gets bytes and returns what is wrong with them. Sources of the signatures: each format's specification or
reference implementation, named next to it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from modelfetch.errors import CredentialsError, ModelfetchError, NotAModelError
from modelfetch.formats.gguf import MAGICS, read_gguf
from modelfetch.formats.pickles import (
    PICKLE_SUFFIXES,
    PickleVerdict,
    decompressed_start,
    find_pickle,
    is_compressed_archive,
    is_model_zip,
    is_pickle_name,
    is_tar,
    is_zip,
    pickle_error,
    read_pickle,
    start_of_compressed,
    starts_as_pickle,
)
from modelfetch.formats.range_reader import HeaderWindow, ReadAt
from modelfetch.formats.safetensors import MAX_HEADER, check_safetensors, is_safetensors_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelfetch.core.artifact import Artifact

HEAD = 512
"""Bytes from the start of a file that `check_head` needs."""

_LINES = 6
"""Least number of lines in the first bytes of a vocabulary."""
_MIN_SIZE = 24
"""Bytes of the smallest weight file of any format but pickle, whose shortest is as long as the value that it holds."""
_STOP = b"."
"""The last byte of every pickle (source: pickletools, STOP)."""
_HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<!--", b"<?xml")
_POINTERS = {b"version https://git-lfs.github.com/spec/": "Git LFS", b"/annex/objects/": "git-annex"}
"""Beginnings of pointer files (sources: git-lfs, docs/spec.md; git-annex, pointer_file)."""
_LOGIN_PARTS = frozenset({"login", "signin", "sign-in", "sign_in", "auth"})
_BOM = b"\xef\xbb\xbf"
_NOT_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")  # ESC colours text
_WIDE_TEXT = re.compile(rb"(?:[\t\n\r -~]\0){5,}+|(?:\0[\t\n\r -~]){5,}+")  # UTF-16 without a byte order mark
_DOCUMENTS = (
    b"%PDF-",
    b"\x89PNG\r\n",
    b"\xff\xd8\xff",
    b"GIF8",
    b"RIFF",
    b"\x1aE\xdf\xa3",
    b"OggS",
    b"fLaC",
    b"ID3\x04",
)
_ARCHIVES = (b"PK\x05\x06", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd")
"""Signatures of documents, images, videos, audio and archives, with which no weights begin."""


# ── signatures ──
def _is_safetensors(head: bytes) -> bool:
    length = int.from_bytes(head[:8], "little")
    return len(head) >= 10 and 2 <= length <= MAX_HEADER and head[8:9] == b"{"


def _is_gguf(head: bytes) -> bool:
    return head[:4] in MAGICS


def _is_pickle(head: bytes) -> bool:
    return is_zip(head) or is_tar(head) or read_pickle(head) is not PickleVerdict.NO


def _is_compressed(head: bytes) -> bool:
    """One of joblib's ways to compress a pickle: zlib, gzip, bzip2, xz, lz4."""
    return head.startswith(
        (b"\x78\x01", b"\x78\x9c", b"\x78\xda", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x04\x22\x4d\x18")
    )


_MODEL_PROTO = tuple(bytes((key,)) for key in b"\x08\x12\x1a\x22\x28\x32\x3a\x42\x72\xa2\xca\xd2")
"""First bytes of ModelProto's fields."""


def _is_onnx(head: bytes) -> bool:
    """A protobuf message that begins with fields of ModelProto, most with its version (source: onnx, onnx.proto).

    For any other first field one byte is not enough: videos, archives and bitmaps begin in the same way.
    """
    key, value = head[:1], head[1:11]
    if key == b"\x08":
        return value[:1] < b"\x80"
    last = next((at for at, byte in enumerate(value) if byte < 0x80), None)
    if key not in _MODEL_PROTO or last is None:
        return False
    length = sum((byte & 0x7F) << (7 * at) for at, byte in enumerate(value[: last + 1])) if key != b"\x28" else 0
    after = head[last + 2 + length :][:1]
    return not after or after in _MODEL_PROTO


def _is_ggml(head: bytes) -> bool:
    """Whisper.cpp's and older llama.cpp's files (source: whisper.cpp, GGML_FILE_MAGIC)."""
    return head[:4] in (b"lmgg", b"fmgg", b"tjgg", b"algg") or _is_gguf(head)


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


def _is_no_document(head: bytes) -> bool:
    return not head.startswith((*_DOCUMENTS, *_ARCHIVES))


_PIECE = re.compile(r"(\.[a-z0-9]+)(?:[._]data(?:[._-]?[0-9][\w-]*)?|[.-](?:split|part)[\w-]*|\.[0-9]{3})\Z")
"""The end of the name of a part of a weight file: ``x.onnx.data``, ``x.gguf.part1of2``, ``x.ckpt.data-00000-of-00001``.

Only the first part begins as the file does.
"""
_PIECE_SUFFIX = ".onnx_data"

_UNLISTED = (
    *(
        ".caffemodel",
        ".dduf",
        ".engine",
        ".ftz",
        ".litertlm",
        ".mar",
        ".mlmodel",
        ".mnn",
        ".nemo",
        _PIECE_SUFFIX,
        ".ort",
    ),
    *(".ot", ".pb", ".pdiparams", ".pdparams", ".plan", ".pte", ".t7", ".task", ".tensors", ".trt", ".weights"),
)
"""Suffixes of binary weights that no image service lists; other programs read them."""


_STARTS: dict[str, Callable[[bytes], bool]] = {
    ".safetensors": _is_safetensors,
    ".sft": _is_safetensors,
    ".gguf": _is_gguf,
    ".onnx": _is_onnx,
    ".ggml": _is_ggml,
    ".h5": _is_hdf5,
    ".hdf5": _is_hdf5,
    ".keras": is_zip,
    ".msgpack": _is_msgpack,
    ".npy": lambda head: head.startswith(b"\x93NUMPY"),
    ".npz": is_zip,
    ".pt2": is_zip,
    ".tflite": _is_tflite,
    ".zip": lambda head: head[:2] == b"PK",
    ".bin": _is_no_document,  # CTranslate2, ggml, OpenVINO, raw tensors: many formats without one beginning
    ".model": _is_no_document,  # a tokenizer: sentencepiece, or tiktoken's text
    **dict.fromkeys(PICKLE_SUFFIXES, _is_pickle),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), lambda head: _is_pickle(head) or _is_compressed(head)),
    **dict.fromkeys(_UNLISTED, _is_no_document),
}
"""The suffixes of model weights, and the check of what a file of each begins with."""
_PACKED: dict[str, tuple[bytes, ...]] = {
    **dict.fromkeys((".gz", ".tgz"), (b"\x1f\x8b",)),
    **dict.fromkeys((".bz2", ".tbz2"), (b"BZh",)),
    **dict.fromkeys((".xz", ".txz"), (b"\xfd7zXZ\0",)),
    ".7z": (b"7z\xbc\xaf\x27\x1c",),
    ".rar": (b"Rar!\x1a\x07",),
}
"""The suffixes of compressed files, and what these begin with; they do not count as weights."""
_TORCH = frozenset({*PICKLE_SUFFIXES, ".bin", ".joblib", ".pickle"})
"""Suffixes of weights that torch may have written, as a zip."""
_ANY_MODEL = (_is_safetensors, _is_gguf, _is_pickle, _is_ggml, _is_hdf5, _is_onnx, _is_tflite)
IMAGE_SUFFIXES = (".png", ".webp", ".jxl")
"""Suffixes of embeddings stored in an image (source: AUTOMATIC1111's wiki, Textual Inversion)."""
_COMPANION_SUFFIXES = frozenset({".json", ".yaml", ".yml", ".txt", ".md", ".jinja"})
"""Suffixes of files that accompany weights; they do not count as weights, whatever the kind of their entry."""
_NEVER_PICKLED = frozenset({".safetensors", ".sft", ".gguf", ".onnx", ".tflite", *_COMPANION_SUFFIXES})
"""Suffixes of files that no program loads as a pickle."""


def is_weights(path: str, *, by_kind: bool = False) -> bool:
    """Whether a file is model weights: by its name, or by its entry's kind (``by_kind``)."""
    suffix = _suffix(path)
    return suffix in _STARTS or (by_kind and suffix not in _COMPANION_SUFFIXES)


def has_known_suffix(name: str) -> bool:
    """Whether a name has the suffix of model weights, or of a file that accompanies them."""
    return is_weights(name) or _suffix(name) in _COMPANION_SUFFIXES


def is_listed(name: str) -> bool:
    """Whether a name has the suffix of a format by which services find models."""
    return is_weights(name) and _suffix(name) not in _UNLISTED


def suffix_for(head: bytes) -> str | None:
    """Return the suffix that a weight file with these first bytes should have; None if they do not show it."""
    if _is_safetensors(head):
        return ".safetensors"
    return ".gguf" if _is_gguf(head) else None


def _suffix(path: str) -> str:
    name = path.rpartition("/")[2].lower()
    stem, _, last = name.rpartition(".")
    if (piece := _PIECE.search(name)) is not None and piece[1] in _STARTS:
        return _PIECE_SUFFIX
    return f".{last}" if stem and last else ""


# ── pages and messages in place of a file ──
def looks_like_html(head: bytes) -> bool:
    """Whether bytes begin as a web page does."""
    return head.removeprefix(_BOM).lstrip().lower().startswith(_HTML_STARTS)


def looks_like_json(head: bytes) -> bool:
    """Whether bytes begin as a JSON object or array does."""
    text = head.removeprefix(_BOM).lstrip()
    return text[:1] in (b"{", b"[") and all(byte >= 0x20 or byte in b"\t\r\n" for byte in text)


def looks_like_text(head: bytes) -> bool:
    """Whether bytes are text: UTF-16, or any encoding in which no byte is a control character, such as UTF-8 or GBK.

    Of 512 bytes of weights, many are control characters.
    """
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return re.search("[\x00-\x08\x0e-\x1f\ufffd]", head[: len(head) & ~1].decode("utf-16", "replace")) is None
    return bool(head) and (_NOT_TEXT.search(head) is None or _WIDE_TEXT.fullmatch(head[: len(head) & ~1]) is not None)


def is_other_media(path: str, head: bytes) -> bool:
    """Whether a file begins as a document, an image or a video, and its name is not that of an image."""
    return head.startswith(_DOCUMENTS) and _suffix(path) not in IMAGE_SUFFIXES


def is_login(url: str) -> bool:
    """Whether a URL is that of a login page."""
    return any(part.lower() in _LOGIN_PARTS for part in urlsplit(url).path.split("/"))


def page_error(path: str, url: str, *, what: str) -> ModelfetchError:
    """Make the error for a page or a message that came instead of a file."""
    if is_login(url):
        return CredentialsError(
            f"{path}: a login page came instead of the file", code="login-page", hint="set a token for this host"
        )
    return NotAModelError(
        f"{path}: {what} came instead of the file", hint="open the address in a browser: it may need a login"
    )


def check_replacement(path: str, head: bytes, url: str) -> ModelfetchError | None:
    """The error for a page, a message or a pointer in the place of weights."""
    if not head:
        return NotAModelError(f"{path}: the file is empty")
    if looks_like_html(head):
        return page_error(path, url, what="a web page")
    if looks_like_json(head):
        return page_error(path, url, what="a JSON message")
    packed = decompressed_start(head, lambda: head)[:HEAD]
    if looks_like_text(packed) and read_pickle(packed) is PickleVerdict.NO:
        return page_error(path, url, what="compressed text")
    text = head.removeprefix(_BOM).strip()
    is_pickle = read_pickle(head) is not PickleVerdict.NO and (is_pickle_name(path) or may_hide_pickle(path))
    is_tokenizer = _suffix(path) == ".model" and _is_table(text)
    if not looks_like_text(head) or is_pickle or is_tokenizer:
        return None
    line = text.splitlines()[0][:60].decode("utf-8", "replace") if text else ""
    return page_error(path, url, what="an XML message" if text.startswith(b"<") else f"text ({line!r})")


def _is_table(text: bytes) -> bool:
    """Whether a text has many short lines, like a vocabulary and unlike a message."""
    return len(text) > HEAD // 2 and text.count(b"\n") >= _LINES and b"\0" not in text and not text.startswith(b"<")


def check_pointer(path: str, head: bytes) -> ModelfetchError | None:
    """Return the error for a file that stands for another one."""
    kind = next((kind for start, kind in _POINTERS.items() if head.removeprefix(_BOM).startswith(start)), None)
    if kind is None:
        return None
    return NotAModelError(
        f"{path}: a {kind} pointer came instead of the file",
        hint="use the address that serves the file itself (on Hugging Face …/resolve/…, on GitHub the media address)",
    )


# ── the checks ──
def check_head(
    path: str,
    head: bytes,
    *,
    by_kind: bool = False,
    url: str = "",
    html_type: bool = False,
    allow_pickle: bool = False,
) -> ModelfetchError | None:
    """Check the first bytes of a file without a digest; returns what is wrong with them.

    Args:
        path: The file's name upstream.
        head: Its first bytes, at least `HEAD` of them or all.
        by_kind: Whether its entry's kind makes it model weights, whatever its name.
        url: The final URL that they came from.
        html_type: Whether the response was declared as ``text/html``.
        allow_pickle: Whether the manifest allows a pickle.
    """
    suffix = _suffix(path)
    if (error := check_pointer(path, head)) is not None:
        return error
    if not allow_pickle and may_hide_pickle(path) and starts_as_pickle(head):
        return pickle_error(f"{path} is a pickle")
    if not is_weights(path, by_kind=by_kind):
        if suffix in _PACKED and not head.startswith(_PACKED[suffix]):
            return check_replacement(path, head, url) or _wrong_start_error(path, suffix, head)
        if suffix in (".html", ".htm", ".xhtml", ".xml", ".svg") or not (html_type and looks_like_html(head)):
            return None
        return page_error(path, url, what="a web page")
    if (error := check_replacement(path, head, url)) is not None:
        return error
    starts = _is_image if suffix in IMAGE_SUFFIXES else _STARTS.get(suffix)
    if starts is None and not any(start(head) for start in _ANY_MODEL):
        return NotAModelError(f"{path} does not begin like any model format that modelfetch knows ({head[:8]!r})")
    if starts is not None and not starts(head):
        return _wrong_start_error(path, suffix, head)
    return None


def _wrong_start_error(path: str, suffix: str, head: bytes) -> NotAModelError:
    return NotAModelError(f"{path} does not begin as a {suffix[1:]} file does: found {head[:8]!r}")


def check_whole(path: str, size: int, read_at: ReadAt, *, by_kind: bool = False) -> ModelfetchError | None:
    """Check a whole file without a digest, by its header; returns what is wrong with it.

    Args:
        path: The file's name upstream.
        size: Its size in bytes.
        read_at: Reads from it.
        by_kind: Whether its entry's kind makes it model weights, whatever its name.
    """
    if not is_weights(path, by_kind=by_kind):
        return None
    suffix, head = _suffix(path), read_at(0, HEAD)
    if size < _MIN_SIZE and not (starts_as_pickle(head) and head.endswith(_STOP)):
        return NotAModelError(f"{path} is not a model: it has {size} bytes" if size else f"{path}: the file is empty")
    window = HeaderWindow(size, read_at)
    try:
        if is_safetensors_name(path) or (suffix not in _STARTS and _is_safetensors(head)):
            check_safetensors(window)
        elif suffix == ".gguf" or (suffix not in _STARTS and _is_gguf(head)):
            read_gguf(window)
    except NotAModelError as error:
        return NotAModelError(f"{path}: {error.message}", hint=error.hint)
    return None


def may_hide_pickle(path: str) -> bool:
    """Whether a file may be a pickle under a name that is not a pickle's."""
    return not is_pickle_name(path) and _suffix(path) not in _NEVER_PICKLED


def check_pickle(path: str, size: int, read_at: ReadAt) -> ModelfetchError | None:
    """Check a whole file for a pickle that the manifest does not allow; returns the error for one."""
    if not (is_pickle_name(path) or may_hide_pickle(path)):
        return None
    if (found := find_pickle(size, read_at)) is not None:
        return pickle_error(f"{path} {found}")
    if is_weights(path) and is_compressed_archive(read_at):
        return pickle_error(f"{path} is a compressed archive, which may hold a pickle")
    return None


def check_zip(path: str, size: int, read_at: ReadAt, *, by_kind: bool = False) -> ModelfetchError | None:
    """Check a whole file, whose name is that of torch's files or of no format, for a zip that is not a model."""
    suffix = _suffix(path)
    named = suffix in _TORCH or (suffix not in _STARTS and is_weights(path, by_kind=by_kind))
    if not named or not is_zip(read_at(0, HEAD)) or is_model_zip(size, read_at):
        return None
    return NotAModelError(
        f"{path} is a zip archive that holds no model: neither torch nor NumPy wrote it",
        hint="if its bytes are right, pin its digest (`fetch`: --digest); `unpack: zip` unpacks an archive of files",
    )


def check_compressed(path: str, read_at: ReadAt) -> ModelfetchError | None:
    """Check a whole file, whose format has no signature, for a compressed copy of it."""
    signatures = {signature for known in _PACKED.values() for signature in known}
    if _STARTS.get(_suffix(path)) is not _is_no_document or not read_at(0, HEAD).startswith(tuple(signatures)):
        return None
    if not start_of_compressed(read_at):
        return None  # two bytes may be equal by chance
    return NotAModelError(
        f"{path} is compressed, which its name does not show",
        hint="the server may have stored a compressed copy; if its bytes are right, pin its digest (`fetch`: --digest)",
    )


# ── artifacts ──
def digest_decides(artifact: Artifact) -> bool:
    """Whether a digest decides what an artifact is.

    The git sha1 of weights does not: what a hub keeps in git instead of in LFS may be the pointer to the file.
    """
    digest = artifact.digest
    return digest is not None and (
        digest.algorithm != "git-sha1" or not is_weights(artifact.path, by_kind=artifact.weights)
    )


def may_be_hidden_pickle(artifact: Artifact) -> bool:
    """Whether an artifact may be a pickle that the manifest does not allow, even if a source gives its digest."""
    return not artifact.allow_pickle and may_hide_pickle(artifact.path)


def check_artifact_head(
    artifact: Artifact, head: bytes, *, url: str = "", html_type: bool = False
) -> ModelfetchError | None:
    """Apply `check_head` to an artifact; if a digest decides, check only whether the manifest allows what it is."""
    if digest_decides(artifact):
        hidden = may_be_hidden_pickle(artifact) and starts_as_pickle(head)
        return pickle_error(f"{artifact.path} is a pickle") if hidden else None
    return check_head(
        artifact.path,
        head,
        by_kind=artifact.weights,
        url=url,
        html_type=html_type,
        allow_pickle=artifact.allow_pickle,
    )


def check_artifact(
    artifact: Artifact, size: int, read_at: ReadAt, *, name: str | None = None
) -> ModelfetchError | None:
    """Check the whole file of an artifact without a digest, under its own or another name."""
    path = name or artifact.path
    error = check_head(
        path, read_at(0, HEAD), by_kind=artifact.weights, allow_pickle=artifact.allow_pickle
    ) or check_whole(path, size, read_at, by_kind=artifact.weights)
    if error is None and not artifact.allow_pickle:
        error = check_pickle(path, size, read_at) or check_compressed(path, read_at)
    if error is None:
        error = check_zip(path, size, read_at, by_kind=artifact.weights)
    return error.about(uri=artifact.uri) if error is not None else None
