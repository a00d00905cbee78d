"""Check bytes that no digest verifies: whether they match the file's name, or the kind of its entry.

Pure: it gets bytes and returns what is wrong with them. `signatures` has what each format begins with.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from modelfetch.errors import CredentialsError, ModelfetchError, NotAModelError
from modelfetch.formats.archives import (
    decompressed_start,
    is_compressed_archive,
    is_tar,
    is_zip,
    list_names,
    start_of_compressed,
)
from modelfetch.formats.gguf import read_gguf
from modelfetch.formats.opcodes import PickleVerdict, read_pickle
from modelfetch.formats.pickles import find_pickle, is_pickle_name, pickle_error, starts_as_pickle
from modelfetch.formats.range_reader import HeaderWindow, ReadAt
from modelfetch.formats.safetensors import check_safetensors, is_safetensors_name
from modelfetch.formats.signatures import (
    HOLDS,
    IMAGE_SUFFIXES,
    PACKED,
    STARTS,
    UNLISTED,
    begins_as,
    begins_as_any_model,
    has_signature,
    is_gguf,
    is_other_media,
    is_safetensors,
    is_torch_archive,
    suffix_of,
)

if TYPE_CHECKING:
    from modelfetch.core.artifact import Artifact

HEAD = 512
"""Bytes from the start of a file that `check_head` needs."""

_LINES = 6
"""Least number of lines in the first bytes of a vocabulary."""
_LEAST_TEXT = 9
"""Least length of a text with zeros behind it; some weights begin with a word of eight letters."""
_WORD_VECTORS = re.compile(rb"\d+ \d+\n")
"""The first line of word2vec's binary form, whose first vector may be zero (source: word2vec, word2vec.c)."""
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
_COMPANION_SUFFIXES = frozenset({".json", ".yaml", ".yml", ".txt", ".md", ".jinja"})
"""Suffixes of files that accompany weights; they do not count as weights, whatever the kind of their entry."""
_NEVER_MARKUP = frozenset({".json", ".yaml", ".yml"})
"""Suffixes of files without weights that never begin as a web page does, whatever type a server declares."""
_NEVER_PICKLED = frozenset({".safetensors", ".sft", ".gguf", ".onnx", ".tflite", *_COMPANION_SUFFIXES})
"""Suffixes of files that no program loads as a pickle."""


def is_weights(path: str, *, by_kind: bool = False) -> bool:
    """Whether a file is model weights: by its name, or by its entry's kind (``by_kind``)."""
    suffix = suffix_of(path)
    return suffix in STARTS or (by_kind and suffix not in _COMPANION_SUFFIXES)


def has_known_suffix(name: str) -> bool:
    """Whether a name has the suffix of model weights, or of a file that accompanies them."""
    return is_weights(name) or suffix_of(name) in _COMPANION_SUFFIXES


def is_listed(name: str) -> bool:
    """Whether a name has the suffix of a format by which services find models."""
    return is_weights(name) and suffix_of(name) not in UNLISTED


def suffix_for(head: bytes) -> str | None:
    """Return the suffix that a weight file with these first bytes should have; None if they do not show it."""
    if is_safetensors(head):
        return ".safetensors"
    return ".gguf" if is_gguf(head) else None


# ── pages and messages in place of a file ──
def looks_like_html(head: bytes) -> bool:
    """Whether bytes begin as a web page does."""
    return _in_utf8(head).lstrip().lower().startswith(_HTML_STARTS)


def _in_utf8(head: bytes) -> bytes:
    """Return a text in UTF-8 without its byte order mark; other bytes as they are."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return head[: len(head) & ~1].decode("utf-16", "replace").encode()
    return head.removeprefix(_BOM)


def looks_like_json(head: bytes) -> bool:
    """Whether bytes begin as a JSON object or array does."""
    text = _in_utf8(head).lstrip()
    return text[:1] in (b"{", b"[") and all(byte >= 0x20 or byte in b"\t\r\n" for byte in text)


def looks_like_text(head: bytes) -> bool:
    """Whether bytes are text: UTF-16, or any encoding in which no byte is a control character, such as UTF-8 or GBK.

    Of 512 bytes of weights, many are control characters.
    """
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return re.search("[\x00-\x08\x0e-\x1f\ufffd]", head[: len(head) & ~1].decode("utf-16", "replace")) is None
    return bool(head) and (_NOT_TEXT.search(head) is None or _WIDE_TEXT.fullmatch(head[: len(head) & ~1]) is not None)


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
    head = _without_padding(head)
    if looks_like_html(head):
        return page_error(path, url, what="a web page")
    if looks_like_json(head):
        return page_error(path, url, what="a JSON message")
    packed = decompressed_start(head, lambda: head)[:HEAD]
    if looks_like_text(packed) and read_pickle(packed) is PickleVerdict.NO:
        return page_error(path, url, what="compressed text")
    text = head.removeprefix(_BOM).strip()
    is_pickle = read_pickle(head) is not PickleVerdict.NO and (is_pickle_name(path) or may_hide_pickle(path))
    is_tokenizer = suffix_of(path) == ".model" and _is_table(text)
    if not looks_like_text(head) or is_pickle or is_tokenizer:
        return None
    line = text.splitlines()[0][:60].decode("utf-8", "replace") if text else ""
    return page_error(path, url, what="an XML message" if text.startswith(b"<") else f"text ({line!r})")


def message_error(path: str, head: bytes, url: str, *, by_kind: bool = False) -> ModelfetchError | None:
    """The error for a page or a message of whose bytes it is known that they are not the file's."""
    if not is_weights(path, by_kind=by_kind):
        is_page = looks_like_html(head) or looks_like_html(decompressed_start(head, lambda: head))
        return page_error(path, url, what="a web page") if is_page else None
    if is_other_media(path, head):
        return page_error(path, url, what="an image")
    return check_replacement(path, head, url) if head else None


def _without_padding(head: bytes) -> bytes:
    """The text that zeros follow, as where a file was reserved in its full length; other bytes as they are."""
    text = head.rstrip(b"\0")
    return text if len(text) >= _LEAST_TEXT and looks_like_text(text) and not _WORD_VECTORS.match(text) else head


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
    suffix = suffix_of(path)
    if (error := check_pointer(path, head)) is not None:
        return error
    if not allow_pickle and may_hide_pickle(path) and starts_as_pickle(head):
        return pickle_error(f"{path} is a pickle")
    if not is_weights(path, by_kind=by_kind):
        if suffix in PACKED and not head.startswith(PACKED[suffix]):
            return check_replacement(path, head, url) or _wrong_start_error(path, suffix, head)
        is_page = (html_type or suffix in _NEVER_MARKUP) and looks_like_html(head)
        if suffix in (".html", ".htm", ".xhtml", ".xml", ".svg") or not is_page:
            return None
        return page_error(path, url, what="a web page")
    if (error := check_replacement(path, head, url)) is not None:
        return error
    if suffix not in STARTS and suffix not in IMAGE_SUFFIXES:
        if begins_as_any_model(head):
            return None
        return NotAModelError(f"{path} does not begin like any model format that modelfetch knows ({head[:8]!r})")
    return None if begins_as(suffix, head) else _wrong_start_error(path, suffix, head)


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
    suffix, head = suffix_of(path), read_at(0, HEAD)
    if size < _MIN_SIZE and not (starts_as_pickle(head) and head.endswith(_STOP)):
        return NotAModelError(f"{path} is not a model: it has {size} bytes" if size else f"{path}: the file is empty")
    window = HeaderWindow(size, read_at)
    try:
        if is_safetensors_name(path) or (suffix not in STARTS and is_safetensors(head)):
            check_safetensors(window)
        elif suffix == ".gguf" or (suffix not in STARTS and is_gguf(head)):
            read_gguf(window)
    except NotAModelError as error:
        return NotAModelError(f"{path}: {error.message}", hint=error.hint)
    return None


def may_hide_pickle(path: str) -> bool:
    """Whether a file may be a pickle under a name that is not a pickle's."""
    return not is_pickle_name(path) and suffix_of(path) not in _NEVER_PICKLED


def check_pickle(path: str, size: int, read_at: ReadAt) -> ModelfetchError | None:
    """Check a whole file for a pickle that the manifest does not allow; returns the error for one."""
    if not (is_pickle_name(path) or may_hide_pickle(path)):
        return None
    if (found := find_pickle(size, read_at)) is not None:
        return pickle_error(f"{path} {found}")
    if is_weights(path) and is_compressed_archive(read_at):
        return pickle_error(f"{path} is a compressed archive, which may hold a pickle")
    return None


def check_archive(path: str, size: int, read_at: ReadAt, *, by_kind: bool = False) -> ModelfetchError | None:
    """Check a whole file for a zip or tar that is not a model, by the names of its files."""
    suffix, head = suffix_of(path), read_at(0, HEAD)
    is_unnamed = suffix not in STARTS and is_weights(path, by_kind=by_kind)
    holds = is_torch_archive if is_unnamed else HOLDS.get(suffix)
    if holds is None or not (is_zip(head) or is_tar(head)):
        return None
    names = list_names(size, read_at)
    if names is None or holds(names):
        return None
    wrote = "neither torch nor NumPy wrote it" if holds is is_torch_archive else f"its files are not a {suffix[1:]}'s"
    return NotAModelError(
        f"{path} is {'a zip' if is_zip(head) else 'a tar'} archive that holds no model: {wrote}",
        hint="if its bytes are right, pin its digest (`fetch`: --digest); `unpack: zip` unpacks an archive of files",
    )


def check_compressed(path: str, read_at: ReadAt) -> ModelfetchError | None:
    """Check a whole file, whose format has no signature, for a compressed copy of it."""
    start = b"" if has_signature(suffix_of(path)) else start_of_compressed(read_at)
    if not start or read_pickle(start) is not PickleVerdict.NO:
        return None  # two bytes may be equal by chance, and a pickle is loaded as it is
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
        error = check_pickle(path, size, read_at)
    if error is None:
        error = check_compressed(path, read_at) or check_archive(path, size, read_at, by_kind=artifact.weights)
    return error.about(uri=artifact.uri) if error is not None else None
