"""URIs of sources and mirrors as frozen values. Pure: nothing is resolved or requested here.

Grammar: docs/reference/manifest.md. Every parser raises ``ValueError`` with what was expected and what was found.

``text`` is a URI as it was written and may hold a secret in its query; ``str(uri)`` is what reports, receipts, events
and messages show, with such a secret replaced (`modelfetch.core.urls.display_url`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from modelfetch.core.digest import Digest, is_commit
from modelfetch.core.urls import display_url, without_secret_parameters
from modelfetch.manifest.paste import (
    CIVITAI_CHOICES,
    CIVITAI_DOWNLOAD,
    AmbiguousPasteError,
    from_paste,
    suggest_uri,
)
from modelfetch.manifest.paths import check_relative

if TYPE_CHECKING:
    from collections.abc import Callable

OLLAMA_HOST = "registry.ollama.ai"
"""The host of an Ollama name without one (source: ollama, types/model/name.go)."""

MAX_URI = 4096
"""Characters of the longest URI."""

# Names of repos (source: huggingface_hub, utils/_validators.py): up to 96 characters, no -- or .., no .git at the end.
_HF_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?\Z")
_HF_PULL = re.compile(r"(refs/pr/[0-9]+)(?:/|\Z)")
_HF_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,254}\Z")
_HF_OTHER = ("datasets", "spaces", "models")  # namespaces that the hub keeps for itself
# Part rules of Ollama names (source: ollama, types/model/name.go): the first character is alphanumeric or `_`; a
# namespace may hold `-_`, a model or tag also `.`, a host also `.` and `:`; a host has up to 350, others up to 80.
_OLLAMA_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,340}(?::[0-9]{1,5})?\Z")
_OLLAMA_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}\Z")
_OLLAMA_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}\Z")
_CIVITAI = re.compile(r"(0*[1-9][0-9]{0,11})(?:\?([^#]*))?\Z")
_CIVITAI_FILE = re.compile(r"0*[1-9][0-9]{0,11}\Z")
_CIVITAI_CHOICE = re.compile(r"[A-Za-z0-9_.+ -]{1,40}\Z")
_CIVITAI_LINK = re.compile(rf"https://(civitai\.com|civitai\.red){CIVITAI_DOWNLOAD}")
_AIR = re.compile(
    r"urn:air:[a-z0-9_-]+:[a-z0-9_-]+:civitai:[0-9]{1,12}@(0*[1-9][0-9]{0,11})(?:\+(0*[1-9][0-9]{0,11}))?\Z",
    re.IGNORECASE,
)
# Names of OCI repositories and tags (source: opencontainers/distribution-spec, spec.md, "Pulling manifests").
_OCI_REPO = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*\Z")
_OCI_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_NETLOC = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Uri:
    """What all URIs have."""

    scheme: ClassVar[str]
    text: str

    def __str__(self) -> str:
        return display_url(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class HfUri(_Uri):
    """``hf://NS/REPO[@REV][/PATH]``: a file or a whole repo of the Hugging Face Hub."""

    scheme: ClassVar[str] = "hf"
    repo: str
    revision: str | None
    path: str | None

    @property
    def commit(self) -> str | None:
        """The revision if it is a full commit, which can't move."""
        return self.revision if self.revision and is_commit(self.revision) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaUri(_Uri):
    """``ollama://[HOST[:PORT]/][NS/]MODEL[:TAG]``: a model of an Ollama registry."""

    scheme: ClassVar[str] = "ollama"
    host: str
    namespace: str
    model: str
    tag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CivitaiUri(_Uri):
    """``civitai://VERSION_ID[?fileId=N]`` or an AIR urn: a file of a CivitAI model version.

    ``choices`` are the fields by which a download link prefers one file of the version (``type``, ``format``, ``size``,
    ``fp``). ``host`` is CivitAI's second domain if the link names it. ``token`` is the one in the query of a pasted
    link; it is not part of ``text``.
    """

    scheme: ClassVar[str] = "civitai"
    version: int
    file: int | None
    choices: tuple[tuple[str, str], ...] = ()
    host: str | None = field(default=None, compare=False)
    token: str | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpUri(_Uri):
    """``https://…``, or ``http://…`` for a host for which plain http is allowed.

    ``path`` gives the file its name: it is decoded, and lacks parameters that may be secrets.
    """

    scheme: ClassVar[str] = "https"
    text: str = field(repr=False)
    url: str = field(repr=False)
    path: str

    @property
    def host(self) -> str:
        """The host in lower case, an IPv6 address without its brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port; the scheme's default if the URL names none."""
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileUri(_Uri):
    """``file:///…``: a file of this machine."""

    scheme: ClassVar[str] = "file"
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OciUri(_Uri):
    """``oci://HOST/REPO[:TAG|@sha256:…]``: an artifact of an OCI registry."""

    scheme: ClassVar[str] = "oci"
    host: str
    repo: str
    tag: str | None
    digest: Digest | None


Uri = HfUri | OllamaUri | CivitaiUri | HttpUri | FileUri | OciUri


def parse_uri(text: str) -> Uri:
    """Read any URI that a manifest may name, or a form of one that people paste.

    Raises:
        ValueError: It is not a URI; the message names what was expected and what was found, without credentials.
    """
    if len(text) > MAX_URI:
        raise ValueError(f"expected a URI of at most {MAX_URI} characters, found one of {len(text)}")
    text = from_paste(text)
    if "\\" in text or " " in text or not text.isprintable():  # no other space is printable
        raise ValueError(f"expected a URI without spaces, backslashes and control characters, found {shown(text)}")
    if text[:8].lower() == "urn:air:":
        return _parse_air(text)
    if link := _CIVITAI_LINK.match(text):
        return _parse_civitai(text, text[link.end() :], host=link[1])
    scheme, separator, rest = text.partition("://")
    parser = _PARSERS.get(scheme.lower()) if separator else None
    if parser is None:
        schemes = "hf:// ollama:// civitai:// https:// file:/// oci:// or urn:air:…"
        problem = f"expected a URI ({schemes}), found {shown(text)}"
        raise AmbiguousPasteError(problem, advice) if (advice := suggest_uri(text)) else ValueError(problem)
    return parser(text, rest)


_USER = re.compile(r"(?<=/)[^/?#:@]*:(?!\d{1,5}(?:/|\Z))[^?#]*@|(?:(?<=//)|(?<=:/))[^/?#]*@")
"""User and password of an address, also of one that was mistyped, or whose password has a slash."""


def shown(text: str) -> str:
    """A URI as a message shows it: quoted, shortened, without user, password, secret parameters, query and fragment."""
    bare = _USER.sub("", text)
    path = re.split(r"[?#]", bare, maxsplit=1)[0]
    mark = bare[len(path) : len(path) + 1]
    path = without_secret_parameters(path)
    if mark:
        return repr(path[:120] + mark + "…")
    return repr(path if len(path) <= 120 else path[:119] + "…")


def _unquote(text: str, whole: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(f"expected UTF-8 behind each % in it, found {shown(whole)}") from None


def _parse_hf(text: str, rest: str) -> HfUri:
    if "?" in rest or "#" in rest:
        raise ValueError(f"expected no ? or # in hf://NS/REPO[@REV][/PATH], found {shown(text)}")
    namespace, slash, rest = rest.partition("/")
    if namespace in _HF_OTHER:
        raise ValueError(f"expected hf://NS/REPO[@REV][/PATH] of a model, found {shown(text)}")
    name = re.split(r"[/@]", rest, maxsplit=1)[0]
    rest = rest[len(name) :]
    if not slash or not _is_hf_part(namespace) or not _is_hf_part(name):
        raise ValueError(f"expected hf://NS/REPO[@REV][/PATH], found {shown(text)}")
    revision = None
    if rest.startswith("@"):
        revision, rest = _split_revision(rest[1:], text)
    path = check_relative(_unquote(rest[1:], text)) if rest not in ("", "/") else None
    return HfUri(text=text, repo=f"{namespace}/{name}", revision=revision, path=path)


def _is_hf_part(part: str) -> bool:
    return bool(_HF_PART.match(part)) and ".." not in part and "--" not in part and not part.endswith(".git")


def _split_revision(rest: str, text: str) -> tuple[str, str]:
    """Split ``REV/PATH``: a REV ends at the first slash, except that of ``refs/pr/N``.

    A revision names a file below a cache's ``refs``, so it is a path that can be trusted.
    """
    pull = _HF_PULL.match(rest)
    raw = pull[1] if pull else rest.split("/", 1)[0]
    revision = _unquote(raw, text)
    try:
        good = _HF_REVISION.match(check_relative(revision)) and ".." not in revision
    except ValueError:
        good = None
    if not good:
        expected = "expected a branch, tag, commit or refs/pr/N after @ (any other / in it as %2F)"
        raise ValueError(f"{expected}, found {raw[:80]!r} in {shown(text)}")
    if is_commit(revision.lower()):
        revision = revision.lower()
    return revision, rest[len(raw) :]


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
    elif len(front) == 1 and ("." in front[0] or ":" in front[0] or front[0].lower() == "localhost"):
        host = front[0]
    elif len(front) == 1:
        namespace = front[0]
    tag = tag if colon else "latest"
    good = len(front) <= 2 and _OLLAMA_HOST.match(host) and _OLLAMA_NAMESPACE.match(namespace) and _is_port(host)
    if not (good and _OLLAMA_PART.match(model) and _OLLAMA_PART.match(tag)):
        raise ValueError(f"expected ollama://[HOST[:PORT]/][NS/]MODEL[:TAG], found {shown(text)}")
    check_relative(host.replace(":", "_"))
    return OllamaUri(text=text, host=host, namespace=namespace, model=model, tag=tag)


def _is_port(netloc: str) -> bool:
    """Whether the port of ``HOST[:PORT]``, if there is one, is valid."""
    port = re.search(r":([0-9]+)\Z", netloc)
    return port is None or 0 < int(port[1]) <= 65535


def _parse_civitai(text: str, rest: str, *, host: str | None = None) -> CivitaiUri:
    """Read ``VERSION_ID[?…]`` after ``civitai://``, or after the address of a download link (``host``)."""
    match = _CIVITAI.match(rest)
    fields = dict(parse_qsl(match[2] or "", keep_blank_values=True)) if match else {}
    token = fields.pop("token", None) if host is not None else None
    file = fields.pop("fileId", None)
    good = match and (file is None or _CIVITAI_FILE.match(file)) and (not match[2] or fields or file or token)
    if not match or not good or not all(k in CIVITAI_CHOICES and _CIVITAI_CHOICE.match(v) for k, v in fields.items()):
        raise ValueError(f"expected civitai://VERSION_ID[?fileId=N], found {shown(text)}")
    number = int(file) if file is not None else None
    choices = tuple((name, fields[name]) for name in CIVITAI_CHOICES if name in fields) if file is None else ()
    query = urlencode((("fileId", str(number)),) if number is not None else choices)
    second = host if host == "civitai.red" else None
    start = f"https://{second}{CIVITAI_DOWNLOAD}" if second else "civitai://"
    bare = f"{start}{match[1]}" + (f"?{query}" if query else "")
    written = text if host is None else bare
    return CivitaiUri(text=written, version=int(match[1]), file=number, choices=choices, host=second, token=token)


def _parse_air(text: str) -> CivitaiUri:
    match = _AIR.match(text)
    if not match:
        raise ValueError(f"expected urn:air:ECOSYSTEM:TYPE:civitai:MODEL@VERSION[+FILE], found {shown(text)}")
    return CivitaiUri(text=text, version=int(match[1]), file=int(match[2]) if match[2] else None)


def _parse_http(text: str, rest: str) -> HttpUri:
    netloc = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in netloc:
        raise ValueError(f"expected a URL without user and password (~/.netrc is for them), found {shown(text)}")
    if not _NETLOC.match(netloc) or not _is_port(netloc):
        raise ValueError(f"expected https://HOST[:PORT]/PATH, found {shown(text)}")
    url = f"{text.partition(':')[0].lower()}://{rest.partition('#')[0]}"
    try:
        path = without_secret_parameters(unquote(urlsplit(url).path))
    except ValueError:  # brackets that hold no IPv6 address
        raise ValueError(f"expected https://HOST[:PORT]/PATH, found {shown(text)}") from None
    return HttpUri(text=text, url=url, path=path)


def _parse_file(text: str, rest: str) -> FileUri:
    path = _unquote(rest.removeprefix("localhost"), text)
    if not path.startswith("/") or "\0" in path or path.endswith("/"):
        raise ValueError(f"expected file:///ABSOLUTE/PATH, found {shown(text)}")
    return FileUri(text=text, path=str(PurePosixPath(path)))


def _parse_oci(text: str, rest: str) -> OciUri:
    host, slash, rest = rest.partition("/")
    name, at, digest_text = rest.partition("@")
    repo, colon, tag = name.partition(":")
    good = slash and _NETLOC.match(host) and _is_port(host) and _OCI_REPO.match(repo) and len(repo) <= 255
    if not good or (colon and (at or not _OCI_TAG.match(tag))) or (at and not digest_text.startswith("sha256:")):
        raise ValueError(f"expected oci://HOST/REPO[:TAG|@sha256:…], found {shown(text)}")
    digest = Digest.parse(digest_text) if at else None
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
