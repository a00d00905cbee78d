from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from modelfetch.demo.repo import HfRepo, git_oid
from modelfetch.demo.world import RateLimit
from tests.demo.conftest import Answer, ask

if TYPE_CHECKING:
    from modelfetch.demo import Hub

WEIGHTS = b"weights" * 100
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def repo(hub: Hub) -> HfRepo:
    return hub.world.hf_repo(
        "org/name",
        {"config.json": b"{}", "sub/model.safetensors": WEIGHTS},
        refs={"v1": None, "refs/pr/2": {"new.txt": b"new"}},
        renamed_from=["old/name", "alias"],
    )


def document(answer: Answer) -> object:
    assert answer.headers["content-type"].startswith("application/json")
    return json.loads(answer.body)


def test_a_blob_is_named_by_its_git_digest() -> None:
    assert git_oid(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_info_names_the_commit_and_with_blobs_every_file(hub: Hub, repo: HfRepo) -> None:
    info = document(ask(f"{hub.endpoint}/api/models/org/name?blobs=true"))
    assert isinstance(info, dict)
    assert (info["id"], info["sha"], info["private"], info["gated"]) == ("org/name", repo.main, False, False)
    assert info["siblings"] == [
        {"rfilename": "config.json", "blobId": git_oid(b"{}"), "size": 2},
        {
            "rfilename": "sub/model.safetensors",
            "blobId": repo.commits[repo.main].files["sub/model.safetensors"].oid,
            "size": 700,
            "lfs": {"sha256": SHA256, "size": 700, "pointerSize": 128},
        },
    ]


def test_info_without_blobs_only_lists_names(hub: Hub, repo: HfRepo) -> None:
    info = document(ask(f"{hub.endpoint}/api/models/org/name/revision/{repo.main}"))
    assert isinstance(info, dict)
    assert info["siblings"] == [{"rfilename": "config.json"}, {"rfilename": "sub/model.safetensors"}]


@pytest.mark.parametrize("revision", ["main", "v1", "refs%2Fpr%2F2", "refs/pr/2", "COMMIT", "SHORT"])
def test_a_revision_may_be_a_branch_a_tag_a_reference_or_a_commit(hub: Hub, repo: HfRepo, revision: str) -> None:
    known = {"COMMIT": repo.main, "SHORT": repo.main[:8]}
    asked = known.get(revision, revision)
    path = "new.txt" if "pr" in revision else "config.json"
    commit = repo.refs["refs/pr/2"] if "pr" in revision else repo.main
    answer = ask(f"{hub.endpoint}/org/name/resolve/{asked}/{path}")
    assert (answer.status, answer.headers["x-repo-commit"]) == (200, commit)


def test_a_small_file_is_sent_without_a_redirect_and_with_its_git_id(hub: Hub, repo: HfRepo) -> None:
    answer = ask(f"{hub.endpoint}/org/name/resolve/main/config.json")
    assert (answer.status, answer.body, answer.headers["etag"]) == (200, b"{}", f'"{git_oid(b"{}")}"')
    assert "x-linked-etag" not in answer.headers


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_lfs_file_is_a_redirect_that_names_its_sha256(hub: Hub, repo: HfRepo, method: str) -> None:
    answer = ask(f"{hub.endpoint}/org/name/resolve/main/sub/model.safetensors", method=method)
    assert answer.status == 302
    assert answer.headers["x-linked-etag"] == f'"{SHA256}"'
    assert answer.headers["x-linked-size"] == "700"
    assert answer.headers["x-repo-commit"] == repo.main
    assert answer.headers["location"].startswith(hub.cdn + "/")


def test_the_cdn_is_another_host_with_an_etag_that_is_not_the_sha256(hub: Hub, repo: HfRepo) -> None:
    location = ask(f"{hub.endpoint}/org/name/resolve/main/sub/model.safetensors").headers["location"]
    answer = ask(location, Range="bytes=5-9")
    assert (answer.status, answer.body) == (206, WEIGHTS[5:10])
    etag = answer.headers["etag"].strip('"')
    assert len(etag) == 64
    assert etag != SHA256
    assert "localhost" in hub.cdn
    assert "127.0.0.1" in hub.endpoint


def test_the_tree_lists_one_level_or_all_and_pages(hub: Hub, repo: HfRepo) -> None:
    top = document(ask(f"{hub.endpoint}/api/models/org/name/tree/main"))
    assert isinstance(top, list)
    assert [(entry["type"], entry["path"]) for entry in top] == [("file", "config.json"), ("directory", "sub")]
    inner = document(ask(f"{hub.endpoint}/api/models/org/name/tree/main/sub"))
    assert isinstance(inner, list)
    assert inner[0]["lfs"] == {"oid": SHA256, "size": 700, "pointerSize": 128}
    hub.world.tree_page = 2
    first = ask(f"{hub.endpoint}/api/models/org/name/tree/main?recursive=true")
    link = first.headers["link"]
    assert link.endswith('; rel="next"')
    second = ask(link[1 : link.index(">")])
    assert "link" not in second.headers
    assert [entry["path"] for answer in (first, second) for entry in json.loads(answer.body)] == [
        "config.json",
        "sub",
        "sub/model.safetensors",
    ]


def test_paths_info_omits_missing_paths(hub: Hub, repo: HfRepo) -> None:
    url = f"{hub.endpoint}/api/models/org/name/paths-info/main"
    answer = document(ask(url, method="POST", body="paths=config.json&paths=nothing&paths=sub"))
    assert isinstance(answer, list)
    assert [entry["path"] for entry in answer] == ["config.json", "sub"]


@pytest.mark.parametrize("old", ["old/name", "alias"])
def test_a_renamed_repository_redirects_within_the_hub(hub: Hub, repo: HfRepo, old: str) -> None:
    answer = ask(f"{hub.endpoint}/{old}/resolve/v1/sub/model.safetensors?download=true")
    assert (answer.status, answer.headers["location"]) == (
        307,
        "/org/name/resolve/v1/sub/model.safetensors?download=true",
    )
    api = ask(f"{hub.endpoint}/api/models/{old}/revision/v1?blobs=true")
    assert (api.status, api.headers["location"]) == (307, "/api/models/org/name/revision/v1?blobs=true")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/org/name/resolve/main/nothing.bin", "EntryNotFound"),
        ("/org/name/resolve/nothing/config.json", "RevisionNotFound"),
        ("/api/models/org/name/revision/nothing", "RevisionNotFound"),
        ("/api/models/org/name/tree/main/nothing", "EntryNotFound"),
    ],
)
def test_a_header_names_the_kind_of_404(hub: Hub, repo: HfRepo, path: str, code: str) -> None:
    answer = ask(hub.endpoint + path)
    assert (answer.status, answer.headers["x-error-code"]) == (404, code)
    assert answer.headers["x-error-message"]


def test_a_missing_repository_is_401_to_anonymous_and_404_to_others(hub: Hub) -> None:
    hub.world.token("hf", "hf_good")
    url = f"{hub.endpoint}/api/models/org/nothing"
    anonymous = ask(url)
    assert (anonymous.status, "x-error-code" in anonymous.headers) == (401, False)
    known = ask(url, Authorization="Bearer hf_good")
    assert (known.status, known.headers["x-error-code"]) == (404, "RepoNotFound")
    assert ask(url, Authorization="Bearer hf_bad").headers["x-error-message"].startswith("Invalid credentials")


def test_a_private_repository_looks_missing_without_the_right_token(hub: Hub) -> None:
    hub.world.hf_repo("org/private", {"a.txt": b"a"}, private=True)
    hub.world.token("hf", "hf_inside", private=["org/*"])
    hub.world.token("hf", "hf_outside")
    url = f"{hub.endpoint}/org/private/resolve/main/a.txt"
    assert ask(url).status == 401
    assert ask(url, Authorization="Bearer hf_outside").status == 404
    assert ask(url, Authorization="Bearer hf_inside").body == b"a"


def test_a_gated_repository_shows_itself_but_not_its_files(hub: Hub) -> None:
    hub.world.hf_repo("org/gated", {"a.safetensors": WEIGHTS}, gated="manual")
    hub.world.token("hf", "hf_accepted", gated=["org/gated"])
    hub.world.token("hf", "hf_not_yet")
    info = document(ask(f"{hub.endpoint}/api/models/org/gated"))
    assert isinstance(info, dict)
    assert info["gated"] == "manual"
    url = f"{hub.endpoint}/org/gated/resolve/main/a.safetensors"
    refused = ask(url)
    assert (refused.status, refused.headers["x-error-code"]) == (401, "GatedRepo")
    waiting = ask(url, Authorization="Bearer hf_not_yet")
    assert (waiting.status, waiting.headers["x-error-code"]) == (403, "GatedRepo")
    assert ask(url, Authorization="Bearer hf_accepted").status == 302


def test_requests_beyond_the_limit_get_429_with_the_time_to_wait(hub: Hub, repo: HfRepo) -> None:
    hub.world.rate_limit("resolvers", quota=1, reset=42)
    url = f"{hub.endpoint}/org/name/resolve/main/config.json"
    assert ask(url).headers["ratelimit"] == '"resolvers";r=0;t=42'
    refused = ask(url)
    assert (refused.status, refused.headers["ratelimit"]) == (429, '"resolvers";r=0;t=42')
    assert refused.headers["ratelimit-policy"] == '"fixed window";"resolvers";q=1;w=300'
    assert ask(f"{hub.endpoint}/api/models/org/name").status == 200


def test_without_a_limit_no_request_is_refused(hub: Hub, repo: HfRepo) -> None:
    for _ in range(3):
        hub.world.limits.setdefault("api", RateLimit(1, 300, enforced=False))
        assert ask(f"{hub.endpoint}/api/models/org/name").status == 200


def test_the_hub_reports_whether_it_knows_a_token(hub: Hub) -> None:
    hub.world.token("hf", "hf_good")
    assert json.loads(ask(f"{hub.endpoint}/api/whoami-v2", Authorization="Bearer hf_good").body)["name"] == "demo"
    assert ask(f"{hub.endpoint}/api/whoami-v2", Authorization="Bearer hf_bad").status == 401


def test_only_repositories_on_xet_send_xet_headers(hub: Hub, repo: HfRepo) -> None:
    hub.world.hf_repo("org/xet", {"a.safetensors": WEIGHTS}, xet=True)
    assert "x-xet-hash" not in ask(f"{hub.endpoint}/org/name/resolve/main/sub/model.safetensors").headers
    answer = ask(f"{hub.endpoint}/org/xet/resolve/main/a.safetensors")
    assert answer.headers["link"].endswith('rel="xet-auth"')
    assert len(answer.headers["x-xet-hash"]) == 64


def test_small_files_may_take_the_hubs_own_redirect(hub: Hub) -> None:
    repo = hub.world.hf_repo("org/cached", {"config.json": b"{}"}, resolve_cache=True)
    answer = ask(f"{hub.endpoint}/org/cached/resolve/main/config.json")
    location = answer.headers["location"]
    assert (answer.status, answer.headers["x-repo-commit"]) == (307, repo.main)
    assert location == f"/api/resolve-cache/models/org/cached/{repo.main}/config.json"
    assert ask(hub.endpoint + location).body == b"{}"


def test_a_commit_depends_on_the_content_alone(hub: Hub, repo: HfRepo) -> None:
    before = repo.main
    assert repo.commit({"config.json": b"[]"}) != before
    assert repo.commit({"sub/model.safetensors": WEIGHTS, "config.json": b"{}"}) == before
