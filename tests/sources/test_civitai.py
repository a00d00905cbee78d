from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.config.settings import Settings
from modelfetch.core.digest import Digest
from modelfetch.demo.body import as_body
from modelfetch.demo.world import CivitaiFile
from modelfetch.manifest.uri import parse_uri
from modelfetch.sources import SourceRequest, known
from tests.cases import first
from tests.faults import RedirectTo, Status
from tests.sources.contract import PLANTED, Case, NetworkContract

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from modelfetch.demo.hub import Hub
    from tests.sources.bench import SourceBench

WEIGHTS = b"w" * 3333
API = "/api/v1/model-versions/*"


def _file(number: int = 11, name: str = "dream.safetensors", **options: Any) -> CivitaiFile:
    return CivitaiFile(id=number, name=name, body=as_body(WEIGHTS), **options)


@pytest.fixture
def version(hub: Hub) -> Hub:
    hub.world.civitai_version(101, [_file()])
    return hub


class TestCivitai(NetworkContract):
    @pytest.fixture
    def case(self, hub: Hub, version: Hub) -> Case:
        hub.world.civitai_version(102, [_file()], login="json")
        return Case(
            good="civitai://101",
            sizes={"dream.safetensors": 3333},
            missing="civitai://999",
            refused="civitai://102",
            origin="civitai",
            path=API,
            secret={"CIVITAI_API_TOKEN": PLANTED},
        )


def test_the_digest_is_read_in_upper_case_and_the_size_is_exact(bench: SourceBench, version: Hub) -> None:
    (artifact,) = bench.resolve("civitai://101").artifacts
    assert (artifact.digest, artifact.size) == (Digest.sha256(WEIGHTS), 3333)


def test_the_address_names_the_file_and_holds_no_token(make_desk: Callable[..., SourceBench], version: Hub) -> None:
    version.world.token("civitai", PLANTED)
    (artifact,) = make_desk(CIVITAI_API_TOKEN=PLANTED).resolve("urn:air:sdxl:checkpoint:civitai:1010@101").artifacts
    assert artifact.locations[0].url == f"{version.civitai}/api/download/models/101?fileId=11"
    assert all(PLANTED not in entry.target for entry in version.log.requests())
    assert {e.authorization for e in version.log.requests(origin="civitai")} == {f"Bearer {PLANTED}"}


@pytest.mark.parametrize("login", ["json", "page", "forbidden"])
def test_each_form_of_a_login_request_is_77_with_the_hint(
    make_desk: Callable[..., SourceBench], hub: Hub, login: str
) -> None:
    hub.world.civitai_version(7, [_file()], login=login)
    hub.world.token("civitai", "good")
    error = make_desk().refusal("civitai://7")
    assert (error.exit_code, error.code) == (77, "unauthorized" if login == "json" else "login-page")
    assert "CIVITAI_API_TOKEN" in str(error.hint)
    refused = make_desk(CIVITAI_API_TOKEN="bad").refusal("civitai://7")
    assert "make a new one" in str(refused.hint)
    assert make_desk(CIVITAI_API_TOKEN="good").resolve("civitai://7").artifacts[0].size == 3333


def test_a_login_page_on_another_domain_is_seen_too(bench: SourceBench, version: Hub) -> None:
    version.world.file("x/login", b"<html>", content_type="text/html")
    version.faults.add("/api/download/*", RedirectTo(url=version.files + "x/login?reason=download-auth"))
    assert bench.refusal("civitai://101").code == "login-page"


def test_early_access_is_named_in_the_error(bench: SourceBench, hub: Hub) -> None:
    hub.world.civitai_version(8, [_file()], early_access=True)
    error = bench.refusal("civitai://8")
    assert (error.exit_code, error.code) == (77, "early-access")


@pytest.mark.parametrize("scan", ["Danger", "Pending", "Error", ""])
def test_a_scan_that_is_not_success_is_65_unless_allowed(bench: SourceBench, hub: Hub, scan: str) -> None:
    hub.world.civitai_version(9, [_file(scan=scan)])
    error = bench.refusal("civitai://9")
    assert (error.exit_code, error.code) == (65, "scan-not-clean")
    assert bench.resolve("civitai://9", allow_unscanned=True).artifacts


def test_the_primary_file_is_taken_or_the_one_that_is_named(bench: SourceBench, hub: Hub) -> None:
    hub.world.civitai_version(5, [_file(1, "vae.pt", type="VAE", primary=False), _file(2, "main.safetensors")])
    assert bench.resolve("civitai://5").artifacts[0].path == "main.safetensors"
    assert bench.resolve("civitai://5?fileId=1").artifacts[0].path == "vae.pt"
    error = bench.refusal("civitai://5?fileId=3")
    assert error.exit_code == 66
    assert "1, 2" in str(error.hint)


def test_without_a_primary_file_the_only_model_is_taken_and_otherwise_one_must_be_named(
    bench: SourceBench, hub: Hub
) -> None:
    training = _file(1, "data.zip", type="Training Data", primary=False)
    hub.world.civitai_version(5, [training, _file(2, "main.safetensors", primary=False)])
    assert bench.resolve("civitai://5").artifacts[0].path == "main.safetensors"
    hub.world.civitai_version(6, [_file(1, primary=False), _file(2, "b.safetensors", primary=False)])
    error = bench.refusal("civitai://6")
    assert error.exit_code == 66
    assert "fileId" in str(error.hint)


@pytest.mark.parametrize(
    ("name", "path"),
    [("../../evil.safetensors", "evil.safetensors"), ("a/b\\c.safetensors", "c.safetensors"), ("..", "civitai-4")],
)
def test_the_name_is_made_safe(bench: SourceBench, hub: Hub, name: str, path: str) -> None:
    hub.world.civitai_version(4, [_file(name=name)])
    assert bench.resolve("civitai://4").artifacts[0].path == path


@pytest.mark.parametrize(
    "document",
    [
        {"files": "x"},
        {"files": None},
        {"id": 1},
    ],
)
def test_invalid_metadata_is_69(bench: SourceBench, version: Hub, document: Any) -> None:
    version.faults.add(API, Status(code=200, body=json.dumps(document), content_type="application/json"))
    assert bench.refusal("civitai://101").code == "bad-response"


@pytest.mark.parametrize(
    "file",
    [
        {"id": 11, "name": 7, "hashes": 8},
        {"id": 11, "hashes": {"SHA256": "xyz", "BLAKE3": None}},
        {"id": "11", "name": "dream.safetensors"},
    ],
)
def test_a_file_with_invalid_fields_has_no_digest_and_a_generated_name(
    bench: SourceBench, version: Hub, file: Any
) -> None:
    body = json.dumps({"files": [file]})
    version.faults.add(API, Status(code=200, body=body, content_type="application/json"))
    (artifact,) = bench.resolve("civitai://101", allow_unscanned=True).artifacts
    assert artifact.digest is None
    assert artifact.path in ("civitai-101", "dream.safetensors")


@pytest.mark.parametrize("number", first(2, [True, 10**20, -1, 0, 1.5, "11"]))
def test_an_impossible_number_of_a_file_is_no_part_of_its_address(
    bench: SourceBench, version: Hub, number: Any
) -> None:
    body = json.dumps({"files": [{"id": number, "name": "a.safetensors"}]})
    version.faults.add(API, Status(code=200, body=body, content_type="application/json"))
    (artifact,) = bench.resolve("civitai://101", allow_unscanned=True).artifacts
    assert artifact.locations[0].url == f"{version.civitai}/api/download/models/101"


def test_blake3_serves_where_there_is_no_sha256(bench: SourceBench, version: Hub) -> None:
    file = {"id": 11, "name": "a.safetensors", "hashes": {"BLAKE3": "AB" * 32}}
    body = json.dumps({"files": [file]})
    version.faults.add(API, Status(code=200, body=body, content_type="application/json"))
    (artifact,) = bench.resolve("civitai://101", allow_unscanned=True).artifacts
    assert artifact.digest == Digest("blake3", "ab" * 32)


def test_a_version_without_files_is_66(bench: SourceBench, hub: Hub) -> None:
    hub.world.civitai_version(3, [])
    assert bench.refusal("civitai://3").exit_code == 66


def test_a_download_link_of_civitai_is_resolved_by_the_civitai_source(bench: SourceBench, version: Hub) -> None:
    (artifact,) = bench.resolve(f"{version.civitai}/api/download/models/101").artifacts
    assert (artifact.path, artifact.digest) == ("dream.safetensors", Digest.sha256(WEIGHTS))


SITE_LINKS = [
    "{site}/api/download/models/101?type=Model&format=SafeTensor&size=pruned&fp=fp16",
    "{site}/api/download/models/101?type=Model&format=SafeTensor&size=pruned&fp=fp16&token=" + PLANTED,
    "{site}/api/download/models/101?token=" + PLANTED + "&type=Model",
    "{site}/api/download/models/101?fileId=11&token=" + PLANTED,
    "{site}/models/1010/dream?modelVersionId=101",
    "{site}/models/1010?modelVersionId=101#content",
    "{site}/model-versions/101",
    "{site}/api/v1/model-versions/101",
]
SITES = ["https://civitai.com", "https://civitai.red", "https://www.civitai.com", "civitai.com"]


@pytest.mark.parametrize("link", SITE_LINKS)
@pytest.mark.parametrize("site", first(2, ["", *SITES]))
def test_each_link_of_the_site_is_the_same_as_its_own_uri(
    make_desk: Callable[..., SourceBench], version: Hub, link: str, site: str
) -> None:
    version.world.civitai_version(101, [_file()], login="json")
    version.world.token("civitai", "word")
    bench = make_desk(CIVITAI_API_TOKEN="word")
    (own,) = bench.resolve("civitai://101").artifacts
    (artifact,) = bench.resolve(link.format(site=site or version.civitai)).artifacts
    assert (artifact.path, artifact.digest, artifact.size) == (own.path, own.digest, own.size)
    assert artifact.locations[0].url == own.locations[0].url
    assert PLANTED not in repr(artifact) + repr(parse_uri(link.format(site=site or version.civitai)))
    assert all(PLANTED not in entry.target for entry in version.log.requests())


def test_the_scan_of_a_linked_file_counts(bench: SourceBench, hub: Hub) -> None:
    hub.world.civitai_version(101, [_file(scan="Danger")])
    for link in SITE_LINKS:
        assert bench.refusal(link.format(site="https://civitai.com")).code == "scan-not-clean"


def test_the_token_of_a_link_is_used_where_no_other_is_set_and_warned_of(
    make_desk: Callable[..., SourceBench], version: Hub
) -> None:
    version.world.civitai_version(101, [_file()], login="json")
    version.world.token("civitai", PLANTED)
    bench = make_desk()
    assert bench.resolve(SITE_LINKS[1].format(site="https://civitai.com")).artifacts[0].size == 3333
    (warning,) = (e for e in bench.events if getattr(e, "level", "") == "warning")  # not a retry on a busy machine
    assert "CIVITAI_API_TOKEN" in str(getattr(warning, "hint", ""))
    assert PLANTED not in str(warning)
    assert {e.authorization for e in version.log.requests(origin="civitai")} == {f"Bearer {PLANTED}"}
    other = make_desk(CIVITAI_API_TOKEN="bad").refusal(SITE_LINKS[1].format(site="https://civitai.com"))
    assert "make a new one" in str(other.hint)


def test_a_link_prefers_the_file_that_it_describes(bench: SourceBench, hub: Hub) -> None:
    files = [
        _file(1, "main.safetensors", format="SafeTensor"),
        _file(2, "main.ckpt", format="PickleTensor", primary=False),
        _file(3, "vae.pt", type="VAE", primary=False),
    ]
    hub.world.civitai_version(5, files)
    for query, name in (
        ("type=Model&format=SafeTensor", "main.safetensors"),
        ("type=Model&format=PickleTensor", "main.ckpt"),
        ("type=VAE", "vae.pt"),
        ("format=PickleTensor&fileId=1", "main.safetensors"),
    ):
        assert bench.resolve(f"https://civitai.com/api/download/models/5?{query}").artifacts[0].path == name
        assert bench.resolve(f"civitai://5?{query}".split("&fileId")[0]).artifacts


def test_the_second_domain_is_used_where_a_link_names_it() -> None:
    uri = parse_uri("https://civitai.red/models/1/x?modelVersionId=101&token=" + PLANTED)
    wanted = SourceRequest(uri=uri, digest=Digest("sha256", "1" * 64), size=3, filename="a.safetensors")
    for environ, endpoint in (
        ({}, "https://civitai.red"),
        ({"MODELFETCH_CIVITAI_ENDPOINT": "https://cache.corp/c"}, "https://cache.corp/c"),
    ):
        found = known(wanted, Settings.from_env(environ), lambda _digest: None)
        assert found is not None
        assert found.artifacts[0].locations[0].url == f"{endpoint}/api/download/models/101"
    assert parse_uri(uri.text) == uri
    assert getattr(parse_uri(uri.text), "host", None) == "civitai.red"


def test_a_token_that_can_not_be_read_is_named_where_one_is_needed(
    make_desk: Callable[..., SourceBench], hub: Hub, home: Path
) -> None:
    hub.world.civitai_version(7, [_file()], login="page")
    hub.world.civitai_version(8, [_file()], login="json")
    hub.world.civitai_version(9, [_file()])
    bench = make_desk(CIVITAI_API_TOKEN_FILE=str(home / "absent"))
    assert bench.resolve("civitai://9").artifacts
    for uri in ("civitai://7", "civitai://8"):
        error = bench.refusal(uri)
        assert (error.exit_code, "CIVITAI_API_TOKEN_FILE" in str(error)) == (77, True)


def test_a_pinned_file_with_a_name_needs_no_request() -> None:
    digest = Digest("sha256", "1" * 64)
    wanted = SourceRequest(uri=parse_uri("civitai://101?fileId=11"), digest=digest, size=3, filename="a.safetensors")
    found = known(wanted, Settings(), lambda _digest: None)
    assert found is not None
    assert found.artifacts[0].locations[0].url == "https://civitai.com/api/download/models/101?fileId=11"
    assert known(SourceRequest(uri=wanted.uri, digest=digest, size=3), Settings(), lambda _digest: None) is None


def test_an_expired_signed_url_is_requested_again(bench: SourceBench, version: Hub) -> None:
    version.faults.add("*", Status(code=403), origin="cdn")
    assert bench.resolve("civitai://101").artifacts[0].size == 3333
    assert bench.waits == [1]


def test_a_content_host_that_always_refuses_is_77(bench: SourceBench, version: Hub) -> None:
    version.faults.add("*", Status(code=403), origin="cdn", times=None)
    assert bench.refusal("civitai://101").exit_code == 77
    assert len(version.log.requests(origin="cdn")) == bench.retries
