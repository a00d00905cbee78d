from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.config.settings import Settings
from modelfetch.core.digest import Digest
from modelfetch.demo.body import as_body
from modelfetch.demo.registry_world import build_manifest
from modelfetch.formats.oci_manifest import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from modelfetch.manifest.uri import parse_uri
from modelfetch.sources import SourceRequest, known
from tests.faults import RedirectTo, Status
from tests.sources.contract import PLANTED, Case, NetworkContract

if TYPE_CHECKING:
    from modelfetch.demo.hub import Hub
    from tests.sources.bench import SourceBench

REAL = Path(__file__).parent / "data"
MODEL = b"GGUF" + b"\x03" * 500
CONFIG = b'{"model_format":"gguf"}'
API = "/v2/library/tiny/manifests/*"


@pytest.fixture
def tiny(hub: Hub) -> Digest:
    """Add a model of the library; returns its manifest's digest."""
    model = hub.world.ollama_model("tiny:1b", [("model", MODEL), ("template", b"{{ .Prompt }}")], config=CONFIG)
    return Digest.parse(model.digest)


class TestOllama(NetworkContract):
    @pytest.fixture
    def case(self, hub: Hub, tiny: Digest, home: Path) -> Case:
        manifest = hub.world.ollama["library/tiny:1b"].manifest
        (home / "netrc").write_text(f"machine 127.0.0.1 login me password {PLANTED}\n")

        def close(hub: Hub) -> None:
            hub.world.ollama_login = ("someone", "else")

        return Case(
            good="ollama://tiny:1b",
            sizes={
                f"sha256-{hashlib.sha256(CONFIG).hexdigest()}": len(CONFIG),
                f"sha256-{hashlib.sha256(MODEL).hexdigest()}": len(MODEL),
                f"sha256-{hashlib.sha256(b'{{ .Prompt }}').hexdigest()}": 13,
                "1b": len(manifest),
            },
            missing="ollama://tiny:70b",
            refused="ollama://tiny:1b",
            origin="ollama",
            path=API,
            secret={"NETRC": str(home / "netrc")},
            close=close,
        )


def test_blobs_come_first_and_the_manifest_last_with_its_bytes(bench: SourceBench, hub: Hub, tiny: Digest) -> None:
    found = bench.resolve("ollama://tiny:1b")
    *blobs, manifest = found.artifacts
    assert manifest.content == hub.world.ollama["library/tiny:1b"].manifest
    assert (manifest.digest, manifest.media_type, found.revision) == (tiny, DOCKER_MANIFEST, str(tiny))
    assert [b.digest for b in blobs] == [Digest.sha256(data) for data in (CONFIG, MODEL, b"{{ .Prompt }}")]
    assert blobs[0].uri == f"ollama://tiny:1b#{blobs[0].digest}"
    assert blobs[1].locations[0].url == f"{hub.ollama}/v2/library/tiny/blobs/{blobs[1].digest}"


def test_a_blob_that_is_named_twice_is_one_artifact(bench: SourceBench, hub: Hub) -> None:
    hub.world.ollama_model("twice:x", [("model", MODEL), ("license", b"MIT"), ("license", b"MIT")], config=CONFIG)
    assert len(bench.resolve("ollama://twice:x").artifacts) == 4


def test_one_request_resolves_a_model_with_the_headers_of_ollama(bench: SourceBench, hub: Hub, tiny: Digest) -> None:
    bench.resolve("ollama://tiny:1b")
    (entry,) = hub.log.requests()
    assert entry.headers["accept"] == DOCKER_MANIFEST


def test_namespaces_and_tags_are_part_of_the_address(bench: SourceBench, hub: Hub) -> None:
    hub.world.ollama_model("someone/theirs:q4", [("model", MODEL)], config=CONFIG)
    assert bench.resolve("ollama://someone/theirs:q4").artifacts[-1].path == "q4"
    assert hub.log.requests()[0].path == "/v2/someone/theirs/manifests/q4"


def test_a_moved_tag_is_65(bench: SourceBench, tiny: Digest) -> None:
    assert bench.resolve("ollama://tiny:1b", digest=tiny).pinned
    error = bench.refusal("ollama://tiny:1b", digest=Digest("sha256", "0" * 64))
    assert (error.exit_code, error.code) == (65, "digest-mismatch")


def test_an_unknown_tag_is_named_in_the_error(bench: SourceBench, tiny: Digest) -> None:
    assert bench.refusal("ollama://tiny:none").code == "unknown-tag"


# -- the real library's manifests --------------------------------------------------------------------------------------

REAL_MANIFESTS = {
    "qwen2.5:0.5b": ("a8b0c51577010a279d933d14c2a8ab4b268079d44c5c8830c0a93900f1827c67", 397821319),
    "llama3.2:3b": ("a80c4f17acd55265feec403c7aef86be0c25983ab279d83f3bcd3abbcb5b8b72", None),
    "llama3.1:8b": ("46e0c10c039e019119339687c3c1757cc81b9da49709a3b3924863ba87ca666e", None),
    "llama3.3:70b": ("a6eb4748fd2990ad2952b2335a95a7f952d1a06119a0aa6a2df6cd052a93a3fa", 42520413916),
}


@pytest.mark.parametrize("name", list(REAL_MANIFESTS))
def test_a_real_manifest_comes_out_byte_for_byte_with_its_blobs(bench: SourceBench, hub: Hub, name: str) -> None:
    content = (REAL / f"ollama-manifest-{name.replace(':', '_')}.json").read_bytes()
    digest, total = REAL_MANIFESTS[name]
    hub.world.ollama_manifest(name, content, [])
    found = bench.resolve(f"ollama://{name}", digest=Digest("sha256", digest))
    *blobs, manifest = found.artifacts
    assert manifest.content == content
    assert hashlib.sha256(content).hexdigest() == digest
    document = json.loads(content)
    listed = [document["config"], *document["layers"]]
    assert [(str(b.digest), b.size, b.media_type) for b in blobs] == [
        (entry["digest"], entry["size"], entry["mediaType"]) for entry in listed
    ]
    assert total is None or sum(b.size or 0 for b in blobs) == total


@pytest.mark.parametrize("name", list(REAL_MANIFESTS))
def test_a_pinned_manifest_in_the_store_needs_no_request(bench: SourceBench, hub: Hub, name: str) -> None:
    content = (REAL / f"ollama-manifest-{name.replace(':', '_')}.json").read_bytes()
    digest = Digest("sha256", REAL_MANIFESTS[name][0])
    hub.world.ollama_manifest(name, content, [])
    wanted = SourceRequest(uri=parse_uri(f"ollama://{name}"), digest=digest)
    store = {digest: content}
    found = known(wanted, bench.settings, store.get)
    assert hub.log.requests() == []
    assert found == bench.resolve(f"ollama://{name}", digest=digest)
    assert known(wanted, Settings(), lambda _digest: None) is None
    assert known(SourceRequest(uri=wanted.uri), Settings(), store.get) is None


def test_a_stored_manifest_with_another_digest_is_not_used() -> None:
    wanted = SourceRequest(uri=parse_uri("ollama://tiny:1b"), digest=Digest("sha256", "0" * 64))
    content = build_manifest(as_body(CONFIG), [("model", as_body(MODEL))])
    with pytest.raises(Exception, match="upstream"):
        known(wanted, Settings(), lambda _digest: content)


# -- other registries, other hosts -------------------------------------------------------------------------------------


def _host(hub: Hub) -> str:
    return hub.ollama.removeprefix("http://")


def test_a_host_in_the_name_is_used_with_plain_http_only_where_allowed(bench: SourceBench, hub: Hub) -> None:
    hub.world.ollama_model("library/tiny:1b", [("model", MODEL)], config=CONFIG)
    found = bench.resolve(f"ollama://{_host(hub)}/library/tiny:1b")
    assert found.artifacts[0].locations[0].url.startswith(f"http://{_host(hub)}/v2/library/tiny/blobs/")


def test_the_protocol_of_an_unknown_host_is_detected_unless_offline(hub: Hub) -> None:
    content = build_manifest(as_body(CONFIG), [("model", as_body(MODEL))])
    wanted = SourceRequest(uri=parse_uri(f"ollama://{_host(hub)}/library/tiny:1b"), digest=Digest.sha256(content))
    assert known(wanted, Settings(), lambda _digest: content) is None
    assert known(wanted, Settings(offline=True), lambda _digest: content) is not None


def test_a_registry_that_serves_blobs_itself_gives_the_same_answer(bench: SourceBench, hub: Hub, tiny: Digest) -> None:
    redirecting = bench.resolve("ollama://tiny:1b")
    hub.world.ollama_redirects = False
    assert bench.resolve("ollama://tiny:1b") == redirecting


def test_an_anonymous_token_is_requested_from_the_registry(bench: SourceBench, hub: Hub, tiny: Digest) -> None:
    hub.world.ollama_login = "anonymous"
    assert bench.resolve("ollama://tiny:1b").artifacts
    assert [entry.path for entry in hub.log.requests()] == [
        "/v2/library/tiny/manifests/1b",
        "/token",
        "/v2/library/tiny/manifests/1b",
    ]
    # The token is reused for the repository.
    bench.resolve("ollama://tiny:1b")
    assert len(hub.log.requests()) == 4


def test_ollamas_token_server_must_be_the_registrys_own_host(bench: SourceBench, hub: Hub, tiny: Digest) -> None:
    challenge = f'Bearer realm="{hub.cdn}/token",service="x",scope="repository:library/tiny:pull"'
    hub.faults.add(API, Status(code=401, headers={"WWW-Authenticate": challenge}))
    error = bench.refusal("ollama://tiny:1b")
    assert (error.exit_code, error.code) == (77, "unauthorized")
    assert hub.log.requests(origin="cdn") == []


def test_a_hub_that_redirects_its_short_name_to_its_long_one_is_followed(bench: SourceBench, hub: Hub) -> None:
    hub.world.ollama_model("someone/repo-gguf:Q4_K_M", [("model", MODEL)], config=CONFIG)
    path = "/v2/someone/repo-gguf/manifests/Q4_K_M"
    long_name = _host(hub).replace("127.0.0.1", "localhost")
    hub.faults.add(path, RedirectTo(url=f"http://{long_name}{path}", code=307))
    found = bench.resolve(f"ollama://{_host(hub)}/someone/repo-gguf:Q4_K_M")
    # The folder, and therefore the URL, uses the name as written.
    assert found.artifacts[0].locations[0].url.startswith(f"http://{_host(hub)}/")


def test_an_unknown_quantisation_is_66(bench: SourceBench, hub: Hub) -> None:
    hub.faults.add("*/manifests/*", Status(code=400), times=None)
    error = bench.refusal(f"ollama://{_host(hub)}/someone/repo-gguf:Q9")
    assert (error.exit_code, error.code) == (66, "unknown-tag")


# -- lists of manifests ------------------------------------------------------------------------------------------------


def _manifest(contents: list[tuple[str, bytes]], **changes: Any) -> bytes:
    document = json.loads(build_manifest(as_body(CONFIG), [(kind, as_body(data)) for kind, data in contents]))
    return json.dumps({**document, **changes}).encode()


def _child(content: bytes, **fields: Any) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"mediaType": DOCKER_MANIFEST, "digest": digest, "size": len(content), **fields}


def _publish(hub: Hub, children: list[tuple[bytes, dict[str, Any]]], kind: str = DOCKER_LIST) -> bytes:
    """Publish a list under library/tiny:list, and its children by digest."""
    for content, entry in children:
        hub.world.ollama_manifest(f"library/tiny:{entry['digest']}", content, [])
    index = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [e for _, e in children]}).encode()
    hub.world.ollama_manifest("library/tiny:list", index, [])
    return index


TENSORS = _manifest([("tensor", b"t")])
GGUF = _manifest([("model", MODEL)])
ATTESTATION = _manifest([("application/vnd.in-toto+json", b"{}")])


@pytest.mark.parametrize("kind", [DOCKER_LIST, OCI_INDEX])
def test_of_a_list_the_child_is_taken_that_ollama_runs(bench: SourceBench, hub: Hub, kind: str) -> None:
    other = _child(ATTESTATION, platform={"os": "unknown", "architecture": "unknown"})
    _publish(hub, [(ATTESTATION, other), (TENSORS, _child(TENSORS)), (GGUF, _child(GGUF))], kind)
    found = bench.resolve("ollama://tiny:list")
    assert (found.artifacts[-1].content, found.revision) == (GGUF, str(Digest.sha256(GGUF)))


def test_a_list_without_such_a_child_is_65(bench: SourceBench, hub: Hub) -> None:
    _publish(hub, [(TENSORS, _child(TENSORS))])
    error = bench.refusal("ollama://tiny:list")
    assert (error.exit_code, error.code) == (65, "unsupported-manifest")
    assert "MLX" in str(error)
    _publish(hub, [])
    assert bench.refusal("ollama://tiny:list").code == "unsupported-manifest"


def test_a_list_may_be_pinned_by_its_own_digest_or_by_a_childs(bench: SourceBench, hub: Hub) -> None:
    index = _publish(hub, [(TENSORS, _child(TENSORS)), (GGUF, _child(GGUF))])
    for digest in (Digest.sha256(index), Digest.sha256(GGUF)):
        assert bench.resolve("ollama://tiny:list", digest=digest).artifacts[-1].content == GGUF
    assert bench.refusal("ollama://tiny:list", digest=Digest.sha256(b"")).code == "digest-mismatch"


def test_a_child_with_other_bytes_than_listed_is_65(bench: SourceBench, hub: Hub) -> None:
    entry = _child(GGUF)
    _publish(hub, [(GGUF, entry)])
    other = _manifest([("model", b"evil")])
    hub.world.ollama[f"library/tiny:{entry['digest']}"].manifest = other
    error = bench.refusal("ollama://tiny:list")
    assert (error.exit_code, error.code) == (65, "digest-mismatch")


def test_a_registry_with_another_media_type_is_requested_again_for_any(bench: SourceBench, hub: Hub) -> None:
    hub.world.ollama_manifest("library/tiny:oci", _manifest([("model", MODEL)], mediaType=OCI_MANIFEST), [])
    hub.faults.add("*/manifests/oci", Status(code=404))
    found = bench.resolve(f"ollama://{_host(hub)}/library/tiny:oci")
    assert found.artifacts[-1].media_type == OCI_MANIFEST


# -- hostile manifests -------------------------------------------------------------------------------------------------

BLOB = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{'a' * 64}", "size": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": [{**BLOB, "digest": "sha256:../../../../etc/passwd"}]},
        {"layers": [{**BLOB, "digest": f"sha256:{'a' * 63}/"}]},
        {"layers": [{**BLOB, "digest": f"sha512:{'a' * 128}"}]},
        {"layers": [{**BLOB, "digest": f"blake3:{'a' * 64}"}]},
        {"layers": [{**BLOB, "digest": f"sha256-{'a' * 64}"}]},
        {"layers": [{**BLOB, "digest": 7}]},
        {"layers": [{**BLOB, "size": -1}]},
        {"layers": [{**BLOB, "size": 2**63}]},
        {"layers": [{**BLOB, "size": 1.5}]},
        {"layers": [{**BLOB, "size": True}]},
        {"layers": [{**BLOB, "size": "1"}]},
        {"layers": [BLOB, {**BLOB, "size": 2}]},
        {"layers": [{**BLOB, "mediaType": None}]},
        {"layers": [{**BLOB, "mediaType": "x" * 300}]},
        {"layers": [{**BLOB, "size": 2**62, "digest": f"sha256:{n:064x}"} for n in range(4)]},
        {"layers": ["x"]},
        {"layers": "x"},
        {"layers": {}},
        {"layers": None},
        {"layers": []},
        {"layers": [BLOB] * 10_001},
        {"config": "x"},
        {"config": None},
        {"config": {}},
        {"schemaVersion": 1},
        {"schemaVersion": "2"},
        {"mediaType": 7},
        {"mediaType": "x" * 300},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_a_hostile_manifest_is_65(bench: SourceBench, hub: Hub, changes: dict[str, Any]) -> None:
    hub.world.ollama_manifest("tiny:bad", _manifest([("model", MODEL)], **changes), [])
    error = bench.refusal("ollama://tiny:bad")
    assert (error.exit_code, error.code) == (65, "unsupported-manifest")
    assert len(str(error)) < 400


def test_a_manifest_above_the_size_limit_is_refused(bench: SourceBench, hub: Hub, tiny: Digest) -> None:
    hub.faults.add(API, Status(code=200, body=" " * (9 * 2**20)))
    error = bench.refusal("ollama://tiny:1b")
    assert (error.exit_code, error.code) == (69, "bad-response")


def test_a_cloud_model_is_refused(bench: SourceBench, hub: Hub) -> None:
    hub.world.ollama_model("big:cloud", [("license", b"x")], config=CONFIG)
    error = bench.refusal("ollama://big:cloud")
    assert (error.code, "cloud" in str(error)) == ("unsupported-manifest", True)
