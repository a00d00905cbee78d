from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfetch.errors import IntegrityError
from modelfetch.formats.oci_manifest import Image, ImageIndex, parse_manifest
from tests.cases import each
from tests.examples import any_text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | any_text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
KEYS = ["schemaVersion", "mediaType", "config", "layers", "manifests", "annotations", "artifactType"]
BLOB = {"mediaType": "x/y", "digest": "sha256:" + "a" * 64, "size": 1}


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        parse_manifest(content)
    assert caught.value.code == "unsupported-manifest"


@given(st.dictionaries(st.sampled_from(KEYS), JSON))
def test_any_document_is_read_or_refused(document: Any) -> None:
    found: Image | ImageIndex | None = None
    problem = ""
    try:
        found = parse_manifest(json.dumps({"schemaVersion": 2, **document}).encode())
    except IntegrityError as error:
        problem = str(error)
    assert (found is None) == bool(problem)
    assert len(problem) < 400


def test_a_manifest_keeps_its_bytes_and_digest() -> None:
    content = json.dumps({"schemaVersion": 2, "config": BLOB, "layers": [BLOB, BLOB]}).encode()
    found = parse_manifest(content, "application/vnd.oci.image.manifest.v1+json; charset=utf-8")
    assert isinstance(found, Image)
    assert found.content == content
    assert found.media_type == "application/vnd.oci.image.manifest.v1+json"
    assert len(found.blobs) == 1


def test_a_document_of_manifests_without_a_type_is_an_index() -> None:
    found = parse_manifest(json.dumps({"schemaVersion": 2, "manifests": [BLOB]}).encode())
    assert isinstance(found, ImageIndex)
    assert len(found.children) == 1


@each(
    "document",
    [
        {"schemaVersion": 2, "config": {}, "layers": [BLOB]},
        {"schemaVersion": 2, "config": None, "layers": [BLOB]},
        {"schemaVersion": 2, "config": {"digest": BLOB["digest"], "size": 1}, "layers": [BLOB]},
        {"schemaVersion": 2, "layers": [{"digest": BLOB["digest"], "size": 1}]},
        {"config": BLOB, "layers": [BLOB]},
        {"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": [BLOB]},
    ],
)
def test_what_a_pull_does_not_need_may_be_missing(document: Any) -> None:
    found = parse_manifest(json.dumps(document).encode())
    assert isinstance(found, Image)
    assert [(str(blob.digest), blob.size) for blob in found.layers] == [(BLOB["digest"], 1)]
