"""``oci://…``: files in an OCI registry, each a raw layer, as ModelPack and plain ORAS artifacts hold them.

Sources: modelpack/model-spec (``org.cncf.model.filepath``, media types ending in ``.raw``), oras
(``org.opencontainers.image.title``). Layers that are archives are images' business and refused.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from modelfetch.core.artifact import Artifact, Location, Resolution
from modelfetch.errors import IntegrityError, NotFoundError
from modelfetch.manifest.paths import check_relative
from modelfetch.manifest.uri import OciUri
from modelfetch.sources.base import Source, SourceRequest
from modelfetch.sources.oci_manifest import MANIFESTS, Descriptor, Image, Index, parse_manifest
from modelfetch.sources.registry import EVERY_TYPE, Registry, blob_url

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelfetch.config.settings import Settings
    from modelfetch.http import Http
    from modelfetch.sources.base import ReadBlob

PATH_KEYS = ("org.cncf.model.filepath", "org.cnai.model.filepath", "org.opencontainers.image.title")
"""Annotations that name a layer's file; the first that is there counts."""

_ARCHIVES = ("tar", "tar+gzip", "tar.gzip", "tar+zstd", "tar.gz", "tgz", "zip")
_DEEPEST = 2


class OciSource(Source[OciUri]):
    """The layers of a manifest as files, by the names that their annotations give."""

    def __init__(self, http: Http, settings: Settings) -> None:
        self._registry = Registry(http, settings)
        self._settings = settings

    def ask(self, uri: OciUri, wanted: SourceRequest) -> Resolution:
        """Each layer that is a file, with its digest and size."""
        image, base = self.pull(uri)
        return _resolution(wanted, uri, image, base)

    def known(self, uri: OciUri, wanted: SourceRequest, read_blob: ReadBlob) -> Resolution | None:
        """A manifest that is pinned in the URI and lies in the store tells as much as the registry would."""
        bases = self._registry.bases(uri.host)
        if uri.digest is None or (len(bases) > 1 and not self._settings.offline):
            return None
        content = read_blob(uri.digest)
        image = parse_manifest(content) if content is not None else None
        if not isinstance(image, Image) or image.digest != uri.digest:
            return None
        return self.agree(wanted, _resolution(wanted, uri, image, bases[0]))

    def pull(self, uri: OciUri) -> tuple[Image, str]:
        """The manifest of a reference, through an index where it is one, and the address that served it.

        Raises:
            IntegrityError: No manifest fits (``unsupported-manifest``), or its bytes are not the pinned ones.
            ModelfetchError: As the registry answers.
        """
        reference = str(uri.digest) if uri.digest else uri.tag or "latest"
        for _ in range(_DEEPEST + 1):
            served = self._registry.manifest(uri.host, uri.repo, reference, accept=EVERY_TYPE, uri=uri.text)
            found = parse_manifest(served.content, served.media_type)
            if isinstance(found, Image):
                return found, served.base
            reference = str(choose_child(found).digest)
        raise IntegrityError(f"{uri} is an index of indexes", code="unsupported-manifest")


def choose_child(index: Index) -> Descriptor:
    """The child for this machine: one for no platform in particular, else the one for Linux on this processor.

    Raises:
        IntegrityError: There is none (``unsupported-manifest``).
    """
    here = ("linux", _ARCHITECTURES.get(platform.machine().lower(), platform.machine().lower()))
    manifests = [child for child in index.children if child.media_type in MANIFESTS]
    for wanted in (None, here):
        for child in manifests:
            if child.platform == wanted:
                return child
    raise IntegrityError(
        f"the registry's index holds no manifest for {'/'.join(here)}",
        code="unsupported-manifest",
        hint="name the manifest itself: oci://HOST/REPO@sha256:…",
    )


_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def _resolution(wanted: SourceRequest, uri: OciUri, image: Image, base: str) -> Resolution:
    files = named_files(image, uri)
    if not wanted.snapshot and len(files) > 1:
        files = _single(files, uri)
    elif wanted.files is not None:
        missing = [spec.path for spec in wanted.files if spec.path not in files]
        if missing:
            raise NotFoundError(
                f"{uri} holds no {', '.join(missing[:5])}", hint=f"it holds {', '.join(sorted(files)[:5])}"
            )
        files = {spec.path: files[spec.path] for spec in wanted.files}
    elif wanted.include is not None:
        files = _included(files, wanted.include, uri)
    return Resolution(
        artifacts=tuple(_artifact(uri, base, path, layer) for path, layer in files.items()),
        revision=str(image.digest),
        pinned=uri.digest is not None,
    )


def named_files(image: Image, uri: OciUri) -> dict[str, Descriptor]:
    """The layers by the relative path of the file that each is.

    Raises:
        IntegrityError: A layer is an archive or has no name (``unsupported-manifest``), two have one name, or a name
            leads elsewhere (``unsafe-path``).
    """
    files: dict[str, Descriptor] = {}
    for layer in image.layers:
        path = next((layer.annotations[key] for key in PATH_KEYS if layer.annotations.get(key)), None)
        if layer.media_type.endswith(_ARCHIVES) or path is None:
            if len(image.layers) == 1 and path is None and not layer.media_type.endswith(_ARCHIVES):
                path = uri.repo.rpartition("/")[2]
            else:
                raise IntegrityError(
                    f"{uri} is not made of plain files: a layer of type {layer.media_type[:80]}",
                    code="unsupported-manifest",
                    hint="push it as raw layers (ModelPack, or `oras push`), each with its name",
                )
        try:
            check_relative(path)
        except ValueError:
            raise IntegrityError(
                f"{uri} names a file {path[:120]!r}, which is no safe path", code="unsafe-path"
            ) from None
        if path in files:
            raise IntegrityError(f"{uri} holds two files named {path}", code="unsupported-manifest")
        files[path] = layer
    if not files:
        raise IntegrityError(f"{uri} holds no files", code="unsupported-manifest")
    return files


def _single(files: dict[str, Descriptor], uri: OciUri) -> dict[str, Descriptor]:
    """The one weight file among readme, licence and settings."""
    weights = {path: layer for path, layer in files.items() if ".weight.v1." in layer.media_type}
    if len(weights) != 1:
        raise NotFoundError(
            f"{uri} holds {len(files)} files, and one is wanted",
            hint=f"name one by files: {', '.join(sorted(files)[:5])}",
        )
    return weights


def _included(files: dict[str, Descriptor], patterns: Iterable[str], uri: OciUri) -> dict[str, Descriptor]:
    from modelfetch.sources.huggingface.client import matching

    chosen = matching(files, patterns)
    if not chosen:
        raise NotFoundError(f"{uri} holds no file that matches {', '.join(patterns)}")
    return {path: files[path] for path in chosen}


def _artifact(uri: OciUri, base: str, path: str, layer: Descriptor) -> Artifact:
    name = f"{uri.text}#{layer.digest}"
    return Artifact(
        uri=name,
        path=path,
        size=layer.size,
        digest=layer.digest,
        media_type=layer.media_type,
        locations=(Location(uri=name, url=blob_url(base, uri.repo, layer.digest)),),
    )
