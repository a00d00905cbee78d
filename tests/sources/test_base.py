"""What the base of all sources checks: the names of pickles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from modelfetch.core.artifact import Artifact, Resolution
from modelfetch.core.digest import Digest
from modelfetch.errors import NotAModelError
from modelfetch.manifest.model import FileSpec
from modelfetch.manifest.uri import parse_uri
from modelfetch.sources import SourceRequest
from modelfetch.sources.base import refuse_pickles
from modelfetch.sources.factory import source_type
from tests.cases import each

HUB = "0" * 64
PIN = Digest(algorithm="sha256", hex=HUB)
OLD = f"@{'1' * 40}"
OCI = f"oci://ghcr.io/fleet/tiny@sha256:{HUB}"


def resolution(*paths: str) -> Resolution:
    artifact = Artifact(uri="x", path="", digest=PIN)  # upstream's digest is no consent
    return Resolution(artifacts=tuple(replace(artifact, uri=f"u/{path}", path=path) for path in paths))


def applied(uri: str, wanted: dict[str, Any], paths: tuple[str, ...]) -> tuple[SourceRequest, Resolution]:
    request = SourceRequest(uri=parse_uri(uri), **wanted)
    return request, source_type(request.uri.scheme).apply_pins(request, resolution(*paths))


@each(
    ("uri", "wanted", "paths", "message"),
    [
        ("civitai://7", {"kind": "vae"}, ("a.pt",), "u/a.pt is a.pt, a pickle"),
        (OCI, {"kind": "vae"}, ("a.pt",), "u/a.pt is a.pt, a pickle"),
        (OCI, {"kind": "vae", "files": (FileSpec(path="a.pt"),)}, ("a.pt",), f"{OCI} holds a.pt, a pickle"),
        (f"hf://a/b{OLD}", {"kind": "snapshot"}, ("a.pt", "b"), f"hf://a/b{OLD} holds a.pt, a pickle"),
        ("hf://a/b", {"kind": "snapshot"}, ("a.pt", "b.json", "c/d.CKPT"), "hf://a/b holds a.pt, c/d.CKPT, a pickle"),
    ],
)
def test_a_pickle_that_the_manifest_neither_pins_nor_allows_is_refused_by_its_name(
    uri: str, wanted: dict[str, Any], paths: tuple[str, ...], message: str
) -> None:
    request, found = applied(uri, wanted, paths)
    with pytest.raises(NotAModelError, match=f"^{message}, which runs code") as caught:
        refuse_pickles(request, found)
    assert (caught.value.exit_code, caught.value.code) == (65, "pickle-not-allowed")
    refuse_pickles(*applied(uri, {**wanted, "allow_pickle": True}, paths))


@each(
    ("uri", "wanted", "path"),
    [
        ("civitai://7", {"kind": "vae", "digest": PIN}, "a.pt"),
        ("hf://a/b", {"kind": "snapshot", "files": (FileSpec(path="a.pt", digest=PIN),)}, "a.pt"),
        ("hf://a/b", {"kind": "snapshot"}, "a.safetensors"),
        ("ollama://model:a.pt", {"kind": "ollama"}, "a.pt"),  # a tag is not a file name
    ],
)
def test_a_pinned_file_and_one_of_another_name_pass(uri: str, wanted: dict[str, Any], path: str) -> None:
    refuse_pickles(*applied(uri, wanted, (path,)))
