"""Rules between the keys of one model: which are allowed with which kind, source and consumer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfetch.formats.content_check import is_weights
from modelfetch.formats.pickles import PICKLE_SUFFIXES, is_pickle_name
from modelfetch.manifest.kinds import (
    FOLDERS,
    HF_CACHES,
    KINDS,
    ONLY_WITH,
    REPO_KINDS,
    REQUIRED_WITH,
    SELECTING,
    WEIGHT_KINDS,
    consumers_of,
    kinds_of,
    upstream_name,
)
from modelfetch.manifest.paths import collision_key, parents
from modelfetch.manifest.uri import FileUri, HfUri, HttpUri, OciUri, OllamaUri, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelfetch.manifest.composite_types import Values
    from modelfetch.manifest.model import Position
    from modelfetch.manifest.uri import Uri

Violation = tuple["Position", str]


def rule_violations(v: Values) -> Iterator[Violation]:
    """Yield the conflicts between the keys of one model; keys with an invalid value count as absent."""
    source = v.get("source")
    if source is None or ("kind" in v.keys and v.get("kind") is None):
        return
    if isinstance(source, OllamaUri):
        yield from _ollama(v)
        return
    kind = v.get("kind")
    if kind is None:
        yield v.position, f"expected a kind (one of {', '.join(KINDS)}), found none; only ollama:// sources have none"
        return
    yield from _consumers(v, kind)
    yield from _misplaced(v, kind, source)
    if "files" in v.keys and "include" in v.keys:
        yield v.at("include"), "expected files or include, found both"
    if kind in REPO_KINDS:
        yield from _repo(v, kind, source)
        yield from _twice(v)
    else:
        yield from _single(v, kind, source)
    yield from _pickles(v, source)
    yield from _empty(v, kind)


def _empty(v: Values, kind: str) -> Iterator[Violation]:
    """Weights with a size of 0 bytes."""
    if v.get("size") == 0 and kind in WEIGHT_KINDS:
        yield v.at("size"), f"expected 1 byte or more for kind {kind}, found 0"
    for entry, at in v.get("files", ()):
        if entry.get("size") == 0 and is_weights(entry.get("path", "")):
            yield at, f"expected 1 byte or more for {entry.get('path')[:80]!r}, found 0"


def _ollama(v: Values) -> Iterator[Violation]:
    if v.get("kind") is not None:
        yield v.at("kind"), f"expected no kind for an ollama:// source, found {v.get('kind')!r}"
    for consumer, at in v.get("for", ()):
        if consumer != "ollama":
            yield at, f"expected ollama, the only consumer of an ollama:// source, found {consumer!r}"
    for key in (*ONLY_WITH, "filename"):
        if key in v.keys:
            yield v.at(key), f"expected no {key} for an ollama:// source"
    for mirror, at in v.get("mirrors", ()):
        if not isinstance(mirror, OllamaUri | OciUri):
            yield at, f"expected an ollama:// or oci:// mirror of an ollama:// source, found {mirror.scheme}://"


def _consumers(v: Values, kind: str) -> Iterator[Violation]:
    for consumer, at in v.get("for", ()):
        if (consumer, kind) not in FOLDERS:
            takes = ", ".join((*(["ollama:// sources"] if consumer == "ollama" else []), *kinds_of(consumer)))
            fits = ", ".join(consumers_of(kind))
            yield at, f"expected a consumer of kind {kind} ({fits}), found {consumer} (it takes {takes})"


def _misplaced(v: Values, kind: str, source: Uri) -> Iterator[Violation]:
    for key, kinds in ONLY_WITH.items():
        if isinstance(source, OciUri) and key in SELECTING:
            continue  # they choose a file of the artifact, of whatever kind
        if key in v.keys and kind not in kinds:
            yield v.at(key), f"expected {key} only with kind {' or '.join(kinds)}, found it with kind {kind}"
    required = REQUIRED_WITH.get(kind)
    if required is not None and required not in v.keys:
        where = " (below the consumer's folder)" if required == "path" else ""
        yield v.position, f"expected a {required} for kind {kind}{where}, found none"


def _repo(v: Values, kind: str, source: Uri) -> Iterator[Violation]:
    if not isinstance(source, HfUri):
        yield v.at("source"), f"expected an hf:// source for kind {kind}, found {source.scheme}://"
    elif source.path is not None:
        found = f"found the path {source.path[:80]!r} (files or include choose some of it)"
        yield v.at("source"), f"expected a whole repo for kind {kind}, {found}"
    for mirror, at in v.get("mirrors", ()):
        if not isinstance(mirror, HfUri | OciUri) or (isinstance(mirror, HfUri) and mirror.path is not None):
            yield (
                at,
                f"expected a whole hf:// repo or oci:// artifact to mirror kind {kind}, found {shown(str(mirror))}",
            )
    for key in ("size", "digest"):
        if key in v.keys:
            yield v.at(key), f"expected no {key} for kind {kind}, but one for each of its files"
    caches = [consumer for consumer, _ in v.get("for", ()) if consumer in HF_CACHES]
    if "filename" in v.keys and caches:
        found = f"found it for {caches[0]}, which reads a Hugging Face cache (cache_as names a folder there)"
        yield v.at("filename"), f"expected no filename, {found}"


def _twice(v: Values) -> Iterator[Violation]:
    """Paths of one repository that exclude each other."""
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for entry, at in v.get("files", ()):
        path = entry.get("path")
        if path is None:
            continue
        key = collision_key(path)
        above = parents(key)
        if (first := seen.get(key)) is not None:
            why = "again" if first == path else f"next to {first[:80]!r}, which differs only by case"
            yield at, f"expected each path once, found {path[:80]!r} {why}"
        elif (other := folders.get(key) or next((seen[p] for p in above if p in seen), None)) is not None:
            yield at, f"expected a file or a folder, found {path[:80]!r} next to {other[:80]!r}"
        else:
            seen[key] = path
            folders.update(dict.fromkeys(above, path))


def _single(v: Values, kind: str, source: Uri) -> Iterator[Violation]:
    for uri, at in ((source, v.at("source")), *v.get("mirrors", ())):
        if isinstance(uri, OllamaUri):
            yield at, f"expected the URI of one file for kind {kind}, found ollama://"
        if isinstance(uri, HfUri) and uri.path is None:
            yield at, f"expected hf://NS/REPO[@REV]/PATH for kind {kind}, found no path in {shown(str(uri))}"
    if len(v.get("files", ())) > 1:
        yield v.at("files"), f"expected one file for kind {kind}, found {len(v.get('files'))}"
    if kind == "file":
        if "filename" in v.keys:
            yield v.at("filename"), "expected no filename for kind file, whose path names the file"
    elif "filename" not in v.keys and isinstance(source, FileUri) and upstream_name(source) is None:
        yield v.at("source"), f"expected a filename, or a source that ends in one, found {shown(str(source))}"


def _pickles(v: Values, source: Uri) -> Iterator[Violation]:
    needs = f"({' '.join(PICKLE_SUFFIXES)}) can run code when loaded: expected a digest or allow_pickle: true"
    found = _pickle_files(v) if v.get("kind") in REPO_KINDS else _pickle_names(v, source)
    for at, name in found if not v.get("allow_pickle") else ():
        yield at, f"{name[:80]!r} {needs}"


def _pickle_files(v: Values) -> Iterator[Violation]:
    """The pickles without a digest among the files of a repository, each with its position."""
    for entry, at in v.get("files", ()):
        if is_pickle_name(entry.get("path", "")) and "digest" not in entry.keys:
            yield at, entry.get("path")
    for pattern, at in v.get("include", ()):
        if is_pickle_name(pattern):
            yield at, pattern


def _pickle_names(v: Values, source: Uri) -> Iterator[Violation]:
    """Yield the first name of a single file without a digest that is a pickle's."""
    names = [("source", upstream_name(source)), ("filename", v.get("filename")), ("path", v.get("path"))]
    if isinstance(source, HfUri | HttpUri | FileUri):
        names.append(("source", source.path))
    pickles = [(v.at(key), name) for key, name in names if name is not None and is_pickle_name(name)]
    yield from pickles[:1] if "digest" not in v.keys else ()
