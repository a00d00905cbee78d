"""The hub's content: repositories, registry models, versions, files, tokens. Tests may change it while the hub runs."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from modelfetch.demo.body import Body, as_body
from modelfetch.demo.registry_world import OllamaModel, build_manifest, model_key
from modelfetch.demo.repo import Gate, HfRepo

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

Content = bytes | str | Body

HubName = Literal["hf", "ollama", "civitai", "files"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A credential of one hub, with globs of the private names it may read and of the gated names it has access to."""

    private: tuple[str, ...] = ()
    gated: tuple[str, ...] = ()

    def may_read(self, name: str) -> bool:
        """Return whether this token may read a private name."""
        return any(fnmatchcase(name, glob) for glob in self.private)

    def has_accepted(self, name: str) -> bool:
        """Return whether the terms of a gated name were accepted and the token may use that."""
        return any(fnmatchcase(name, glob) for glob in self.gated)


@dataclass(slots=True, kw_only=True)
class PlainFile:
    """A file on an ordinary web server."""

    body: Body
    etag: str | None
    last_modified: str | None
    content_type: str
    disposition: str | None = None
    ranges: bool = True
    bearer: str | None = None
    basic: tuple[str, str] | None = None


@dataclass(slots=True, kw_only=True)
class CivitaiFile:
    """One file of a CivitAI version. ``scan`` is the result of both scans."""

    id: int
    name: str
    body: Body
    type: str = "Model"
    format: str = "SafeTensor"
    primary: bool = True
    scan: str = "Success"
    sha256: str | None = None


@dataclass(slots=True, kw_only=True)
class CivitaiVersion:
    """One CivitAI version. ``login`` selects the response to a download without a key."""

    id: int
    model_id: int
    name: str
    files: list[CivitaiFile]
    login: Literal["none", "json", "page", "forbidden"] = "none"
    early_access: bool = False
    base_model: str = "SDXL 1.0"
    type: str = "Checkpoint"


@dataclass(slots=True)
class RateLimit:
    """The remaining quota for one kind of request, and the response when it is used up."""

    quota: int
    reset: int
    used: int = 0
    enforced: bool = True

    @property
    def remaining(self) -> int:
        """Return how many more requests are accepted, as the hub reports it."""
        return max(0, self.quota - self.used)

    @property
    def exceeded(self) -> bool:
        """Return whether the last request exceeded the quota."""
        return self.enforced and self.used > self.quota


@dataclass(slots=True)
class World:
    """All content. Its methods add or replace content; the dictionaries may also be changed directly."""

    repos: dict[str, HfRepo] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    ollama: dict[str, OllamaModel] = field(default_factory=dict)
    blobs: dict[str, Body] = field(default_factory=dict)
    civitai: dict[int, CivitaiVersion] = field(default_factory=dict)
    files: dict[str, PlainFile] = field(default_factory=dict)
    tokens: dict[tuple[HubName, str], Token] = field(default_factory=dict)
    limits: dict[str, RateLimit] = field(default_factory=dict)
    ollama_redirects: bool = True
    """If False, the registry serves blobs itself, as a plain registry does."""
    ollama_login: tuple[str, str] | Literal["anonymous"] | None = None
    """None: no token needed. "anonymous": a token for anyone. (user, password): a token after Basic authentication."""
    tree_page: int = 1000
    """Entries per page of a repository's tree."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def hf_repo(
        self,
        repo_id: str,
        files: Mapping[str, Content],
        *,
        lfs: Collection[str] | bool | None = None,
        refs: Mapping[str, Mapping[str, Content] | None] | None = None,
        gated: Gate = False,
        private: bool = False,
        renamed_from: Iterable[str] = (),
        xet: bool = False,
        resolve_cache: bool = False,
    ) -> HfRepo:
        """Add a repository with one commit on ``main``, and one for each of ``refs`` (None: the same commit).

        ``lfs``: True, False, or globs of the paths that are LFS files; None decides by suffix and size as the Hub does.
        ``xet`` sends the Xet headers; ``resolve_cache`` sends small files through the Hub's internal relative redirect.
        """
        repo = HfRepo(repo_id=repo_id, lfs=lfs, gated=gated, private=private, xet=xet, resolve_cache=resolve_cache)
        main = repo.commit(files)
        for name, content in (refs or {}).items():
            if content is None:
                repo.refs[name] = main
            else:
                repo.commit(content, ref=name)
        self.repos[repo_id] = repo
        self.renamed.update(dict.fromkeys(renamed_from, repo_id))
        return repo

    def ollama_model(
        self,
        name: str,
        layers: Iterable[tuple[str, Content]],
        *,
        config: Content = b"{}",
    ) -> OllamaModel:
        """Add a registry model. ``layers`` are (media type, content), where ``model`` is short for the long media type.

        ``name`` is ``[NAMESPACE/]MODEL[:TAG]``; namespace ``library`` and tag ``latest`` are the defaults.
        """
        bodies = [(kind, as_body(content)) for kind, content in layers]
        return self.ollama_manifest(
            name, build_manifest(as_body(config), bodies), [as_body(config), *(body for _, body in bodies)]
        )

    def ollama_manifest(self, name: str, manifest: bytes, blobs: Iterable[Content]) -> OllamaModel:
        """Add a registry model from the bytes of its manifest; blobs are addressed by their digests."""
        model = OllamaModel(manifest=manifest)
        for blob in blobs:
            body = as_body(blob)
            self.blobs[f"sha256:{body.sha256}"] = body
        self.ollama[model_key(name)] = model
        return model

    def civitai_version(self, version_id: int, files: Iterable[CivitaiFile], **options: object) -> CivitaiVersion:
        """Add a CivitAI version; ``options`` are the fields of ``CivitaiVersion``."""
        values: dict[str, object] = {"model_id": version_id * 10, "name": f"v{version_id}", **options}
        version = CivitaiVersion(id=version_id, files=list(files), **values)  # type: ignore[arg-type]
        self.civitai[version_id] = version
        return version

    def file(
        self,
        path: str,
        content: Content,
        *,
        etag: str | None = "auto",
        last_modified: str | None = "Thu, 01 Jan 2026 00:00:00 GMT",
        content_type: str = "application/octet-stream",
        disposition: str | None = None,
        ranges: bool = True,
        bearer: str | None = None,
        basic: tuple[str, str] | None = None,
    ) -> PlainFile:
        """Add a file below the base URL ``Hub.files``. Its ETag is derived from its content by default."""
        body = as_body(content)
        entry = PlainFile(
            body=body,
            etag=body.sha256[:32] if etag == "auto" else etag,
            last_modified=last_modified,
            content_type=content_type,
            disposition=disposition,
            ranges=ranges,
            bearer=bearer,
            basic=basic,
        )
        self.files[path.lstrip("/")] = entry
        return entry

    def token(self, hub: HubName, value: str, *, private: Iterable[str] = (), gated: Iterable[str] = ()) -> str:
        """Add a credential; ``private`` and ``gated`` are globs of names that it gives access to. Returns ``value``."""
        self.tokens[hub, value] = Token(private=tuple(private), gated=tuple(gated))
        return value

    def rate_limit(self, kind: Literal["api", "resolvers"], *, quota: int, reset: int) -> None:
        """Accept ``quota`` more requests of a kind, then respond with 429 and a wait of ``reset`` seconds."""
        self.limits[kind] = RateLimit(quota, reset)

    def spend(self, kind: str) -> RateLimit:
        """Count one request and return the current limit; without a configured limit, one that is never exceeded."""
        with self._lock:
            limit = self.limits.setdefault(kind, RateLimit(3000, 300, enforced=False))
            limit.used += 1
            return replace(limit)
