"""No document that a hub or registry sends is a bug: it is resolved to usable values, or refused with a code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings

from modelfetch.core.units import MAX_SIZE
from modelfetch.errors import ModelfetchError
from modelfetch.manifest.paths import check_relative
from tests.damage import odd_documents
from tests.examples import examples
from tests.faults import Status
from tests.sources.bench import bench_for

if TYPE_CHECKING:
    from pathlib import Path

    from modelfetch.demo.hub import Hub

LFS = {"sha256": "0" * 64, "size": 10, "pointerSize": 1}
HUB = {
    "id": "acme/art",
    "sha": "0" * 40,
    "gated": False,
    "siblings": [{"rfilename": "x.safetensors", "size": 10, "blobId": "0" * 40, "lfs": LFS}],
    "tags": ["license:mit"],
    "cardData": {"license": "mit"},
}
LAYER = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{'1' * 64}", "size": 10}
MANIFEST = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
    "config": {
        "mediaType": "application/vnd.docker.container.image.v1+json",
        "digest": f"sha256:{'0' * 64}",
        "size": 2,
    },
    "layers": [LAYER | {"annotations": {"org.opencontainers.image.title": "x.gguf"}}],
}
FILE = {
    "id": 1,
    "name": "c.safetensors",
    "sizeKB": 1.5,
    "type": "Model",
    "primary": True,
    "hashes": {"SHA256": "A" * 64},
}
VERSION = {
    "id": 5,
    "modelId": 6,
    "name": "v1",
    "model": {"name": "m", "type": "Checkpoint"},
    "files": [
        FILE | {"metadata": {"format": "SafeTensor"}, "pickleScanResult": "Success", "virusScanResult": "Success"}
    ],
}
CASES = {
    "hf://acme/art/x.safetensors": HUB,
    "hf://acme/art": HUB,
    "ollama://tiny:1b": MANIFEST,
    "oci://REGISTRY/library/tiny:1b": MANIFEST,
    "civitai://5": VERSION,
}


@pytest.mark.hypothesis
@pytest.mark.parametrize("uri", CASES)
def test_an_odd_document_is_used_or_refused(hub: Hub, home: Path, uri: str) -> None:
    @settings(max_examples=examples(8 if uri.startswith("oci") else 25))
    @given(odd_documents(CASES[uri]))
    def check(document: Any) -> None:
        assert outcome(hub, home, uri, document) in (0, 65, 66, 69, 77)

    assert outcome(hub, home, uri, CASES[uri]) == 0
    check()


def outcome(hub: Hub, home: Path, uri: str, document: Any) -> int:
    """The exit code of resolving a URI of a hub that answers every request with this document."""
    hub.faults.clear()
    body = document if isinstance(document, str) else json.dumps(document)
    hub.faults.add("*", Status(code=200, body=body, content_type="application/json"), times=None)
    bench = bench_for(hub, home, retries=1)
    kind = "file" if uri.startswith("oci") else "snapshot" if uri == "hf://acme/art" else None
    try:
        found = bench.resolve(uri.replace("REGISTRY", hub.ollama.partition("//")[2]), kind=kind)
    except ModelfetchError as error:
        return error.exit_code
    finally:
        bench.http.close()
    for artifact in found.artifacts:
        assert artifact.size is None or 0 <= artifact.size <= MAX_SIZE
        assert check_relative(artifact.path) == artifact.path
    return 0


FILLERS = ["{}", '{"":1}', "[[]]", '{"":{}}']


@pytest.mark.parametrize("uri", CASES)
def test_a_document_that_would_take_much_memory_is_refused(hub: Hub, home: Path, uri: str) -> None:
    for filler in FILLERS:
        body = json.dumps(CASES[uri])[:-1] + ', "x": [' + f"{filler}," * 600_000 + "0]}"
        assert outcome(hub, home, uri, body) == {"hf": 69, "civitai": 69}.get(uri.partition(":")[0], 65)
