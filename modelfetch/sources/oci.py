"""``oci://…``: files in an OCI registry, one layer per file.

Sources: modelpack/model-spec (``org.cncf.model.filepath``, media types ending in ``.raw``); oras
(``org.opencontainers.image.title``, ``io.deis.oras.content.unpack``), which declares layers as image tars by default
although they contain the plain file; docker/model-spec, whose v0.1 layers have types instead of names.
"""

from __future__ import annotations

import platform
import re
from itertools import product
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from modelfetch.core.artifact import Artifact, Location, Resolution
from modelfetch.core.units import format_list
from modelfetch.errors import IntegrityError, NotFoundError
from modelfetch.formats.content_check import is_weights
from modelfetch.formats.oci_manifest import INDEXES, MANIFESTS, Descriptor, Image, ImageIndex, parse_manifest
from modelfetch.manifest.kinds import FOLDERS
from modelfetch.manifest.paths import below_a_file, check_relative
from modelfetch.manifest.uri import OciUri
from modelfetch.sources.answers import unlisted_name_error, unsafe_name_error
from modelfetch.sources.base import Source, SourceRequest
from modelfetch.sources.registry import EVERY_TYPE, Registry, bases, blob_url

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelfetch.config.settings import Settings
    from modelfetch.http import Http
    from modelfetch.sources.base import ReadBlob

_TITLE = "org.opencontainers.image.title"
PATH_KEYS = ("org.cncf.model.filepath", "org.cnai.model.filepath", _TITLE)
"""Annotations that name a layer's file; the first one present is used."""

_UNPACK = "io.deis.oras.content.unpack"
_ARCHIVES = ("tar", "tar+gzip", "tar.gzip", "tar+zstd", "tar.gz", "tgz", "zip")
_EMPTY = "application/vnd.oci.empty.v1+json"  # in place of a layer or config (source: OCI image-spec, manifest.md)
_DOCKER_NAMES = {
    "gguf.v3": "{model}.gguf",
    "safetensors": "{model}.safetensors",
    "dduf": "{model}.dduf",
    "mmproj": "{model}-mmproj.gguf",
    "license": "LICENSE",
    "chat.template.jinja": "chat_template.jinja",
}
"""Names of Docker's unnamed layers, by the end of their type ``application/vnd.docker.ai.…``."""
_DOCKER_LAYER = "application/vnd.docker.ai."
_MODEL_LAYERS = ("application/vnd.cncf.model.", "application/vnd.cnai.model.", "application/vnd.kitops.", _DOCKER_LAYER)
"""Types that say whether a layer is an archive. Of other types, oras takes what has a title for a file as it is."""
_DEEPEST = 2


class OciSource(Source[OciUri]):
    """Resolves a manifest's layers to files, named by their annotations."""

    def __init__(self, http: Http, settings: Settings) -> None:
        self._registry = Registry(http, settings)

    def query(self, uri: OciUri, wanted: SourceRequest) -> Resolution:
        """Return each layer that is a file, with its digest and size."""
        image, base = self.pull(uri)
        return _resolution(wanted, uri, image, base)

    @classmethod
    def known(cls, uri: OciUri, wanted: SourceRequest, settings: Settings, read_blob: ReadBlob) -> Resolution | None:
        """Return the files of a manifest that is pinned in the URI and present in the store."""
        addresses = bases(uri.host, settings)
        if uri.digest is None or (len(addresses) > 1 and not settings.offline):
            return None
        content = read_blob(uri.digest)
        image = parse_manifest(content) if content is not None else None
        if not isinstance(image, Image) or image.digest != uri.digest:
            return None
        return cls.apply_pins(wanted, _resolution(wanted, uri, image, addresses[0]))

    def pull(self, uri: OciUri) -> tuple[Image, str]:
        """Return the manifest of a reference, selected from an index if necessary, and the base URL that served it.

        Raises:
            IntegrityError: No manifest fits (``unsupported-manifest``), or its bytes do not match the pin.
            ModelfetchError: The registry's response is an error.
        """
        reference = str(uri.digest) if uri.digest else uri.tag or "latest"
        for _ in range(_DEEPEST + 1):
            served = self._registry.manifest(uri.host, uri.repo, reference, accept=EVERY_TYPE, uri=str(uri))
            found = parse_manifest(served.content, served.media_type)
            if isinstance(found, Image):
                return found, served.base
            reference = str(choose_child(found).digest)
        raise IntegrityError(f"{uri} is an index of indexes of indexes", code="unsupported-manifest")


def choose_child(index: ImageIndex) -> Descriptor:
    """Return the child for this machine: one without a platform, else the one for Linux on this CPU, else an index.

    An only manifest is for every machine: builders note the platform that they ran on. Their attestations don't count.

    Raises:
        IntegrityError: There is none (``unsupported-manifest``).
    """
    here = ("linux", _ARCHITECTURES.get(platform.machine().lower(), platform.machine().lower()))
    for types, wanted in product((MANIFESTS, INDEXES), (None, here)):
        for child in index.children:
            if child.media_type in types and child.platform == wanted:
                return child
    manifests = [child for child in index.children if child.media_type in MANIFESTS]
    contents = [child for child in manifests if child.platform != ("unknown", "unknown")]
    if len(contents or manifests) == 1:
        return (contents or manifests)[0]
    raise IntegrityError(
        f"the registry's index holds no manifest for {'/'.join(here)}",
        code="unsupported-manifest",
        hint="name the manifest itself: oci://HOST/REPO@sha256:…",
    )


_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def _resolution(wanted: SourceRequest, uri: OciUri, image: Image, base: str) -> Resolution:
    files = named_files(image, uri)
    if wanted.files is not None:
        missing = [spec.path for spec in wanted.files if spec.path not in files]
        if missing:
            raise NotFoundError(f"{uri} has no {format_list(missing)}", hint=f"it has {format_list(sorted(files))}")
        files = {spec.path: files[spec.path] for spec in wanted.files}
    elif wanted.include is not None:
        files = _included(files, wanted.include, uri)
    if wanted.single and len(files) > 1:
        files = _single(files, wanted, uri)
    for path in files if wanted.single else ():
        if wanted.is_unlisted(path):
            raise unlisted_name_error(str(uri), path, wanted.kind)
    return Resolution(
        artifacts=tuple(_artifact(uri, base, path, layer) for path, layer in files.items()),
        revision=str(image.digest),
        pinned=uri.digest is not None,
    )


def named_files(image: Image, uri: OciUri) -> dict[str, Descriptor]:
    """Return the layers that are files, by the relative path of each; archives and unnamed layers are left out.

    Raises:
        IntegrityError: No layer is a file, two have the same name (``unsupported-manifest``), or a name is unsafe
            (``unsafe-path``).
    """
    files: dict[str, Descriptor] = {}
    for layer in image.layers:
        path = _path_of(layer, image, uri)
        if path is None:
            continue
        try:
            check_relative(path)
        except ValueError:
            raise unsafe_name_error(str(uri), path) from None
        if files.get(path, layer).digest != layer.digest:
            raise IntegrityError(f"{uri} has two files named {path}", code="unsupported-manifest")
        files[path] = layer
    if (path := below_a_file(files)) is not None:
        raise IntegrityError(f"{uri} has {path[:120]!r} in a folder that is a file", code="unsupported-manifest")
    if not files:
        types = format_list(list(dict.fromkeys(layer.media_type[:80] for layer in image.layers)))
        raise IntegrityError(
            f"{uri} has no plain files, only layers of type {types}" if types else f"{uri} has no layers",
            code="unsupported-manifest",
            hint="it may be a container image; push files with `oras push` or as a ModelPack artifact",
        )
    return files


def _path_of(layer: Descriptor, image: Image, uri: OciUri) -> str | None:
    """Return the path of a layer's file; None for an archive, or for one of several unnamed layers."""
    named = next((layer.annotations[key] for key in PATH_KEYS if layer.annotations.get(key)), None)
    if layer.media_type == _EMPTY or layer.annotations.get(_UNPACK, "").lower() == "true":
        return None
    is_plain = bool(layer.annotations.get(_TITLE)) and not layer.media_type.startswith(_MODEL_LAYERS)
    if layer.media_type.endswith(_ARCHIVES) and not is_plain:
        return None
    if named is not None:
        return re.sub(r"\A(\./+)+", "", named)
    model = uri.repo.rpartition("/")[2]
    if layer.media_type.startswith(_DOCKER_LAYER):
        name = _DOCKER_NAMES.get(layer.media_type.removeprefix(_DOCKER_LAYER))
        same = [other for other in image.layers if other.media_type == layer.media_type]
        if name is not None and len(same) > 1:
            name = name.replace("{model}", f"{{model}}-{same.index(layer) + 1:05}-of-{len(same):05}")
        return name.format(model=model) if name is not None else None
    return model if len(image.layers) == 1 else None


def _single(files: dict[str, Descriptor], wanted: SourceRequest, uri: OciUri) -> dict[str, Descriptor]:
    """Return the requested file: by its title, as the only weights, or as the only one of its kind.

    Raises:
        NotFoundError: Several files match.
    """
    names = {name.rpartition("/")[2] for name in (wanted.filename, wanted.name) if name}
    folders = {
        folder.rpartition("/")[2].lower() for (_, kind), folder in FOLDERS.items() if kind == wanted.kind and folder
    }
    weights = {path: layer for path, layer in files.items() if _is_weights(path, layer)}
    for chosen in (
        {path: layer for path, layer in files.items() if path.rpartition("/")[2] in names},
        {path: layer for path, layer in files.items() if ".weight.v1." in layer.media_type},
        weights,
        {p: layer for p, layer in weights.items() if folders & {part.lower() for part in PurePosixPath(p).parts[:-1]}},
    ):
        if len(chosen) == 1:
            return chosen
    raise NotFoundError(
        f"{uri} has {len(files)} files, and one must be chosen",
        hint=f"name one with files: [{{path: …}}]: {format_list(sorted(files))}",
    )


def _is_weights(path: str, layer: Descriptor) -> bool:
    if layer.media_type.startswith(_DOCKER_LAYER):
        return layer.media_type.removeprefix(_DOCKER_LAYER) in ("gguf.v3", "safetensors", "dduf")
    return is_weights(path)


def _included(files: dict[str, Descriptor], patterns: Iterable[str], uri: OciUri) -> dict[str, Descriptor]:
    from modelfetch.config.hub import matching

    chosen = matching(files, patterns)
    if not chosen:
        raise NotFoundError(f"{uri} has no file that matches {', '.join(patterns)}")
    return {path: files[path] for path in chosen}


def _artifact(uri: OciUri, base: str, path: str, layer: Descriptor) -> Artifact:
    name = f"{uri}#{layer.digest}"
    return Artifact(
        uri=name,
        path=path,
        size=layer.size,
        digest=layer.digest,
        media_type=layer.media_type,
        locations=(Location(uri=name, url=blob_url(base, uri.repo, layer.digest)),),
    )
