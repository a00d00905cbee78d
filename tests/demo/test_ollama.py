from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from modelfetch.demo.registry_world import MANIFEST_TYPE, OllamaModel
from tests.demo.conftest import ask

if TYPE_CHECKING:
    from modelfetch.demo import Hub

GGUF = b"GGUF" + bytes(1000)
DIGEST = "sha256:" + hashlib.sha256(GGUF).hexdigest()


@pytest.fixture
def model(hub: Hub) -> OllamaModel:
    return hub.world.ollama_model("tiny:1b", [("model", GGUF), ("template", "{{ .Prompt }}")], config=b'{"a":1}')


def test_a_manifest_is_compact_json_in_the_librarys_key_order(hub: Hub, model: OllamaModel) -> None:
    answer = ask(f"{hub.ollama}/v2/library/tiny/manifests/1b", Accept=MANIFEST_TYPE)
    assert (answer.status, answer.headers["content-type"]) == (200, MANIFEST_TYPE)
    assert answer.body == model.manifest
    assert answer.headers["ollama-content-digest"] == hashlib.sha256(answer.body).hexdigest()
    config = "sha256:" + hashlib.sha256(b'{"a":1}').hexdigest()
    assert answer.body.decode().startswith(
        f'{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}",'
        f'"config":{{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"{config}","size":7}},'
        f'"layers":[{{"mediaType":"application/vnd.ollama.image.model","digest":"{DIGEST}","size":1004}},'
    )
    assert not answer.body.endswith(b"\n")


def test_a_manifest_can_be_requested_by_its_digest(hub: Hub, model: OllamaModel) -> None:
    assert ask(f"{hub.ollama}/v2/library/tiny/manifests/{model.digest}").body == model.manifest


@pytest.mark.parametrize("path", ["library/tiny/manifests/2b", "library/none/manifests/1b", "other/tiny/manifests/1b"])
def test_an_unknown_tag_is_404_in_the_registrys_json(hub: Hub, model: OllamaModel, path: str) -> None:
    answer = ask(f"{hub.ollama}/v2/{path}")
    assert answer.status == 404
    assert json.loads(answer.body)["errors"][0]["code"] == "MANIFEST_UNKNOWN"


def test_a_blob_is_a_redirect_to_the_cdn_with_ranges(hub: Hub, model: OllamaModel) -> None:
    answer = ask(f"{hub.ollama}/v2/library/tiny/blobs/{DIGEST}")
    assert (answer.status, answer.headers["location"].startswith(hub.cdn)) == (307, True)
    part = ask(answer.headers["location"], Range="bytes=0-3")
    assert (part.status, part.body, part.headers["content-range"]) == (206, b"GGUF", "bytes 0-3/1004")


def test_head_of_a_blob_is_200_with_its_length(hub: Hub, model: OllamaModel) -> None:
    answer = ask(f"{hub.ollama}/v2/library/tiny/blobs/{DIGEST}", method="HEAD")
    assert (answer.status, answer.headers["content-length"]) == (200, "1004")


def test_a_signature_for_get_does_not_cover_head(hub: Hub, model: OllamaModel) -> None:
    location = ask(f"{hub.ollama}/v2/library/tiny/blobs/{DIGEST}").headers["location"]
    assert ask(location, method="HEAD").status == 403


def test_a_plain_registry_serves_blobs_itself(hub: Hub, model: OllamaModel) -> None:
    hub.world.ollama_redirects = False
    answer = ask(f"{hub.ollama}/v2/library/tiny/blobs/{DIGEST}", Range="bytes=1000-")
    assert (answer.status, answer.body) == (206, GGUF[1000:])


def test_an_unknown_blob_is_404(hub: Hub, model: OllamaModel) -> None:
    assert ask(f"{hub.ollama}/v2/library/tiny/blobs/sha256:{'0' * 64}").status == 404


def test_a_manifest_can_be_published_as_bytes(hub: Hub) -> None:
    raw = b'{"schemaVersion":2,  "layers":[]}'
    hub.world.ollama_manifest("mine/odd:x", raw, [])
    assert ask(f"{hub.ollama}/v2/mine/odd/manifests/x").body == raw


@pytest.mark.parametrize("login", ["anonymous", ("u", "p")])
def test_a_token_is_fetched_after_the_challenge(hub: Hub, model: OllamaModel, login: object) -> None:
    hub.world.ollama_login = login  # type: ignore[assignment]
    url = f"{hub.ollama}/v2/library/tiny/manifests/1b"
    challenge = ask(url).headers["www-authenticate"]
    assert challenge == f'Bearer realm="{hub.ollama}/token",service="demo",scope="repository:library/tiny:pull"'
    token_url = f"{hub.ollama}/token?" + urlencode({"service": "demo", "scope": "repository:library/tiny:pull"})
    basic = "Basic " + base64.b64encode(b"u:p").decode()
    if login != "anonymous":
        assert ask(token_url).status == 401
    token = json.loads(ask(token_url, Authorization=basic).body)["token"]
    assert ask(url, Authorization=f"Bearer {token}").body == model.manifest
    assert ask(url, Authorization="Bearer wrong").status == 401
