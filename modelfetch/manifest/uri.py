"""URIs of sources and mirrors: text to frozen values, nothing resolved and nothing asked.

Grammar: docs/reference/manifest.md. Every parser raises ``ValueError`` with what was expected and what was found.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import unquote, urlsplit

from modelfetch.digests import Digest
from modelfetch.manifest.paths import check_relative

if TYPE_CHECKING:
    from collections.abc import Callable

OLLAMA_HOST = "registry.ollama.ai"
"""The host of an Ollama name that names none (source: ollama, types/model/name.go)."""

_HF_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?\Z")
_HF_PULL = re.compile(r"(refs/pr/\d+)(?:/|\Z)")
_HF_REVISION = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._/+-]{0,254}\Z")
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
# Part rules of Ollama names (source: ollama, types/model/name.go): the first character is alphanumeric or `_`; a
# namespace may hold `-_`, a model or tag also `.`, a host also `.` and `:`; a host has up to 350, others up to 80.
_OLLAMA_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,340}(?::\d{1,5})?\Z")
_OLLAMA_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}\Z")
_OLLAMA_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}\Z")
_AIR = re.compile(
    r"urn:air:([a-z0-9_-]+):([a-z0-9_-]+):civitai:(\d{1,12})@(\d{1,12})(?:\+(\d{1,12}))?\Z", re.IGNORECASE
)
# Names of OCI repositories and tags (source: opencontainers/distribution-spec, spec.md, "Pulling manifests").
_OCI_REPO = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*\Z")
_OCI_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_NETLOC = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class HfUri:
    """``hf://NS/REPO[@REV][/PATH]``: a file or a whole repo of the Hugging Face Hub."""

    scheme: ClassVar[str] = "hf"
    text: str
    repo: str
    revision: str | None
    path: str | None

    @property
    def commit(self) -> str | None:
        """The revision where it is a full commit, and so can't move."""
        return self.revision if self.revision and is_commit(self.revision) else None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaUri:
    """``ollama://[HOST[:PORT]/][NS/]MODEL[:TAG]``: a model of an Ollama registry."""

    scheme: ClassVar[str] = "ollama"
    text: str
    host: str
    namespace: str
    model: str
    tag: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class CivitaiUri:
    """``civitai://VERSION_ID[?fileId=N]`` or an AIR urn: a file of a CivitAI model version."""

    scheme: ClassVar[str] = "civitai"
    text: str
    version: int
    file: int | None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpUri:
    """``https://…``, or ``http://…`` where the host is allowed to be asked in the clear."""

    scheme: ClassVar[str] = "https"
    text: str
    url: str
    path: str

    @property
    def host(self) -> str:
        """The host in lower case, an IPv6 address without its brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port, the scheme's own where the URL names none."""
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class FileUri:
    """``file:///…``: a file of this machine."""

    scheme: ClassVar[str] = "file"
    text: str
    path: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class OciUri:
    """``oci://HOST/REPO[:TAG|@sha256:…]``: an artifact of an OCI registry."""

    scheme: ClassVar[str] = "oci"
    text: str
    host: str
    repo: str
    tag: str | None
    digest: Digest | None

    def __str__(self) -> str:
        return self.text


Uri = HfUri | OllamaUri | CivitaiUri | HttpUri | FileUri | OciUri


def parse_uri(text: str) -> Uri:
    """Read any URI that a manifest may name.

    Raises:
        ValueError: It is none; the message says what was expected and what was found.
    """
    if any(ord(c) < 0x21 or ord(c) == 0x7F for c in text):
        raise ValueError(f"expected a URI without spaces and control characters, found {text[:80]!r}")
    if text[:8].lower() == "urn:air:":
        return _parse_air(text)
    scheme, separator, rest = text.partition("://")
    parser = _PARSERS.get(scheme.lower()) if separator else None
    if parser is None:
        raise ValueError(
            f"expected a URI (hf:// ollama:// civitai:// https:// file:/// oci:// or urn:air:…), found {text[:80]!r}"
        )
    return parser(text, rest)


def _parse_hf(text: str, rest: str) -> HfUri:
    if "?" in rest or "#" in rest:
        raise ValueError(f"expected no ? or # in hf://NS/REPO[@REV][/PATH], found {text[:120]!r}")
    namespace, slash, rest = rest.partition("/")
    match = re.match(r"[^/@]+", rest)
    name = match[0] if match else ""
    rest = rest[len(name) :]
    if not slash or not _is_hf_part(namespace) or not _is_hf_part(name):
        raise ValueError(f"expected hf://NS/REPO[@REV][/PATH], found {text[:120]!r}")
    revision = None
    if rest.startswith("@"):
        revision, rest = _split_revision(rest[1:], text)
    path = None
    if rest not in ("", "/"):
        path = unquote(rest[1:])
        check_relative(path)
    return HfUri(text=text, repo=f"{namespace}/{name}", revision=revision, path=path)


def _is_hf_part(part: str) -> bool:
    return bool(_HF_PART.match(part)) and ".." not in part and "--" not in part and not part.endswith(".git")


def _split_revision(rest: str, text: str) -> tuple[str, str]:
    """Split ``REV/PATH``: a REV ends at the first slash, except that of ``refs/pr/N``."""
    pull = _HF_PULL.match(rest)
    raw = pull[1] if pull else rest.split("/", 1)[0]
    revision = unquote(raw)
    if not _HF_REVISION.match(revision) or ".." in revision or "//" in revision or revision.endswith(("/", ".lock")):
        raise ValueError(
            "expected a branch, tag, commit or refs/pr/N after @ (any other / in it as %2F), "
            f"found {raw[:80]!r} in {text[:120]!r}"
        )
    return revision, rest[len(raw) :]


def is_commit(revision: str) -> bool:
    """Whether a revision is a full commit: 40 lower-case hex digits, which can't move."""
    return bool(_COMMIT.match(revision))


def is_repo_id(text: str) -> bool:
    """Whether this is a repo id of the hub: ``NAME`` (the old canonical form) or ``NS/NAME``."""
    parts = text.split("/")
    return len(parts) in (1, 2) and all(map(_is_hf_part, parts))


def _parse_ollama(text: str, rest: str) -> OllamaUri:
    *front, last = rest.split("/")
    model, colon, tag = last.partition(":")
    host, namespace = OLLAMA_HOST, "library"
    if len(front) == 2:
        host, namespace = front
    elif len(front) == 1 and ("." in front[0] or ":" in front[0] or front[0] == "localhost"):
        host = front[0]
    elif len(front) == 1:
        namespace = front[0]
    tag = tag if colon else "latest"
    good = len(front) <= 2 and _OLLAMA_HOST.match(host) and _OLLAMA_NAMESPACE.match(namespace)
    if not (good and _OLLAMA_PART.match(model) and _OLLAMA_PART.match(tag)):
        raise ValueError(f"expected ollama://[HOST[:PORT]/][NS/]MODEL[:TAG], found {text[:120]!r}")
    for part in (host, namespace, model, tag):
        check_relative(part.replace(":", "_"))
    return OllamaUri(text=text, host=host, namespace=namespace, model=model, tag=tag)


def _parse_civitai(text: str, rest: str) -> CivitaiUri:
    match = re.match(r"(\d{1,12})(?:\?fileId=(\d{1,12}))?\Z", rest, re.ASCII)
    if not match:
        raise ValueError(f"expected civitai://VERSION_ID[?fileId=N], found {text[:120]!r}")
    return CivitaiUri(text=text, version=int(match[1]), file=int(match[2]) if match[2] else None)


def _parse_air(text: str) -> CivitaiUri:
    match = _AIR.match(text)
    if not match:
        raise ValueError(f"expected urn:air:ECOSYSTEM:TYPE:civitai:MODEL@VERSION[+FILE], found {text[:120]!r}")
    return CivitaiUri(text=text, version=int(match[4]), file=int(match[5]) if match[5] else None)


def _parse_http(text: str, rest: str) -> HttpUri:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(f"expected https://HOST[:PORT]/PATH, found {text[:120]!r}") from None
    if "@" in parts.netloc:
        raise ValueError("expected a URL without a user or password in it (put them into ~/.netrc)")
    if not parts.hostname or port == 0 or not _NETLOC.match(parts.netloc):
        raise ValueError(f"expected https://HOST[:PORT]/PATH, found {text[:120]!r}")
    url = text.partition("#")[0]
    return HttpUri(text=text, url=url, path=unquote(parts.path))


def _parse_file(text: str, rest: str) -> FileUri:
    path = unquote(rest.removeprefix("localhost"))
    if not path.startswith("/") or "\0" in path or path.endswith("/"):
        raise ValueError(f"expected file:///ABSOLUTE/PATH, found {text[:120]!r}")
    return FileUri(text=text, path=str(PurePosixPath(path)))


def _parse_oci(text: str, rest: str) -> OciUri:
    host, slash, rest = rest.partition("/")
    name, at, digest_text = rest.partition("@")
    repo, colon, tag = name.partition(":")
    digest = Digest.parse(digest_text) if at else None
    good = slash and _NETLOC.match(host) and _OCI_REPO.match(repo) and len(repo) <= 255
    if not good or (colon and not _OCI_TAG.match(tag)) or (digest and digest.algorithm != "sha256"):
        raise ValueError(f"expected oci://HOST/REPO[:TAG|@sha256:…], found {text[:120]!r}")
    return OciUri(text=text, host=host, repo=repo, tag=tag if colon else None, digest=digest)


_PARSERS: dict[str, Callable[[str, str], Uri]] = {
    "hf": _parse_hf,
    "ollama": _parse_ollama,
    "civitai": _parse_civitai,
    "https": _parse_http,
    "http": _parse_http,
    "file": _parse_file,
    "oci": _parse_oci,
}
