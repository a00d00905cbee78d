"""Find models that need the same path below ROOT. Pure.

`claims_of` has the paths that a manifest alone determines; `find_clashes` also serves for the paths that are known once
sources are resolved.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from modelfetch.errors import Problem
from modelfetch.manifest.kinds import FOLDERS, HF_CACHES, REPO_KINDS, hf_repo_folder, repo_folder, upstream_name
from modelfetch.manifest.paths import collision_key, parents
from modelfetch.manifest.uri import HfUri, HttpUri, OllamaUri

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from modelfetch.manifest.model import Manifest, Model, Position


class Shape(StrEnum):
    """The shape of a claimed path.

    A ``FILE``; a ``FOLDER`` that archives are unpacked into; a ``TREE``, the folder of one repo, to which other
    files may be added; a ``CACHE``, the folder of one repo that nothing else may be in.
    """

    FILE = "file"
    FOLDER = "folder"
    TREE = "tree"
    CACHE = "cache"


@dataclass(frozen=True, slots=True, kw_only=True)
class PathClaim:
    """One path below ROOT that a model needs.

    Two claims of one path agree if they mean the same bytes: by ``digest`` if both have one, else by ``source``.
    That is allowed between manifests, and within one if both are ``shared`` (files of one repo). The ``digest`` of a
    ``TREE`` or ``CACHE`` is the commit, its ``source`` the repo.
    """

    path: str
    model: str
    manifest: str
    position: Position
    shape: Shape = Shape.FILE
    source: str
    digest: str | None = None
    shared: bool = False

    def agrees(self, other: PathClaim) -> bool:
        """Whether both mean the same content, as far as is known."""
        if self.digest is not None and other.digest is not None:
            return self.digest == other.digest
        return self.source == other.source

    def may_share(self, other: PathClaim) -> bool:
        """Whether both may use their path, given that it is the same one."""
        if self.shape is not other.shape:
            return False
        if self.shape is Shape.FOLDER:
            return True
        return self.agrees(other) and ((self.shared and other.shared) or self.manifest != other.manifest)


def claims_of(manifest: Manifest) -> tuple[PathClaim, ...]:
    """Return the paths that a manifest alone determines, in order."""
    return tuple(claim for model in manifest.models for claim in model_claims(model, manifest.file))


def model_claims(model: Model, manifest: str) -> Iterator[PathClaim]:
    """Yield the paths that one model of ``manifest`` determines before its source is resolved."""
    for consumer in model.consumers:
        if isinstance(model.source, OllamaUri):
            uri = model.source
            yield _file(model, manifest, f"ollama/models/manifests/{uri.host}/{uri.namespace}/{uri.model}/{uri.tag}")
        elif model.kind in REPO_KINDS and isinstance(model.source, HfUri):
            claims = _cache_claims if consumer in HF_CACHES else _tree_claims
            yield from claims(model, model.source, consumer, manifest)
        elif (path := _single_path(model, consumer)) is not None:
            claim = _file(model, manifest, path)
            yield claim if model.unpack is None else _claim(model, manifest, path, Shape.FOLDER)


def _single_path(model: Model, consumer: str) -> str | None:
    """Return the path of a single file; None if only its source knows the name."""
    if model.kind == "file":
        return f"{consumer}/{model.path}" if model.path is not None else None
    folder = FOLDERS.get((consumer, model.kind or ""))
    name = model.filename or upstream_name(model.source)
    if model.filename is None and isinstance(model.source, HttpUri) and "." not in (name or ""):
        return None  # …/download: its server may know a better name
    return f"{consumer}/{folder}/{name}" if folder is not None and name is not None else None


def _claim(model: Model, manifest: str, path: str, shape: Shape) -> PathClaim:
    source = str(model.source)
    return PathClaim(
        path=path, model=model.name, manifest=manifest, position=model.position, shape=shape, source=source
    )


def _file(model: Model, manifest: str, path: str) -> PathClaim:
    return replace(_claim(model, manifest, path, Shape.FILE), digest=str(model.digest) if model.digest else None)


def _repo_claim(model: Model, manifest: str, folder: str, shape: Shape, source: HfUri) -> PathClaim:
    """The folder of one repo; several models may share it if they mean the same commit."""
    return replace(_claim(model, manifest, folder, shape), source=source.repo, digest=source.commit, shared=True)


def _tree_claims(model: Model, source: HfUri, consumer: str, manifest: str) -> Iterator[PathClaim]:
    """A repository as a plain folder: models/diffusers/NAME."""
    folder = repo_folder(consumer, model)
    yield _repo_claim(model, manifest, folder, Shape.TREE, source)
    yield from _file_claims(model, manifest, folder, f"hf://{source.repo}@{source.revision or 'main'}")


def _cache_claims(model: Model, source: HfUri, consumer: str, manifest: str) -> Iterator[PathClaim]:
    """A snapshot in Hugging Face cache form: the repo's folder, and the files where the commit is known."""
    folder = hf_repo_folder(consumer, model.cache_as or source.repo)
    yield _repo_claim(model, manifest, folder, Shape.CACHE, source)
    if source.commit:
        yield from _file_claims(model, manifest, f"{folder}/snapshots/{source.commit}", source.commit)


def _file_claims(model: Model, manifest: str, folder: str, source: str) -> Iterator[PathClaim]:
    """The listed files of a repository in a folder; ``source`` is what their paths are relative to upstream."""
    for spec in model.files or ():
        yield PathClaim(
            path=f"{folder}/{spec.path}",
            model=model.name,
            manifest=manifest,
            position=model.position,
            source=f"{source}/{spec.path}",
            digest=str(spec.digest) if spec.digest else None,
            shared=True,
        )


def find_clashes(claims: Iterable[PathClaim]) -> tuple[Problem, ...]:
    """Return the claims that conflict with an earlier one.

    These are refused: one path twice; a path below what is a file for another model; paths that differ only by case or
    Unicode form (one file on some disks); a path inside another model's cache folder. Each problem is reported at the
    later model and names the earlier one; a pair of models once for each path.
    """
    taken = _Taken()
    problems: dict[tuple[str, Position, Position], Problem] = {}
    for claim in claims:
        found = taken.obstacle(claim)
        if found is None:
            taken.add(claim)
            continue
        first, why = found
        key = (claim.model, claim.position, first.position)
        at = claim.position
        where = first.position if first.position.file != at.file else f"line {first.position.line}"
        message = f"{claim.model}: expected an unused path, found {claim.path!r}, {why} ({first.model}, {where})"
        problems.setdefault(key, Problem(at.file, at.line, at.column, message))
    return tuple(problems.values())


@dataclass(slots=True)
class _Taken:
    """The paths taken so far by their collision key, and the folders above them."""

    claims: dict[str, PathClaim] = field(default_factory=dict)
    below: dict[str, list[PathClaim]] = field(default_factory=dict)

    def add(self, claim: PathClaim) -> None:
        key = collision_key(claim.path)
        known = self.claims.get(key)
        if known is None or (known.digest is None and claim.digest is not None):
            self.claims[key] = claim  # keep the more specific one, so that a third can't contradict it unnoticed
        for parent in parents(key):
            self.below.setdefault(parent, []).append(claim)

    def obstacle(self, claim: PathClaim) -> tuple[PathClaim, str] | None:
        """Return the claim that conflicts with this one, and why."""
        key = collision_key(claim.path)
        if (first := self.claims.get(key)) is not None and (why := _same_path(claim, first)):
            return first, why
        for parent in parents(key):
            above = self.claims.get(parent)
            if above is not None and (why := _inside(claim, above)):
                return above, why
        for inner in self.below.get(key, ()) if claim.shape in (Shape.FILE, Shape.CACHE) else ():
            if why := _inside(inner, claim):
                return inner, why
        return None


def _same_path(claim: PathClaim, first: PathClaim) -> str | None:
    if claim.path != first.path:
        if (claim.model, claim.position) == (first.model, first.position):
            return None  # a repo that holds both, where the disk does too
        return f"which differs from {first.path!r} only by case or Unicode form"
    if claim.may_share(first):
        return None
    if claim.shape is first.shape and claim.shape in (Shape.TREE, Shape.CACHE):
        both = claim.digest is not None and first.digest is not None
        return f"the folder of another {f'commit, {first.digest}' if both else f'repo, {first.source}'}"
    return "which is already taken"


def _inside(claim: PathClaim, above: PathClaim) -> str | None:
    if above.shape is Shape.FILE:
        return f"which needs {above.path!r} to be a folder, but that is a file"
    if above.shape is not Shape.CACHE or claim.shared:
        return None
    return f"inside the cache folder {above.path!r}"
