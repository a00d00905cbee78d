"""Forms that people paste where a URI is expected: pages of hubs, download links, commands. Pure.

An unambiguous form is converted to the URI that a manifest would name. An ambiguous one raises `AmbiguousPasteError`
with the line to write. Everything else is returned unchanged, for `modelfetch.manifest.uri`.

Sources: the address bars and copy buttons of huggingface.co, civitai.com, ollama.com and github.com; CivitAI's
developer documentation for ``/api/download/models``; Ollama's for ``hf.co/NS/REPO:QUANT``.
"""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from modelfetch.core.digest import is_commit
from modelfetch.core.urls import display_url

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HF_HOSTS = frozenset({"huggingface.co", "hf.co"})
CIVITAI_HOSTS = frozenset({"civitai.com", "civitai.red", "civitai.green"})
OLLAMA_HOSTS = frozenset({"ollama.com", "ollama.ai"})
CIVITAI_DOWNLOAD = "/api/download/models/"
CIVITAI_CHOICES = ("type", "format", "size", "fp")
"""The query fields by which a CivitAI download link chooses among the files of a version."""

_SITES = (*sorted(HF_HOSTS | CIVITAI_HOSTS | OLLAMA_HOSTS), "registry.ollama.ai", "github.com")
_SITE = re.compile(rf"(?:https?://)?(?:www\.)?(?:{'|'.join(map(re.escape, _SITES))})\.?(?=[/?#:]|\Z)", re.IGNORECASE)
_BARE = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_-]*/)?(?P<model>[A-Za-z0-9_][A-Za-z0-9_.-]*):(?P<tag>[A-Za-z0-9_.-]+)\Z")
_NOT_MODELS = frozenset(
    {"http", "https", "hf", "ollama", "civitai", "oci", "file", "urn", "ftp", "s3", "gs", "ssh", "git", "data"}
    | {"mailto", "javascript", "docker", "localhost"}
)
_HF_PAGES = frozenset(
    {"api", "blog", "chat", "collections", "docs", "enterprise", "join", "learn", "login", "models", "new"}
    | {"organizations", "papers", "posts", "pricing", "search", "settings", "tasks", "v2"}
)
_HF_FILE_PAGES = ("blob", "resolve", "raw", "blame", "edit", "commits")
"""What a hub's pages of one file are called in their addresses; ``commits`` has one for the whole repo too."""
_COMMANDS = {
    ("ollama", "run"): "ollama",
    ("ollama", "pull"): "ollama",
    ("hf", "download"): "hf",
    ("huggingface-cli", "download"): "hf",
}
_SERVES_FILES = frozenset({"api", "download", "public", "v2"})
"""The folders of the sites that are no pages."""
_ON_OTHER_PAGES = {
    "hf": "choose a model there and copy its address, or write hf://NS/REPO/FILE",
    "civitai": "choose a version of a model there and copy its address, or write civitai://VERSION_ID",
    **dict.fromkeys(("ollama", "registry"), "choose a model there and copy its address, or write ollama://NAME:TAG"),
    "github": "copy the link of a file there, or write https://github.com/OWNER/REPO/releases/download/TAG/FILE",
}
_NUMBER = re.compile(r"[0-9]{1,12}\Z")
_SHORT_AIR = re.compile(r"civitai:(?://)? ?[0-9]{1,12} ?@ ?([0-9]{1,12})\Z", re.IGNORECASE)
"""An AIR as CivitAI's model pages show it, ``civitai: 12345 @ 67890``."""
_BARE_NAME = re.compile(r"(?:[A-Za-z0-9][\w-]*/)?[A-Za-z0-9][\w.-]*(?::[\w.-]+)?\Z", re.ASCII)
_BARE_ADDRESS = re.compile(r"[\w-]+(?:\.[\w-]+)*\.[a-z]+(?::[0-9]+)?/[^\s?#@]+\Z", re.ASCII | re.IGNORECASE)
_FILE_NAME = re.compile(r"\.[A-Za-z][A-Za-z0-9]*\Z")
_QUOTES = (('"', '"'), ("'", "'"), ("`", "`"), ("<", ">"))
_HF_VALUES = ("--local-dir", "--local-dir-use-symlinks", "--cache-dir", "--token", "--max-workers")
_HF_FLAGS = ("--quiet", "--force-download", "--resume-download")
"""Options of ``hf download``, with and without a value, that don't change which files it takes."""


class AmbiguousPasteError(ValueError):
    """A pasted form is ambiguous.

    Attributes:
        problem: What was expected, and what was found.
        advice: The line to write instead.
    """

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(f"{problem}: {advice}")
        self.problem = problem
        self.advice = advice


def from_paste(text: str, *, ollama: bool = False) -> str:
    """Return the URI that a pasted text means, or the text itself if it is not a known form.

    Args:
        text: What was pasted.
        ollama: Whether only a model of Ollama can be meant, so that a bare name is one.

    Raises:
        AmbiguousPasteError: The form is ambiguous.
    """
    text = _unquoted(text.strip(" \t\r\n"))
    words = _words(text)
    for at, pair in enumerate(pairwise(words), start=2):  # `sudo` or `docker exec` may come before it
        if command := _COMMANDS.get(pair):
            return _from_command(command, words[at:])
    if len(links := [word for word in words[1:] if "://" in word]) == 1 and "://" not in words[0]:
        line = f"write {display_url(from_paste(links[0]))}"
        raise AmbiguousPasteError("expected a URI, found a command with a link in it", line)
    if _SITE.match(text):
        return _from_site(text, ollama=ollama)
    if air := _SHORT_AIR.match(text):
        return f"civitai://{air[1]}"
    if text[:4].lower() == "air:":
        return f"urn:{text}"
    if "://" not in text and (ollama or _is_bare_model(text)):
        return f"ollama://{text}"
    return text


def suggest_uri(text: str) -> str | None:
    """Return how a text that is not a URI may be written as one; None if it does not resemble one."""
    if text.startswith("/") and not text.startswith("//"):
        return f"a local file is written file://{quote(text)}"
    if _BARE_ADDRESS.match(text):
        return f"a file on a web server is written https://{text}; an artifact of a container registry: oci://{text}"
    if not _BARE_NAME.match(text) or _FILE_NAME.search(text):
        return None
    hub = f"; a repo of the hub: hf://{text}" if "/" in text else ""
    return f"a model of Ollama's library is written ollama://{text}{hub}"


def link_to_hf(path: str, query: str) -> str | None:
    """Return the ``hf://`` URI of a page or file of a hub, by the path below its endpoint; None if it has none.

    Raises:
        AmbiguousPasteError: The page shows a folder or something else that is not one model.
        ValueError: It shows a data set or a space.
    """
    parts = [part for part in path.split("/") if part]
    if parts[:1] in (["datasets"], ["spaces"]) and len(parts) > 1:
        raise ValueError(f"expected a model of the hub, found one of its {parts[0]}: hf:// is for models only")
    if len(parts) < 2 or parts[0] in _HF_PAGES:
        return None
    repo, rest = f"{parts[0]}/{parts[1].removesuffix('.git')}", parts[2:]
    shown = quote(dict(parse_qsl(query)).get("show_file_info", ""))
    if not rest:
        return f"hf://{repo}/{shown}" if shown else f"hf://{repo}"
    verb = rest[0]
    revision, file = _split_revision(rest[1:])
    at = "" if revision in ("", "main") else f"@{revision}"
    if verb in _HF_FILE_PAGES and file:
        return f"hf://{repo}{at}/{file}"
    if verb == "tree" and shown:
        return f"hf://{repo}{at}/{shown}"
    if verb == "tree" and file:
        folder = unquote(file)
        raise AmbiguousPasteError(
            "expected one file or a whole repo, found a folder",
            f"write hf://{repo}{at}/{file}/FILE for one file, or in a manifest source: hf://{repo}{at}, "
            f'kind: snapshot, include: ["{folder}/*"] for all of it',
        )
    if verb == "tree" or (verb in ("commit", "commits") and is_commit(revision)):
        return f"hf://{repo}{at}"
    if parts[1] in _HF_FILE_PAGES and len(rest) > 1:
        raise AmbiguousPasteError(
            "expected NS/REPO of the hub, found a repo without its namespace",
            f"write hf://NS/{parts[0]}/{'/'.join(rest[1:])}, with the NS that the hub's page shows",
        )
    raise AmbiguousPasteError(
        "expected a file or a repo of the hub, found another of its pages",
        f"write hf://{repo} or hf://{repo}/FILE",
    )


def link_to_civitai(path: str, query: str) -> str | None:
    """Return the ``civitai://`` URI of a page or download link, by the path below the endpoint; None if it has none.

    Raises:
        AmbiguousPasteError: The page is of a model, which has several versions.
    """
    parts = [part for part in path.split("/") if part]
    fields = _fields(query)
    match parts:
        case ["api", "download", "models", version, *_] if _NUMBER.match(version):
            return _civitai(version, fields)
        case ["api", "v1", "model-versions", version] | ["model-versions", version] if _NUMBER.match(version):
            return _civitai(version, {})
        case ["api", "v1", "models", model, *_] | ["models", model, *_] if _NUMBER.match(model):
            if _NUMBER.match(version := fields.get("modelversionid", "")):
                return _civitai(version, fields)
            raise AmbiguousPasteError(
                f"expected one version of CivitAI's model {model}, found the page of all its versions",
                "choose one there and copy the address with its modelVersionId=N, or write civitai://N",
            )
    return None


def _fields(query: str) -> dict[str, str]:
    """The fields of a query, with names in lower case, also where it was copied from the source of a page."""
    return {name.removeprefix("amp;").lower(): value for name, value in parse_qsl(query)}


def _civitai(version: str, fields: dict[str, str]) -> str:
    """Keep only the fields that choose a file."""
    chosen = {"fileId": fields["fileid"]} if _NUMBER.match(fields.get("fileid", "")) else {}
    if not chosen:
        chosen = {name: fields[name] for name in CIVITAI_CHOICES if fields.get(name)}
    return f"civitai://{version}" + (f"?{urlencode(chosen)}" if chosen else "")


def _unquoted(text: str) -> str:
    """The text without the quotes around it: ``docker run --env-file`` hands them on, and mails put ``<`` there."""
    quoted = len(text) > 2 and (text[0], text[-1]) in _QUOTES and text[0] not in text[1:-1]
    return text[1:-1].strip() if quoted else text


def _words(text: str) -> list[str]:
    """The words of a command line; empty if the text is not one."""
    if " " not in text or len(text) > 4096:
        return []
    try:
        words = shlex.split(text.removeprefix("$ "))
    except ValueError:
        return []
    return words if len(words) > 1 else []


def _from_command(kind: str, words: Sequence[str]) -> str:
    if kind == "ollama":
        names = [word for word in words if not word.startswith("-")]
        # A prompt may follow the name, but options with values may come before it.
        if names and (len(names) == 1 or not words[0].startswith("-")):
            return f"ollama://{re.sub('^https?://', '', names[0])}"
        raise _found_command("ollama://NAME[:TAG]")
    repo, files, chosen = _hf_download(words)
    if len(files) < 2 and not chosen:
        return "/".join((repo, *files))
    uris = [f"{repo}/{file}" for file in files[:9]]
    raise _found_command(f"{repo} or {repo}/FILE" if chosen or not uris else " and ".join(uris))


def _hf_download(words: Sequence[str]) -> tuple[str, list[str], bool]:
    """The repo's URI and the files that ``hf download`` is given, and whether other options choose what it takes."""
    names, revision, chosen = [], "", False
    rest = iter(words)
    for word in rest:
        if word == "--revision":
            revision = f"@{quote(next(rest, ''), safe='')}"
        elif word in _HF_VALUES:
            next(rest, None)
        elif word.startswith("-"):
            chosen = chosen or word not in _HF_FLAGS
        else:
            names.append(quote(word))
    return f"hf://{names[0] if names else 'NS/REPO'}{revision}", names[1:], chosen or not names


def _found_command(line: str) -> AmbiguousPasteError:
    """An error without the command, which may contain a token."""
    return AmbiguousPasteError("expected a URI, found a command with more than a name", f"write {line}")


def _is_bare_model(text: str) -> bool:
    """Whether a text without a scheme can only be a model of Ollama, ``[NS/]MODEL:TAG``.

    A tag of digits alone might be a port.
    """
    found = _BARE.match(text)
    return found is not None and found["model"].lower() not in _NOT_MODELS and not found["tag"].isdigit()


def _from_site(text: str, *, ollama: bool) -> str:
    url = text if "://" in text else f"https://{text}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return text
    host = (parts.hostname or "").removeprefix("www.").removesuffix(".")
    if port not in (None, 443, 80) or "@" in parts.netloc:
        return text
    if host in HF_HOSTS and (name := _ollama_of_hf(parts.path, text, ollama=ollama)):
        return f"ollama://{host}/{name}"
    site = _site_of(host)
    converted = _READERS[site](parts.path, parts.query)
    if host in CIVITAI_HOSTS and converted:
        converted = _civitai_link(converted, host, token_in(parts.query))
    if converted is None and _is_page(site, parts.path):
        raise AmbiguousPasteError(f"expected one model, found another page of {host}", _ON_OTHER_PAGES[site])
    return converted or url


def _is_page(site: str, path: str) -> bool:
    """Whether a path of a site that is no model's leads to a page, not to a file."""
    parts = [part for part in path.split("/") if part]
    if site == "github":
        return len(parts) < 2
    return not parts or (parts[0] not in _SERVES_FILES and not _FILE_NAME.search(parts[-1]))


def token_in(query: str) -> str | None:
    """Return the token in the query of a CivitAI link."""
    return _fields(query).get("token")


def _civitai_link(uri: str, host: str, token: str | None) -> str:
    """Return the URI, or a download link if that contains more than the URI: the second domain, or a token.

    The second domain has what the first one does not serve.
    """
    if host != "civitai.red" and token is None:
        return uri
    site = host if host == "civitai.red" else "civitai.com"
    link = f"https://{site}{CIVITAI_DOWNLOAD}{uri.removeprefix('civitai://')}"
    return link if token is None else f"{link}{'&' if '?' in link else '?'}{urlencode({'token': token})}"


def _ollama_of_hf(path: str, text: str, *, ollama: bool) -> str | None:
    """``NS/REPO[:QUANT]``, as Ollama names a repo of the hub."""
    parts = [part for part in path.split("/") if part]
    if len(parts) == 2 and parts[0] not in _HF_PAGES and (":" in parts[1] or (ollama and "://" not in text)):
        return "/".join(parts)
    return None


def _split_revision(parts: list[str]) -> tuple[str, str]:
    """A revision and what follows it, both still quoted."""
    if parts[:2] == ["refs", "pr"] and len(parts) > 2:
        return "/".join(parts[:3]), "/".join(parts[3:])
    return (parts[0], "/".join(parts[1:])) if parts else ("", "")


def _link_to_ollama(path: str, _query: str) -> str | None:
    match [part for part in path.split("/") if part]:
        case [("library" | "models"), name]:
            return f"ollama://{name}"
        case [("search" | "blog" | "download" | "docs" | "public" | "api"), *_]:
            return None
        case [namespace, name]:
            return f"ollama://{namespace}/{name}"
        case [namespace, name, *_]:
            name = name if namespace == "library" else f"{namespace}/{name}"
            line = f"ollama://{name}" if ":" in name else f"ollama://{name}:TAG, or ollama://{name} for the tag latest"
            raise AmbiguousPasteError(f"expected one tag of {name}, found another of its pages", f"write {line}")
    return None


def _link_to_registry(path: str, _query: str) -> str | None:
    match [part for part in path.split("/") if part]:
        case ["v2", namespace, name, "manifests", tag]:
            return f"ollama://{'' if namespace == 'library' else namespace + '/'}{name}:{tag}"
        case [namespace, name] if namespace != "v2":
            return f"ollama://{'' if namespace == 'library' else namespace + '/'}{name}"
    return None


def _link_to_github(path: str, _query: str) -> str | None:
    parts = [part for part in path.split("/") if part]
    match parts:
        case [owner, repo, ("blob" | "raw"), reference, *file] if file:
            return f"https://github.com/{owner}/{repo}/raw/{reference}/{'/'.join(file)}"
        case [_, _, "files", _, _] | ["user-attachments", "files", _, _]:  # attached to a discussion
            return None
        case [_, _, "releases", "download", _, _] | [_, _, "archive", *_] | [_, _, "releases", "latest", "download", _]:
            return None
        case [owner, repo, *page]:
            line = f"https://github.com/{owner}/{repo.removesuffix('.git')}/{_github_file(page)}"
            raise AmbiguousPasteError("expected the link of one file, found another page of GitHub", f"write {line}")
    return None


def _github_file(page: list[str]) -> str:
    """Where the files that a page of a repository shows are downloaded from."""
    match page:
        case ["releases", "tag", tag]:
            return f"releases/download/{tag}/FILE"
        case ["releases", "latest"]:
            return "releases/latest/download/FILE"
        case ["tree", reference, *folder]:
            return "/".join(("raw", reference, *folder, "FILE"))
    return "releases/download/TAG/FILE for an asset of a release, or …/raw/REF/PATH for a file"


def _site_of(host: str) -> str:
    for site, hosts in (("hf", HF_HOSTS), ("civitai", CIVITAI_HOSTS), ("ollama", OLLAMA_HOSTS)):
        if host in hosts:
            return site
    return "registry" if host == "registry.ollama.ai" else "github"


_READERS: dict[str, Callable[[str, str], str | None]] = {
    "hf": link_to_hf,
    "civitai": link_to_civitai,
    "ollama": _link_to_ollama,
    "registry": _link_to_registry,
    "github": _link_to_github,
}
