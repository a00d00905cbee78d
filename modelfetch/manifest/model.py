"""The frozen values of a manifest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from modelfetch.core.digest import Digest
    from modelfetch.manifest.uri import Uri


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Position:
    """A place in a file; ``line`` and ``column`` count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSpec:
    """One file of a snapshot with its pins; ``size`` in bytes."""

    path: str
    size: int | None = None
    digest: Digest | None = None


Offload = Literal["none", "text-encoder", "medium"]
OFFLOADS: tuple[Offload, ...] = ("none", "text-encoder", "medium")
"""The parts that leave the GPU: none; the text encoder after its stage; every part that a stage does not use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The resources that one service may use; sizes in bytes, ``context`` in tokens."""

    name: str
    vram: int | None = None
    memory: int | None = None
    model: str | None = None
    context: int | None = None
    parallel: int | None = None
    kv_type: str | None = None
    flash_attention: bool | None = None
    offload: Offload | None = None
    resolution: str | None = None
    batch: int | None = None
    compute_type: str | None = None
    device: str | None = None
    exclusive: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One entry of a manifest: its source, its pins, and the consumers that it is for."""

    name: str
    source: Uri
    consumers: tuple[str, ...]
    position: Position
    mirrors: tuple[Uri, ...] = ()
    kind: str | None = None
    size: int | None = None
    digest: Digest | None = None
    filename: str | None = None
    path: str | None = None
    files: tuple[FileSpec, ...] | None = None
    include: tuple[str, ...] | None = None
    cache_as: str | None = None
    unpack: str | None = None
    task: str | None = None
    license: str | None = None
    optional: bool = False
    allow_pickle: bool = False
    allow_unscanned: bool = False

    @property
    def pins(self) -> tuple[FileSpec, ...]:
        """The pins of each file that the manifest names; a single file also has those of its entry."""
        files = (FileSpec(path=""),) if self.files is None else self.files
        return tuple(
            replace(file, size=self.size if file.size is None else file.size, digest=file.digest or self.digest)
            for file in files
        )

    @property
    def is_pinned(self) -> bool:
        """Whether the digests of all files are pinned."""
        return all(file.digest for file in self.pins)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A whole manifest, one tier.

    ``sha256`` is over the bytes of the file and of all that it extends (``files``, itself first): what was resolved
    for a text is kept for it. ``position`` of a model may lie in any of them.
    """

    file: str
    sha256: str
    tier: str | None
    models: tuple[Model, ...]
    services: tuple[Service, ...] = ()
    vram: int | None = None
    usable: int | None = None
    description: str | None = None
    files: tuple[str, ...] = ()
