"""Parse a registry's untrusted manifests into values, without I/O.

Sources: opencontainers/image-spec (manifest, image index, descriptor), distribution's docker schema 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from modelfetch.core import untrusted_json
from modelfetch.core.digest import Digest
from modelfetch.core.units import MAX_SIZE
from modelfetch.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Mapping

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"

MANIFESTS = (DOCKER_MANIFEST, OCI_MANIFEST)
INDEXES = (DOCKER_LIST, OCI_INDEX)

MAX_MANIFEST = 8 * 2**20
"""Bytes of the largest manifest."""
MAX_LAYERS = 10_000
MAX_CHILDREN = 256
_LONGEST_TYPE = 255
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A reference to content: its type (empty if it gives none), digest (sha256) and size in bytes."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=lambda: _NOTHING, repr=False)
    platform: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One manifest: a config and layers. ``content`` is the manifest as served, and ``digest`` its digest."""

    media_type: str
    digest: Digest
    content: bytes = field(repr=False)
    layers: tuple[Descriptor, ...]
    config: Descriptor | None = None
    annotations: Mapping[str, str] = field(default_factory=lambda: _NOTHING, repr=False)

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Config and layers without duplicates, in the manifest's order."""
        found: dict[Digest, Descriptor] = {}
        for blob in (*((self.config,) if self.config else ()), *self.layers):
            found.setdefault(blob.digest, blob)
        return tuple(found.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageIndex:
    """A list of manifests for different platforms."""

    media_type: str
    digest: Digest
    content: bytes = field(repr=False)
    children: tuple[Descriptor, ...]


def parse_manifest(content: bytes, media_type: str = "") -> Image | ImageIndex:
    """Parse a manifest or an index.

    Args:
        content: The bytes as served.
        media_type: The response's Content-Type, used if the document has no type.

    Raises:
        IntegrityError: It is neither (``unsupported-manifest``); the message gives the reason.
    """
    document = _load(content)
    kind = document.get("mediaType") or media_type.partition(";")[0].strip()
    if not isinstance(kind, str) or len(kind) > _LONGEST_TYPE:
        raise _unsupported("its mediaType is not a string")
    if kind in INDEXES or (kind not in MANIFESTS and "manifests" in document and "layers" not in document):
        children = _descriptors(document.get("manifests"), "manifests", MAX_CHILDREN)
        return ImageIndex(
            media_type=kind or OCI_INDEX, digest=Digest.sha256(content), content=content, children=children
        )
    if document.get("schemaVersion", 2) != 2:
        raise _unsupported(f"expected schemaVersion 2, found {_shown(document.get('schemaVersion'))}")
    listed = "layers" if "layers" in document else "blobs"  # the drafts of OCI 1.1 had artifacts with `blobs`
    layers = _descriptors(document.get(listed), listed, MAX_LAYERS)
    if layers == () and "schemaVersion" not in document:
        raise _unsupported("it has neither layers nor a schemaVersion")
    config = _descriptor(document["config"], "config") if document.get("config") else None
    image = Image(
        media_type=kind or OCI_MANIFEST,
        digest=Digest.sha256(content),
        content=content,
        config=config,
        layers=layers,
        annotations=_annotations(document.get("annotations")),
    )
    _check_sizes(image)
    return image


def _load(content: bytes) -> dict[str, Any]:
    try:
        return untrusted_json.parse_object(content)
    except ValueError as error:
        raise _unsupported(str(error)) from None


def _descriptors(value: Any, where: str, most: int) -> tuple[Descriptor, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise _unsupported(f"{where} is not a list")
    if len(value) > most:
        raise _unsupported(f"it has {len(value)} {where}, at most {most} are read")
    return tuple(_descriptor(entry, f"{where}[{at}]") for at, entry in enumerate(value))


def _descriptor(entry: Any, where: str) -> Descriptor:
    if not isinstance(entry, dict):
        raise _unsupported(f"{where} is not an object")
    size = entry.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_SIZE:
        raise _unsupported(f"{where}.size: expected bytes, found {_shown(size)}")
    kind = entry.get("mediaType", "")
    if not isinstance(kind, str) or len(kind) > _LONGEST_TYPE:
        raise _unsupported(f"{where}.mediaType: expected a string, found {_shown(kind)}")
    return Descriptor(
        media_type=kind,
        digest=_digest(entry.get("digest"), where),
        size=size,
        annotations=_annotations(entry.get("annotations")),
        platform=_platform(entry.get("platform")),
    )


def _digest(value: Any, where: str) -> Digest:
    try:
        digest = Digest.parse(value) if isinstance(value, str) else None
    except ValueError:
        digest = None
    if digest is None or digest.algorithm != "sha256":
        raise _unsupported(f"{where}.digest: expected sha256: and 64 hex digits, found {_shown(value)}")
    return digest


def _annotations(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict):
        return _NOTHING
    return MappingProxyType({key: text for key, text in value.items() if isinstance(text, str)})


def _platform(value: Any) -> tuple[str, str] | None:
    if not isinstance(value, dict) or not value:
        return None
    return str(value.get("os", ""))[:64], str(value.get("architecture", ""))[:64]


def _check_sizes(image: Image) -> None:
    sizes: dict[Digest, int] = {}
    for blob in (*((image.config,) if image.config else ()), *image.layers):
        if sizes.setdefault(blob.digest, blob.size) != blob.size:
            raise _unsupported(f"it gives two sizes for {blob.digest}")
    if sum(sizes.values()) > MAX_SIZE:
        raise _unsupported("its sizes add up to more than 8 EiB")


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, dict | list) else type(value).__name__
    return text if len(text) <= 100 else text[:100] + "…"


def _unsupported(why: str) -> IntegrityError:
    return IntegrityError(
        f"the registry's manifest can't be used: {why}",
        code="unsupported-manifest",
        hint="check the name and tag: the registry has something other than a model of this form there",
    )
