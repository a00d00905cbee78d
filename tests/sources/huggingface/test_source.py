from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.config.settings import Settings
from modelfetch.core.digest import Digest
from modelfetch.manifest.model import FileSpec
from modelfetch.manifest.uri import parse_uri
from modelfetch.sources import SourceRequest, known
from tests.cases import each, first
from tests.faults import RateLimited, Status
from tests.interpreter import run
from tests.sources.contract import PLANTED, Case, NetworkContract

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from modelfetch.demo.hub import Hub
    from modelfetch.demo.repo import HfRepo
    from tests.sources.bench import SourceBench

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"w" * 1000,
    "unet/model.safetensors": b"u" * 2000,
    "README.md": b"# Read me\n",
}
API = "/api/models/org/repo*"


@pytest.fixture
def repo(hub: Hub) -> HfRepo:
    return hub.world.hf_repo(
        "org/repo",
        FILES,
        refs={"v1.0": {"old.txt": b"old"}, "refs/pr/3": {"pr.txt": b"pr"}, "a/b": {"slash.txt": b"s"}},
    )


class TestHf(NetworkContract):
    @pytest.fixture
    def case(self, hub: Hub, repo: HfRepo) -> Case:
        hub.world.hf_repo("org/private", FILES, private=True)
        return Case(
            good="hf://org/repo/model.safetensors",
            sizes={"model.safetensors": 1000},
            missing="hf://org/repo/none.safetensors",
            refused="hf://org/private/model.safetensors",
            origin="hf",
            path="/api/models/org/repo/*",
            has_other_ways=True,
            secret={"HF_TOKEN": PLANTED},
        )


def test_every_file_has_the_digest_and_the_cache_name_that_git_gives_it(bench: SourceBench, repo: HfRepo) -> None:
    found = {a.path: a for a in bench.resolve("hf://org/repo", kind="snapshot").artifacts}
    weights, config = found["unet/model.safetensors"], found["config.json"]
    assert weights.digest == Digest.sha256(FILES["unet/model.safetensors"])
    assert weights.cache_name == hashlib.sha256(FILES["unet/model.safetensors"]).hexdigest()
    oid = hashlib.sha1(b"blob 2\0{}", usedforsecurity=False).hexdigest()
    assert (config.digest, config.cache_name) == (Digest("git-sha1", oid), oid)
    assert list(found) == sorted(FILES)


def test_addresses_and_names_hold_the_commit(bench: SourceBench, repo: HfRepo, hub: Hub) -> None:
    found = bench.resolve("hf://org/repo/unet/model.safetensors")
    (artifact,) = found.artifacts
    assert (found.revision, found.pinned) == (repo.main, False)
    assert artifact.uri == f"hf://org/repo@{repo.main}/unet/model.safetensors"
    assert artifact.locations[0].url == f"{hub.endpoint}/org/repo/resolve/{repo.main}/unet/model.safetensors"


def test_a_branch_a_tag_a_pull_request_and_a_commit_are_revisions(bench: SourceBench, repo: HfRepo) -> None:
    assert bench.resolve("hf://org/repo@v1.0/old.txt").revision == repo.refs["v1.0"]
    assert bench.resolve("hf://org/repo@a%2Fb/slash.txt").revision == repo.refs["a/b"]
    assert bench.resolve("hf://org/repo@refs/pr/3/pr.txt").revision == repo.refs["refs/pr/3"]
    pinned = bench.resolve(f"hf://org/repo@{repo.main}/config.json")
    assert (pinned.revision, pinned.pinned) == (repo.main, True)


def test_a_short_commit_becomes_the_whole_one(bench: SourceBench, repo: HfRepo, hub: Hub) -> None:
    repo.refs[repo.main[:7]] = repo.main
    found = bench.resolve(f"hf://org/repo@{repo.main[:7]}/config.json")
    assert (found.revision, found.pinned) == (repo.main, False)


def test_an_unknown_revision_is_named_in_the_error(bench: SourceBench, repo: HfRepo) -> None:
    error = bench.refusal("hf://org/repo@nope/config.json")
    assert (error.exit_code, error.code) == (66, "unknown-revision")


def test_a_repo_is_requested_once_in_a_session(bench: SourceBench, repo: HfRepo, hub: Hub) -> None:
    for name in FILES:
        bench.resolve(f"hf://org/repo/{name}")
    assert len(hub.log.requests()) == 1


def test_include_matches_as_the_official_client_does(bench: SourceBench, repo: HfRepo) -> None:
    def paths(*include: str) -> list[str]:
        return [a.path for a in bench.resolve("hf://org/repo", kind="snapshot", include=include).artifacts]

    assert sorted(paths("*.safetensors")) == ["model.safetensors", "unet/model.safetensors"]
    assert paths("unet/") == ["unet/model.safetensors"]
    assert paths("*.JSON", "config.*") == ["config.json"]


def test_an_include_that_matches_nothing_is_66(bench: SourceBench, repo: HfRepo) -> None:
    error = bench.refusal("hf://org/repo", kind="snapshot", include=("*.onnx",))
    assert error.exit_code == 66
    assert "*.onnx" in str(error)


def test_listed_files_that_are_not_there_are_named(bench: SourceBench, repo: HfRepo) -> None:
    files = (FileSpec(path="config.json"), FileSpec(path="modle.safetensors"), FileSpec(path="gone.bin"))
    error = bench.refusal("hf://org/repo", kind="snapshot", files=files)
    assert error.exit_code == 66
    assert "modle.safetensors" in str(error)
    assert "gone.bin" in str(error)
    assert "model.safetensors" in str(error.hint)


def test_listed_files_come_in_their_order_with_their_pins(bench: SourceBench, repo: HfRepo) -> None:
    blake = Digest("blake3", "2" * 64)
    files = (FileSpec(path="model.safetensors", digest=blake), FileSpec(path="config.json", size=2))
    found = bench.resolve("hf://org/repo", kind="snapshot", files=files).artifacts
    assert [(a.path, a.size) for a in found] == [("model.safetensors", 1000), ("config.json", 2)]
    assert found[0].digest == blake


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        (FileSpec(path="config.json", size=3), "size-mismatch"),
        (FileSpec(path="model.safetensors", digest=Digest("sha256", "0" * 64)), "digest-mismatch"),
    ],
)
def test_a_listed_file_that_contradicts_is_65(bench: SourceBench, repo: HfRepo, spec: FileSpec, code: str) -> None:
    error = bench.refusal("hf://org/repo", kind="snapshot", files=(spec,))
    assert (error.exit_code, error.code) == (65, code)


def test_all_files_that_contradict_are_named_at_once(bench: SourceBench, repo: HfRepo) -> None:
    files = tuple(FileSpec(path=path, size=7) for path in FILES)
    error = bench.refusal("hf://org/repo", kind="snapshot", files=files)
    assert (error.exit_code, error.code) == (65, "size-mismatch")
    assert all(path in error.message for path in FILES)


def test_the_digest_of_a_file_outside_lfs_is_checked_after_the_download(bench: SourceBench, repo: HfRepo) -> None:
    digest = Digest.sha256(b"{}")
    (artifact,) = bench.resolve("hf://org/repo/config.json", digest=digest).artifacts
    assert artifact.digest == digest


def test_a_repo_that_was_renamed_keeps_the_name_as_written(bench: SourceBench, hub: Hub) -> None:
    hub.world.hf_repo("org/new", FILES, renamed_from=["org/old"])
    (artifact,) = bench.resolve("hf://org/old/config.json").artifacts
    assert artifact.uri.startswith("hf://org/old@")
    assert "/org/old/resolve/" in artifact.locations[0].url


def test_an_https_link_to_the_hub_is_resolved_by_the_hub_source(bench: SourceBench, repo: HfRepo, hub: Hub) -> None:
    link = f"{hub.endpoint}/org/repo/resolve/main/model.safetensors?download=true"
    (artifact,) = bench.resolve(link).artifacts
    assert (artifact.uri, artifact.digest) == (link, Digest.sha256(FILES["model.safetensors"]))


# -- access ------------------------------------------------------------------------------------------------------------

TOKEN = "hf_thisIsAToken"
GATED = "hf://org/gated/model.safetensors"


@pytest.fixture
def gated(hub: Hub) -> Hub:
    hub.world.hf_repo("org/gated", FILES, gated="auto")
    hub.world.hf_repo("org/private", FILES, private=True)
    hub.world.token("hf", TOKEN, private=["org/mine"])
    hub.world.token("hf", "hf_accepted", gated=["org/gated"], private=["org/private"])
    return hub


@pytest.mark.parametrize(
    ("uri", "token", "exit_code", "code", "hint"),
    [
        (GATED, None, 77, "gated", "HF_TOKEN"),
        (GATED, TOKEN, 77, "gated", "accept them"),
        (GATED, "hf_nonsense", 77, "unauthorized", "expired"),
        ("hf://org/private/config.json", None, 77, "missing-or-private", "HF_TOKEN"),
        ("hf://org/private/config.json", "hf_nonsense", 77, "unauthorized", "expired"),
        ("hf://org/private/config.json", TOKEN, 66, "not-found", "private"),
        ("hf://org/none/config.json", TOKEN, 66, "not-found", "check the name"),
    ],
)
def test_each_refusal_has_its_own_hint(
    gated: Hub, make_desk: Callable[..., SourceBench], uri: str, token: str | None, exit_code: int, code: str, hint: str
) -> None:
    bench = make_desk(**({"HF_TOKEN": token} if token else {}))
    error = bench.refusal(uri)
    assert (error.exit_code, error.code) == (exit_code, code)
    assert hint in str(error.hint)


def test_a_token_with_access_opens_gated_and_private_repos(gated: Hub, make_desk: Callable[..., SourceBench]) -> None:
    bench = make_desk(HF_TOKEN="hf_accepted")
    assert bench.resolve(GATED).artifacts
    assert bench.resolve("hf://org/private/config.json").artifacts


@pytest.mark.parametrize(
    ("status", "headers", "code", "hint"),
    [
        (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Enable access in your fine-grained token settings"},
         "gated", "gated repos"),
        (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Your request is awaiting review"}, "gated", "look at"),
        (403, {"X-Error-Message": "Your token lacks the permission"}, "forbidden", "token"),
        (403, {}, "forbidden", "token"),
        (403, {"X-Error-Message": "Access to this resource is disabled."}, "not-found", "mirror"),
        (400, {"X-Error-Message": "Invalid rev id"}, "unknown-revision", "tree/main"),
        (410, {}, "not-found", "name"),
        (418, {}, "bad-response", ""),
    ],
)  # fmt: skip
def test_each_status_of_the_hub_has_its_meaning(
    make_desk: Callable[..., SourceBench],
    repo: HfRepo,
    hub: Hub,
    status: int,
    headers: dict[str, str],
    code: str,
    hint: str,
) -> None:
    bench = make_desk(HF_TOKEN="hf_some")
    hub.faults.add("*", Status(code=status, headers=headers), times=None)
    error = bench.refusal("hf://org/repo/config.json")
    assert error.code == code
    assert hint in str(error.hint)


def test_a_rate_limit_in_the_hubs_own_header_is_honoured(bench: SourceBench, repo: HfRepo, hub: Hub) -> None:
    hub.faults.add(API, RateLimited(wait=17, kind="api"))
    assert bench.resolve("hf://org/repo/config.json").artifacts
    assert bench.waits == [17.0]


# -- mirrors -----------------------------------------------------------------------------------------------------------


def _info(repo: HfRepo, **changes: Any) -> dict[str, Any]:
    siblings = [{"rfilename": path, **changes} for path in FILES]
    return {"id": "org/repo", "sha": repo.main, "siblings": siblings}


def _answer(hub: Hub, document: Any, path: str = "/api/models/org/repo/revision/*", times: int | None = 1) -> None:
    import json

    hub.faults.add(path, Status(code=200, body=json.dumps(document), content_type="application/json"), times=times)


def test_a_mirror_without_digests_in_its_listing_is_queried_file_by_file(
    bench: SourceBench, repo: HfRepo, hub: Hub
) -> None:
    _answer(hub, _info(repo))
    (artifact,) = bench.resolve("hf://org/repo/model.safetensors").artifacts
    assert artifact.digest == Digest.sha256(FILES["model.safetensors"])


@pytest.mark.parametrize("lacking", [("*/paths-info/*",), ("*/paths-info/*", "*/tree/*")], ids=["tree", "headers"])
@pytest.mark.parametrize("status", first(2, [400, 404, 405, 406, 410, 501]))
def test_a_mirror_with_an_incomplete_api_is_queried_in_other_ways(
    bench: SourceBench, repo: HfRepo, hub: Hub, lacking: tuple[str, ...], status: int
) -> None:
    _answer(hub, _info(repo), times=None)
    for path in lacking:
        hub.faults.add(path, Status(code=status), times=None)
    (artifact,) = bench.resolve("hf://org/repo/model.safetensors").artifacts
    assert artifact.digest == Digest.sha256(FILES["model.safetensors"])
    found = bench.resolve("hf://org/repo", kind="snapshot", cached=True).artifacts
    assert {a.path: a.size for a in found} == {path: len(data) for path, data in FILES.items()}
    assert all(a.cache_name and a.digest for a in found)


def test_the_files_of_a_hub_whose_api_fails_are_found_by_their_headers(
    bench: SourceBench, repo: HfRepo, hub: Hub
) -> None:
    hub.faults.add("/api/*", Status(code=503), times=None)
    (artifact,) = bench.resolve("hf://org/repo/model.safetensors").artifacts
    assert (artifact.digest, bench.waits) == (Digest.sha256(FILES["model.safetensors"]), [])
    assert bench.refusal("hf://org/repo", kind="snapshot").code == "server-error"
    hub.faults.clear()
    assert len(bench.resolve("hf://org/repo", kind="snapshot").artifacts) == len(FILES)


@pytest.mark.parametrize("status", [403, 500])
def test_a_mirror_that_refuses_to_send_headers_is_queried_in_other_ways(
    bench: SourceBench, repo: HfRepo, hub: Hub, status: int
) -> None:
    _answer(hub, _info(repo), times=None)
    hub.faults.add("/org/repo/resolve/*", Status(code=status), times=None)
    (artifact,) = bench.resolve("hf://org/repo/model.safetensors").artifacts
    assert artifact.digest == Digest.sha256(FILES["model.safetensors"])


@pytest.mark.parametrize("content_type", ["text/plain", "application/octet-stream"])
def test_the_length_of_a_page_that_no_hub_sent_is_no_size(
    bench: SourceBench, repo: HfRepo, hub: Hub, content_type: str
) -> None:
    hub.faults.add("*", Status(code=200, body="<html>Welcome</html>", content_type=content_type), times=None)
    found = bench.resolve(f"hf://org/repo@{repo.main}/config.json", digest=DIGEST, size=1000)
    assert [(a.size, a.digest) for a in found.artifacts] == [(1000, DIGEST)]


def test_a_length_of_0_in_the_answer_to_head_is_no_size(bench: SourceBench, hub: Hub) -> None:
    hub.world.hf_repo("org/other", {"a.json": b"{}", "empty.txt": b""})
    hub.faults.add("/api/*", Status(code=404), times=None)
    commit = {"X-Repo-Commit": COMMIT}
    for name, etag, size in (("a.json", '"x"', None), ("empty.txt", _git_name(b""), 0)):
        hub.faults.add("/org/other/resolve/*", Status(code=200, headers={**commit, "ETag": etag}), times=None)
        (artifact,) = bench.resolve(f"hf://org/other/{name}").artifacts
        assert artifact.size == size
        hub.faults.clear()
        hub.faults.add("/api/*", Status(code=404), times=None)


def _git_name(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def test_a_mirror_that_refuses_blob_metadata_is_queried_without_it(bench: SourceBench, repo: HfRepo, hub: Hub) -> None:
    hub.faults.add("/api/models/org/repo/revision/*", Status(code=400), times=1)
    (artifact,) = bench.resolve("hf://org/repo/model.safetensors").artifacts
    assert artifact.digest == Digest.sha256(FILES["model.safetensors"])


def test_a_proxy_without_the_api_serves_named_files_as_the_official_client_takes_them(
    bench: SourceBench, repo: HfRepo, hub: Hub
) -> None:
    hub.faults.add("/api/*", Status(code=404), times=None)
    found = bench.resolve("hf://org/repo/model.safetensors")
    (artifact,) = found.artifacts
    content = FILES["model.safetensors"]
    assert (found.revision, artifact.size, artifact.digest) == (repo.main, len(content), Digest.sha256(content))
    files = tuple(FileSpec(path=path) for path in FILES)
    for one in bench.resolve("hf://org/repo", kind="snapshot", files=files, cached=True).artifacts:
        assert (one.size, bool(one.cache_name)) == (len(FILES[one.path]), True)
    assert bench.refusal("hf://org/repo", kind="snapshot").exit_code == 66
    assert bench.refusal("hf://org/repo/none.bin").exit_code == 66


@pytest.mark.parametrize("answer", [Status(code=c, body="<html>") for c in (401, 403, 404, 405, 501)], ids=str)
@pytest.mark.parametrize("place", ["/elsewhere", "ORIGIN/elsewhere"])
def test_a_proxy_of_files_only_serves_them_also_from_another_of_its_addresses(
    bench: SourceBench, repo: HfRepo, hub: Hub, answer: Status, place: str
) -> None:
    hub.faults.add("/api/*", answer, times=None)
    digest = Digest.sha256(FILES["model.safetensors"])
    headers = {"X-Repo-Commit": repo.main, "X-Linked-Etag": f'"{digest.hex}"', "X-Linked-Size": "5"}
    location = {"Location": place.replace("ORIGIN", hub.endpoint)}
    hub.faults.add("/org/repo/resolve/*", Status(code=302, headers={**headers, **location}), times=None)
    found = bench.resolve("hf://org/repo/model.safetensors")
    (artifact,) = found.artifacts
    assert (found.revision, artifact.size, artifact.digest) == (repo.main, 5, digest)


@pytest.mark.parametrize("code", [403, 404])
def test_with_every_file_pinned_a_proxy_without_the_api_is_not_needed(
    bench: SourceBench, repo: HfRepo, hub: Hub, code: int
) -> None:
    hub.faults.add("/api/*", Status(code=code), times=None)
    hub.faults.add("*", Status(code=404), times=None)
    files = tuple(FileSpec(path=p, size=len(data), digest=Digest.sha256(data)) for p, data in FILES.items())
    uri = f"hf://org/repo@{repo.main}"
    found = bench.resolve(uri, kind="snapshot", files=files, cached=True).artifacts
    assert {a.path: a.digest for a in found} == {p: Digest.sha256(data) for p, data in FILES.items()}


def test_an_etag_of_a_file_that_is_stored_elsewhere_is_no_digest(bench: SourceBench, repo: HfRepo, hub: Hub) -> None:
    hub.faults.add("/api/*", Status(code=404), times=None)
    elsewhere = {"Location": hub.cdn + "/x", "ETag": '"' + "a" * 40 + '"', "X-Repo-Commit": repo.main}
    hub.faults.add("/org/repo/resolve/*", Status(code=302, headers=elsewhere), times=None)
    (artifact,) = bench.resolve("hf://org/repo/model.safetensors").artifacts
    assert (artifact.digest, artifact.cache_name, artifact.size) == (None, None, None)


def test_a_list_that_goes_on_at_another_host_is_followed_without_the_token(
    make_desk: Callable[..., SourceBench], repo: HfRepo, hub: Hub
) -> None:
    bench = make_desk(HF_TOKEN=PLANTED)
    hub.world.token("hf", PLANTED)
    _answer(hub, _info(repo), times=None)
    hub.faults.add("*/paths-info/*", Status(code=404), times=None)
    further = Status(code=200, body="[]", headers={"Link": f'<{hub.cdn}/more>; rel="next"'})
    hub.faults.add("*/tree/*", further, times=None)
    hub.faults.add("/more", Status(code=200, body="[]", content_type="application/json"), origin="cdn", times=None)
    bench.resolve("hf://org/repo", kind="snapshot")
    seen = [entry for entry in hub.log.requests() if entry.origin == "cdn" and entry.target.startswith("/more")]
    assert seen
    assert [entry.authorization for entry in seen if entry.authorization] == []


def test_a_list_whose_pages_never_end_is_left_for_the_headers(
    bench: SourceBench, repo: HfRepo, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelfetch.sources.huggingface.client._MAX_REQUESTS", 5)
    _answer(hub, _info(repo), times=None)
    hub.faults.add("*/paths-info/*", Status(code=404), times=None)
    again = Status(code=200, body="[]", headers={"Link": f'<{hub.endpoint}/api/models/org/repo/tree/x>; rel="next"'})
    hub.faults.add("*/tree/*", again, times=None)
    found = bench.resolve("hf://org/repo", kind="snapshot").artifacts
    assert all(artifact.digest for artifact in found)
    assert sum("/tree/" in entry.target for entry in hub.log.requests()) == 5


def test_a_mirror_without_any_digests_serves_plain_folders_but_no_cache(
    bench: SourceBench, repo: HfRepo, hub: Hub
) -> None:
    _answer(hub, _info(repo))
    hub.faults.add("*/paths-info/*", Status(code=404), times=None)
    hub.faults.add("*/tree/*", Status(code=404), times=None)
    hub.faults.add("/org/repo/resolve/*", Status(code=200, body="x"), times=None)
    (artifact,) = bench.resolve("hf://org/repo/model.safetensors").artifacts
    assert (artifact.digest, artifact.cache_name) == (None, None)
    error = bench.refusal("hf://org/repo", kind="snapshot", cached=True)
    assert (error.exit_code, error.code) == (69, "bad-response")
    assert "HF_ENDPOINT" in str(error.hint)


CONFIG = {"rfilename": "config.json"}
LFS = {"sha256": "0" * 64, "size": 2, "pointerSize": 1}
UNKNOWN: list[Any] = [
    {"sha": None},
    {"siblings": None},
    {"siblings": [{**CONFIG, "size": "2"}]},
    {"sha": None, "siblings": []},
    {"sha": "main"},
    {"sha": 7},
    {"siblings": "none"},
    {"siblings": {}},
    {"siblings": [{"size": 3}]},
    {"siblings": [{"rfilename": 7}]},
    {"siblings": ["config.json"]},
    {"siblings": [{**CONFIG, "size": True}]},
    {"siblings": [{**CONFIG, "size": 2.0}]},
    {"siblings": [{**CONFIG, "blobId": "../../x", "size": 2}]},
    {"siblings": [{**CONFIG, "lfs": {**LFS, "sha256": "x"}}]},
    {"siblings": [{**CONFIG, "blobId": "0" * 40, "size": 2, "lfs": {"size": 2}}]},
    {"siblings": [{**CONFIG, "blobId": "0" * 40, "size": 2, "lfs": True}]},
    {"siblings": [{**CONFIG, "blobId": "0" * 40, "size": 11 * 2**20}]},  # too large to be outside LFS
    {"siblings": [CONFIG, {"rfilename": "README.md", "size": None}]},
    {"id": None, "lastModified": "yesterday", "cardData": 7, "safetensors": [], "gated": "", "tags": {"a": 1}},
]


@pytest.mark.parametrize("changes", first(4, UNKNOWN))
def test_what_a_hub_does_not_know_is_found_elsewhere(
    make_desk: Callable[..., SourceBench], repo: HfRepo, hub: Hub, changes: dict[str, Any]
) -> None:
    listed = changes.get("siblings")
    names = [entry["rfilename"] for entry in listed if "rfilename" in entry] if isinstance(listed, list) else []
    for lacking in ((), ("*/paths-info/*",), ("*/paths-info/*", "*/tree/*")):
        hub.faults.clear()
        _answer(hub, {**_info(repo), **changes}, times=None)
        for path in lacking:
            hub.faults.add(path, Status(code=404), times=None)
        bench = make_desk()
        found = bench.resolve("hf://org/repo/config.json")
        (artifact,) = found.artifacts
        oid = hashlib.sha1(b"blob 2\0{}", usedforsecurity=False).hexdigest()
        assert (found.revision, artifact.size, artifact.cache_name) == (repo.main, 2, oid)
        files = tuple(FileSpec(path=path) for path in FILES)
        found = bench.resolve("hf://org/repo", kind="snapshot", files=files, cached=True)
        assert [(a.path, a.size, bool(a.digest)) for a in found.artifacts] == [(p, len(FILES[p]), True) for p in FILES]
        if not any(isinstance(name, str) for name in names) and "*/tree/*" not in lacking:
            assert len(bench.resolve("hf://org/repo", kind="snapshot", cached=True).artifacts) == len(FILES)
        assert bench.refusal("hf://org/repo/none.bin").exit_code == 66


def test_a_longer_list_than_metadata_can_hold_is_read_from_the_tree(
    bench: SourceBench, repo: HfRepo, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelfetch.sources.huggingface.source._MOST_SIBLINGS", 1)
    _answer(hub, {**_info(repo), "siblings": [{"rfilename": p} for p in list(FILES)[:2]]}, times=None)
    assert len(bench.resolve("hf://org/repo", kind="snapshot").artifacts) == len(FILES)
    assert len(bench.resolve("hf://org/repo", include=("*.safetensors",)).artifacts) == 2
    assert sum("/tree/" in entry.target for entry in hub.log.requests()) == 1


@pytest.mark.parametrize(("limit", "turns"), [(3, 1), (4, 0)])
def test_a_long_tree_is_a_long_answer(
    bench: SourceBench, repo: HfRepo, hub: Hub, monkeypatch: pytest.MonkeyPatch, limit: int, turns: int
) -> None:
    taken: list[int] = []
    monkeypatch.setattr("modelfetch.sources.huggingface.api._LONG_LIST", limit)
    monkeypatch.setattr("modelfetch.sources.huggingface.client.take_turn", lambda: taken.append(1))
    files = [{"type": "file", "path": f"{n}.txt", "oid": f"{n:040x}", "size": 1} for n in range(4)]
    _answer(hub, {**_info(repo), "siblings": None}, times=None)
    _answer(hub, files, path="*/tree/*", times=None)
    assert len(bench.resolve("hf://org/repo", kind="snapshot").artifacts) == 4
    assert len(taken) == turns


IMPOSSIBLE: list[tuple[str, Any]] = [
    ("revision", {"siblings": [{**CONFIG, "size": -1}]}),
    ("revision", {"siblings": [{**CONFIG, "size": 2}, {**CONFIG, "size": 3}]}),
    ("tree", [{"type": "file", "path": "config.json", "oid": "0" * 40, "size": 2**70}]),
    ("revision", {"siblings": [{**CONFIG, "size": 2**70}]}),
    ("revision", {"siblings": [CONFIG, {"rfilename": "config.json/x.json"}]}),
    ("tree", [{"type": "file", "path": path, "oid": "0" * 40, "size": 1} for path in ("a/b/c", "a")]),
    ("revision", {"siblings": [{**CONFIG, "lfs": {**LFS, "size": -5}}]}),
    ("revision", {"siblings": [{**CONFIG, "blobId": "0" * 40}, {**CONFIG, "blobId": "1" * 40}]}),
    ("paths-info", [{"type": "file", "path": "config.json", "oid": "0" * 40, "size": -3}]),
    ("tree", [{"type": "file", "path": "a", "oid": digit * 40, "size": 1} for digit in "12"]),
]


@pytest.mark.parametrize(("place", "answer"), first(3, IMPOSSIBLE))
def test_what_can_not_be_true_is_refused(bench: SourceBench, repo: HfRepo, hub: Hub, place: str, answer: Any) -> None:
    _answer(hub, {**_info(repo), **answer} if place == "revision" else _info(repo), times=None)
    if place != "revision":
        _answer(hub, answer, path=f"*/{place}/*", times=None)
    if place == "tree":
        hub.faults.add("*/paths-info/*", Status(code=404), times=None)
    error = bench.refusal("hf://org/repo", kind="snapshot")
    assert (error.exit_code, error.code, error.permanent) == (69, "bad-response", True)
    assert "HF_ENDPOINT" in str(error.hint)


@pytest.mark.parametrize("headers", [{"X-Repo-Commit": "a" * 40}, {"X-Linked-Size": "9" * 19}])
def test_headers_that_can_not_be_true_are_refused(
    bench: SourceBench, repo: HfRepo, hub: Hub, headers: dict[str, str]
) -> None:
    hub.faults.add("/api/*", Status(code=404), times=None)
    hub.faults.add("/org/repo/resolve/*", Status(code=200, headers=headers), times=None)
    error = bench.refusal(f"hf://org/repo@{repo.main}/config.json")
    assert (error.exit_code, error.code, error.permanent) == (69, "bad-response", True)


def test_the_etag_of_an_artifactory_is_not_that_of_git(bench: SourceBench, repo: HfRepo, hub: Hub) -> None:
    hub.faults.add("/api/*", Status(code=404), times=None)
    sha1 = hashlib.sha1(b"{}", usedforsecurity=False).hexdigest()
    headers = {"X-Repo-Commit": repo.main, "ETag": f'"{sha1}"', "X-Checksum-Sha1": sha1}
    for more, digest in (({}, None), ({"X-Checksum-Sha256": Digest.sha256(b"{}").hex}, Digest.sha256(b"{}"))):
        hub.faults.add("/org/repo/resolve/*", Status(code=200, headers=headers | more), times=None)
        (artifact,) = bench.resolve("hf://org/repo/config.json").artifacts
        assert artifact.digest == digest
        hub.faults.clear()
        hub.faults.add("/api/*", Status(code=404), times=None)


def test_a_pinned_file_needs_no_commit_that_a_proxy_strips(bench: SourceBench, repo: HfRepo, hub: Hub) -> None:
    hub.faults.add("/api/*", Status(code=404), times=None)
    hub.faults.add("/org/repo/resolve/*", Status(code=200, body="{}"), times=None)
    found = bench.resolve("hf://org/repo/config.json", digest=DIGEST, size=2)
    assert (found.revision, found.pinned, found.artifacts[0].digest) == (None, False, DIGEST)
    assert found.artifacts[0].locations[0].url.endswith("/resolve/main/config.json")
    error = bench.refusal("hf://org/repo/config.json")
    assert error.code == "not-found"


def test_another_commit_than_the_pinned_one_is_refused(bench: SourceBench, repo: HfRepo, hub: Hub) -> None:
    _answer(hub, _info(repo))
    assert bench.refusal(f"hf://org/repo@{'a' * 40}/config.json").code == "bad-response"


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a\\b", "a/../../b", "C:/x", "a\x00b"])
def test_a_path_outside_of_the_repo_is_65(bench: SourceBench, repo: HfRepo, hub: Hub, path: str) -> None:
    listed = [{"rfilename": path}, {"rfilename": "config.json", "size": 2, "blobId": "0" * 40}]
    _answer(hub, {**_info(repo), "siblings": listed}, times=2)
    error = bench.refusal("hf://org/repo", kind="snapshot")
    assert (error.exit_code, error.code) == (65, "unsafe-path")
    assert "report it to its publisher" in str(error.hint)
    # A request for another file is not affected.
    assert bench.resolve("hf://org/repo/config.json").artifacts


def test_a_site_wide_mirror_is_used_and_the_recorded_address_is_the_hubs(
    make_desk: Callable[..., SourceBench], repo: HfRepo, hub: Hub
) -> None:
    bench = make_desk(
        HF_ENDPOINT="https://huggingface.co",
        MODELFETCH_MIRRORS=f"https://huggingface.co={hub.endpoint}",
        HF_TOKEN=PLANTED,
    )
    (artifact,) = bench.resolve("hf://org/repo/config.json").artifacts
    assert artifact.locations[0].url.startswith("https://huggingface.co/org/repo/resolve/")
    # The hub's token is for the hub, not for a host that replaces it.
    assert all(entry.authorization is None for entry in hub.log.requests())


PAGE = "<!doctype html><html><head><title>Sign in</title></head></html>"
ONLY_PAGE = Status(code=200, body=PAGE, content_type="text/html; charset=utf-8")


@pytest.mark.parametrize("api", ["/api/*", "*/revision/*", "*/paths-info/*", "*/tree/*"])
@pytest.mark.parametrize("content_type", ["text/html", "application/json"])
def test_a_mirror_that_sends_its_only_page_for_what_it_does_not_know_lacks_that_api(
    bench: SourceBench, repo: HfRepo, hub: Hub, api: str, content_type: str
) -> None:
    if not api.endswith(("/api/*", "revision/*")):
        _answer(hub, _info(repo), times=None)
    hub.faults.add(api, Status(code=200, body=PAGE, content_type=content_type), times=None)
    content = FILES["model.safetensors"]
    for uri in ("hf://org/repo/model.safetensors", f"hf://org/repo@{repo.main}/model.safetensors"):
        found = bench.resolve(uri)
        (artifact,) = found.artifacts
        assert (found.revision, artifact.size, artifact.digest) == (repo.main, len(content), Digest.sha256(content))
    files = tuple(FileSpec(path=path) for path in FILES)
    found = bench.resolve("hf://org/repo", kind="snapshot", files=files, cached=True)
    assert all(one.cache_name for one in found.artifacts)


@pytest.mark.parametrize("revision", ["main", "COMMIT"])
@pytest.mark.parametrize("moved", [False, True])
def test_a_page_in_the_place_of_metadata_and_files_is_named(
    bench: SourceBench, repo: HfRepo, hub: Hub, revision: str, *, moved: bool
) -> None:
    hub.faults.add("/login", ONLY_PAGE, times=None)
    login = Status(code=302, headers={"Location": f"{hub.endpoint}/login"})
    hub.faults.add("*/*/*", login if moved else ONLY_PAGE, times=None)
    uri = f"hf://org/repo@{revision.replace('COMMIT', repo.main)}/config.json"
    error = bench.refusal(uri)
    assert (error.exit_code, error.code) == (69, "bad-response")
    assert "web page" in str(error)
    assert "login page" in str(error.hint)
    assert bench.refusal("hf://org/repo", kind="snapshot").code == "bad-response"


# -- resolved without requests -----------------------------------------------------------------------------------------

COMMIT = "c" * 40
DIGEST = Digest("sha256", "1" * 64)


def _known(uri: str, **wanted: Any) -> Any:
    return known(SourceRequest(uri=parse_uri(uri), **wanted), Settings(), lambda _digest: None)


def test_a_file_with_commit_digest_and_size_is_known() -> None:
    found = _known(f"hf://org/repo@{COMMIT}/a/b.safetensors", digest=DIGEST, size=5)
    (artifact,) = found.artifacts
    assert (found.revision, found.pinned, artifact.path, artifact.digest) == (COMMIT, True, "a/b.safetensors", DIGEST)
    assert artifact.locations[0].url == f"https://huggingface.co/org/repo/resolve/{COMMIT}/a/b.safetensors"


def test_a_snapshot_whose_files_are_all_pinned_is_known_unless_a_cache_needs_its_names() -> None:
    files = (FileSpec(path="a.json", size=1, digest=DIGEST), FileSpec(path="b.bin", size=2, digest=DIGEST))
    uri = f"hf://org/repo@{COMMIT}"
    assert len(_known(uri, kind="snapshot", files=files).artifacts) == 2
    assert _known(uri, kind="snapshot", files=files, cached=True) is None
    assert _known(uri, kind="snapshot", files=(*files, FileSpec(path="c.bin", size=2))) is None


@each("revision", ["", "@main", "@v1"])
def test_offline_a_pinned_file_of_a_branch_is_known_by_its_digest(revision: str) -> None:
    wanted = SourceRequest(uri=parse_uri(f"hf://org/repo{revision}/b.safetensors"), digest=DIGEST)
    found = known(wanted, Settings(offline=True), lambda _digest: None)
    assert found is not None
    assert (found.pinned, [a.digest for a in found.artifacts]) == (False, [DIGEST])
    assert known(wanted, Settings(), lambda _digest: None) is None
    in_cache = SourceRequest(
        uri=parse_uri(f"hf://org/repo{revision}"),
        kind="snapshot",
        cached=True,
        files=(FileSpec(path="b", digest=DIGEST),),
    )
    assert known(in_cache, Settings(offline=True), lambda _digest: None) is None


def test_offline_a_caches_names_are_those_that_git_gives_the_bytes_in_the_store() -> None:
    config, weights = b"{}", b"w" * 1000
    files = (
        FileSpec(path="config.json", size=2, digest=Digest.sha256(config)),
        FileSpec(path="model.bin", size=1000, digest=Digest.sha256(weights)),
        FileSpec(path="gone.json", size=3, digest=DIGEST),
    )
    wanted = SourceRequest(uri=parse_uri(f"hf://org/repo@{COMMIT}"), kind="snapshot", files=files, cached=True)
    store = {Digest.sha256(config): config, Digest.sha256(weights): weights}
    found = known(wanted, Settings(offline=True), store.get)
    assert found is not None
    assert [a.cache_name for a in found.artifacts] == [
        hashlib.sha1(b"blob 2\0{}", usedforsecurity=False).hexdigest(),
        None,
        None,
    ]
    assert [a.digest for a in found.artifacts] == [spec.digest for spec in files]


def test_a_mirror_without_digests_serves_a_cache_whose_files_are_pinned(
    bench: SourceBench, repo: HfRepo, hub: Hub
) -> None:
    _answer(hub, _info(repo))
    hub.faults.add("*/paths-info/*", Status(code=404), times=None)
    files = (FileSpec(path="config.json", size=2, digest=Digest.sha256(b"{}")),)
    (artifact,) = bench.resolve("hf://org/repo", kind="snapshot", files=files, cached=True).artifacts
    assert (artifact.digest, artifact.size) == (Digest.sha256(b"{}"), 2)


@each("uri", ["hf://org/repo/b.bin", "hf://org/repo@main/b.bin", f"hf://org/repo@{COMMIT}"])
def test_a_uri_without_commit_or_path_needs_a_request(uri: str) -> None:
    assert _known(uri, digest=DIGEST, size=5) is None


def test_a_json_error_with_status_200_is_no_metadata(bench: SourceBench, repo: HfRepo, hub: Hub) -> None:
    hub.faults.add("*", Status(code=200, body='{"error": "x"}', content_type="application/json"), times=None)
    assert bench.refusal("hf://org/repo/config.json").code == "bad-response"


_ASK = """
import asyncio, sys
from modelfetch.http.auth import Credentials
from modelfetch.http import Http
from modelfetch.manifest.uri import parse_uri
from modelfetch.config.settings import Settings
from modelfetch.sources import Sources, SourceRequest
settings = Settings.from_env()
http = Http(rewrites=settings.mirrors, auth=Credentials(settings))
asyncio.run(Sources(http=http, settings=settings).resolve(SourceRequest(uri=parse_uri(sys.argv[1]))))
http.close()
"""


@pytest.mark.parametrize("mirrored", [False, True])
def test_resolving_sends_one_request_and_writes_no_file(repo: HfRepo, hub: Hub, home: Path, *, mirrored: bool) -> None:
    # In a process of its own: huggingface_hub reads its variables once, when it is imported.
    variables = {"HF_ENDPOINT": hub.endpoint}
    if mirrored:
        variables = {"HF_ENDPOINT": hub.files + "old", "MODELFETCH_MIRRORS": f"{hub.files}old={hub.endpoint}"}
    environ = {"HOME": str(home), "HF_HOME": str(home / "hf"), **variables}
    done = run("-c", _ASK, "hf://org/repo/model.safetensors", env=environ)
    assert (done.returncode, done.stderr) == (0, "")
    (entry,) = hub.log.requests()
    assert (entry.origin, entry.path) == ("hf", "/api/models/org/repo/revision/main")
    assert re.match(r"modelfetch/\d", entry.headers["user-agent"])
    assert list(home.iterdir()) == []
