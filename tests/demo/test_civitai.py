from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from modelfetch.demo.body import BytesBody
from modelfetch.demo.world import CivitaiFile, CivitaiVersion
from tests.demo.conftest import ask

if TYPE_CHECKING:
    from modelfetch.demo import Hub

WEIGHTS = b"w" * 1500
PRUNED = b"p" * 10


@pytest.fixture
def version(hub: Hub) -> CivitaiVersion:
    return hub.world.civitai_version(
        7,
        [
            CivitaiFile(id=70, name="pruned.safetensors", body=BytesBody(PRUNED), primary=False),
            CivitaiFile(id=71, name="full.safetensors", body=BytesBody(WEIGHTS)),
        ],
    )


def test_a_version_lists_its_files_with_upper_case_hashes(hub: Hub, version: CivitaiVersion) -> None:
    document = json.loads(ask(f"{hub.civitai}/api/v1/model-versions/7").body)
    assert (document["id"], document["modelId"], document["status"]) == (7, 70, "Published")
    full = document["files"][1]
    assert (full["name"], full["primary"], full["sizeKB"]) == ("full.safetensors", True, 1500 / 1024)
    assert full["hashes"]["SHA256"] == hashlib.sha256(WEIGHTS).hexdigest().upper()
    assert (full["pickleScanResult"], full["virusScanResult"]) == ("Success", "Success")
    assert full["downloadUrl"] == f"{hub.civitai}/api/download/models/7?fileId=71"


def test_a_version_is_found_by_the_hash_of_a_file(hub: Hub, version: CivitaiVersion) -> None:
    digest = hashlib.sha256(PRUNED).hexdigest().upper()
    assert json.loads(ask(f"{hub.civitai}/api/v1/model-versions/by-hash/{digest}").body)["id"] == 7


@pytest.mark.parametrize("path", ["/api/v1/model-versions/8", "/api/v1/model-versions/x", "/api/download/models/8"])
def test_an_unknown_version_is_a_json_404(hub: Hub, version: CivitaiVersion, path: str) -> None:
    answer = ask(hub.civitai + path)
    assert answer.status == 404
    assert json.loads(answer.body)["error"]


@pytest.mark.parametrize(
    ("query", "body"),
    [("", WEIGHTS), ("?fileId=70", PRUNED), ("?fileId=71", WEIGHTS), ("?type=Model&format=SafeTensor", WEIGHTS)],
)
def test_a_download_is_a_redirect_to_the_cdn_with_a_file_name(
    hub: Hub, version: CivitaiVersion, query: str, body: bytes
) -> None:
    answer = ask(f"{hub.civitai}/api/download/models/7{query}")
    assert (answer.status, answer.headers["location"].startswith(hub.cdn)) == (307, True)
    content = ask(answer.headers["location"])
    assert content.body == body
    assert content.headers["content-disposition"].startswith('attachment; filename="')


def test_a_file_that_the_version_lacks_is_404(hub: Hub, version: CivitaiVersion) -> None:
    assert ask(f"{hub.civitai}/api/download/models/7?fileId=99").status == 404
    assert ask(f"{hub.civitai}/api/download/models/7?format=PickleTensor").status == 404


def test_without_a_key_a_closed_download_ends_in_json_or_at_the_login_page(hub: Hub, version: CivitaiVersion) -> None:
    url = f"{hub.civitai}/api/download/models/7"
    version.login = "json"
    refused = ask(url)
    assert (refused.status, json.loads(refused.body)["error"]) == (401, "Unauthorized")
    version.login = "page"
    trap = ask(url)
    assert (trap.status, trap.headers["location"].startswith(f"{hub.civitai}/login?")) == (307, True)
    page = ask(trap.headers["location"])
    assert (page.status, page.headers["content-type"].split(";")[0]) == (200, "text/html")
    version.login = "forbidden"
    assert ask(url).status == 403


def test_a_key_opens_a_closed_download_in_the_header_or_the_query(hub: Hub, version: CivitaiVersion) -> None:
    version.login = "json"
    hub.world.token("civitai", "key")
    url = f"{hub.civitai}/api/download/models/7"
    assert ask(url, Authorization="Bearer key").status == 307
    assert ask(url + "?token=key").status == 307
    assert ask(url, Authorization="Bearer other").status == 401


def test_early_access_is_403_even_with_a_key(hub: Hub, version: CivitaiVersion) -> None:
    version.early_access = True
    hub.world.token("civitai", "key")
    assert ask(f"{hub.civitai}/api/download/models/7", Authorization="Bearer key").status == 403
