"""Artifacts: single files with the metadata that a source provides."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from modelfetch.core.digest import Digest
from modelfetch.core.json_fields import texts
from modelfetch.core.units import MAX_SIZE
from modelfetch.core.urls import display_url


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """One location of an artifact's bytes.

    ``url`` is stable (the hub's own URL, never a signed one); redirects are followed and credentials chosen for each
    request. It contains a secret only if a manifest's own URL does, and is stored without it. ``uri`` is the source as
    shown in the report.
    """

    uri: str
    url: str

    @property
    def is_local(self) -> bool:
        """Whether it is a file of this machine."""
        return self.url.startswith("file:")

    @property
    def local_path(self) -> Path:
        """The path of a file of this machine."""
        return Path(unquote(urlsplit(self.url).path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One file: its upstream name, size in bytes, expected digest, and locations.

    ``digest`` is the expected digest (the manifest's, else the source's), None if neither gives one.
    ``cache_name`` is the name of its blob in a Hugging Face cache (sha256 for LFS files, git sha1 otherwise).
    ``content`` is the file's bytes if the source's response already contained them (an Ollama manifest).
    ``allow_pickle`` is the manifest's setting, for a file without a digest; ``weights`` means that its kind of entry
    holds model weights, so that the content is checked whatever the name.
    """

    uri: str
    path: str
    size: int | None = None
    digest: Digest | None = None
    locations: tuple[Location, ...] = ()
    cache_name: str | None = None
    media_type: str | None = None
    content: bytes | None = field(default=None, repr=False)
    allow_pickle: bool = False
    weights: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary, for a receipt."""
        data: dict[str, Any] = {"uri": self.uri, "path": self.path, "size": self.size}
        data["digest"] = str(self.digest) if self.digest else None
        data["locations"] = [[place.uri, display_url(place.url)] for place in self.locations]
        for key in ("cache_name", "media_type"):
            if (value := getattr(self, key)) is not None:
                data[key] = value
        if self.content is not None:
            data["content"] = base64.b64encode(self.content).decode()
        for key in ("allow_pickle", "weights"):
            if getattr(self, key):
                data[key] = True
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Parse what `as_dict` returns.

        Raises:
            ValueError, KeyError, TypeError: The data is not valid.
        """
        content, size = data.get("content"), data["size"]
        uri, path, digest, cache_name, media_type = texts(
            (
                data["uri"],
                data["path"],
                data["digest"] or "",
                data.get("cache_name") or "",
                data.get("media_type") or "",
            )
        )
        if size is not None and (type(size) is not int or not 0 <= size <= MAX_SIZE):
            raise ValueError("the size of an artifact is invalid")
        algorithm, _, digits = digest.partition(":")
        return cls(
            uri=uri,
            path=path,
            size=size,
            digest=Digest(algorithm, digits) if digest else None,
            locations=tuple(Location(uri=uri, url=url) for uri, url in map(texts, data["locations"])),
            cache_name=cache_name or None,
            media_type=media_type or None,
            content=base64.b64decode(content, validate=True) if content is not None else None,
            allow_pickle=bool(data.get("allow_pickle", False)),
            weights=bool(data.get("weights", False)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """A source's result for one model: its revision and files.

    ``revision`` is the immutable name (commit, manifest digest) if the source has one; ``pinned``: whether the
    manifest already names it. ``license`` and ``category`` are the hub's terms, if it has any; they are not stored in
    receipts.
    """

    artifacts: tuple[Artifact, ...]
    revision: str | None = None
    pinned: bool = False
    license: str | None = field(default=None, compare=False)
    category: str | None = field(default=None, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary, for a receipt."""
        return {"revision": self.revision, "pinned": self.pinned, "artifacts": [a.as_dict() for a in self.artifacts]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Parse what `as_dict` returns; raises as `Artifact.from_dict` does."""
        (revision,) = texts((data["revision"] or "",))
        return cls(
            artifacts=tuple(Artifact.from_dict(entry) for entry in data["artifacts"]),
            revision=revision or None,
            pinned=bool(data["pinned"]),
        )
