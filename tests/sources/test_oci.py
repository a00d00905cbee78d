from __future__ import annotations

import base64
import hashlib
import json
import platform
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.config.settings import Settings
from modelfetch.core.digest import Digest
from modelfetch.formats.oci_manifest import OCI_INDEX, OCI_MANIFEST
from modelfetch.manifest.model import FileSpec
from modelfetch.manifest.uri import parse_uri
from modelfetch.sources import SourceRequest, known
from modelfetch.sources.registry import bases
from tests.cases import each
from tests.faults import RedirectTo, Status
from tests.sources.contract import PLANTED, Case, NetworkContract

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from modelfetch.demo.hub import Hub
    from tests.sources.bench import SourceBench

WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
DOC = "application/vnd.cncf.model.doc.v1.raw"
TITLE = "org.opencontainers.image.title"
FILEPATH = "org.cncf.model.filepath"


def layer(data: bytes, path: str | None = None, kind: str = WEIGHT, key: str = FILEPATH) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "mediaType": kind,
        "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
        "size": len(data),
    }
    return entry if path is None else {**entry, "annotations": {key: path}}


def manifest(*layers: Any, **more: Any) -> bytes:
    config = layer(b"{}", kind="application/vnd.cncf.model.config.v1+json")
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": list(layers), **more}
    return json.dumps(document).encode()


def publish(hub: Hub, content: bytes, tag: str = "v1") -> str:
    """Publish a tag of the repository fleet/tiny; returns its digest."""
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    for reference in (tag, digest):
        hub.world.ollama_manifest(f"fleet/tiny:{reference}", content, [b"w" * 88])
    return digest


def base(hub: Hub) -> str:
    return "oci://" + hub.ollama.removeprefix("http://") + "/fleet/tiny"


ONE = manifest(layer(b"w" * 88, "checkpoints/tiny.safetensors"))
TWO = manifest(layer(b"w" * 88, "tiny.safetensors"), layer(b"# Hi", "README.md", DOC))


class TestOci(NetworkContract):
    @pytest.fixture
    def case(self, hub: Hub, home: Path) -> Case:
        publish(hub, ONE)
        (home / "netrc").write_text(f"machine 127.0.0.1 login me password {PLANTED}\n")

        def close(hub: Hub) -> None:
            hub.world.ollama_login = ("someone", "else")

        return Case(
            good=base(hub) + ":v1",
            sizes={"checkpoints/tiny.safetensors": 88},
            missing=base(hub) + ":none",
            refused=base(hub) + ":v1",
            origin="ollama",
            path="/v2/fleet/tiny/manifests/*",
            secret={"NETRC": str(home / "netrc")},
            close=close,
        )


def test_a_layer_is_a_file_with_the_layers_digest(bench: SourceBench, hub: Hub) -> None:
    digest = publish(hub, ONE)
    found = bench.resolve(base(hub) + ":v1")
    (artifact,) = found.artifacts
    assert (found.revision, found.pinned) == (digest, False)
    assert artifact.digest == Digest.sha256(b"w" * 88)
    assert artifact.uri == f"{base(hub)}:v1#{artifact.digest}"
    assert artifact.locations[0].url == f"{hub.ollama}/v2/fleet/tiny/blobs/{artifact.digest}"


def test_without_a_tag_it_is_latest_and_a_digest_pins(bench: SourceBench, hub: Hub) -> None:
    digest = publish(hub, ONE, "latest")
    assert bench.resolve(base(hub)).revision == digest
    assert bench.resolve(f"{base(hub)}@{digest}").pinned


def test_other_bytes_than_the_pinned_ones_are_65(bench: SourceBench, hub: Hub) -> None:
    digest = publish(hub, ONE)
    hub.world.ollama[f"fleet/tiny:{digest}"].manifest = TWO
    error = bench.refusal(f"{base(hub)}@{digest}")
    assert (error.exit_code, error.code) == (65, "digest-mismatch")


@pytest.mark.parametrize("key", [FILEPATH, TITLE, "org.cnai.model.filepath"])
def test_a_file_is_named_as_modelpack_and_oras_name_it(bench: SourceBench, hub: Hub, key: str) -> None:
    publish(hub, manifest(layer(b"x", "a/b.bin", key=key)))
    assert bench.resolve(base(hub) + ":v1").artifacts[0].path == "a/b.bin"


def test_a_single_layer_without_a_name_has_the_repositorys(bench: SourceBench, hub: Hub) -> None:
    publish(hub, manifest(layer(b"x")))
    assert bench.resolve(base(hub) + ":v1").artifacts[0].path == "tiny"


def test_weights_without_a_name_that_a_service_lists_need_one_in_the_manifest(bench: SourceBench, hub: Hub) -> None:
    for unnamed in (layer(b"x"), layer(b"x", "weights"), layer(b"x", "weights.onnx_data")):
        publish(hub, manifest(unnamed))
        error = bench.refusal(base(hub) + ":v1", kind="checkpoint")
        assert (error.exit_code, error.code) == (65, "not-a-model")
        assert "filename: " in str(error.hint)
        assert bench.resolve(base(hub) + ":v1", kind="checkpoint", filename="x.safetensors").artifacts
        assert bench.resolve(base(hub) + ":v1", kind="file").artifacts
    publish(hub, manifest(layer(b"x", "style.png")))
    assert bench.resolve(base(hub) + ":v1", kind="embedding").artifacts


def test_weights_are_chosen_among_other_files_and_a_snapshot_takes_all(bench: SourceBench, hub: Hub) -> None:
    publish(hub, TWO)
    assert [a.path for a in bench.resolve(base(hub) + ":v1").artifacts] == ["tiny.safetensors"]
    found = bench.resolve(base(hub) + ":v1", kind="snapshot").artifacts
    assert [a.path for a in found] == ["tiny.safetensors", "README.md"]
    assert [a.path for a in bench.resolve(base(hub) + ":v1", include=("*.md",)).artifacts] == ["README.md"]
    files = (FileSpec(path="README.md", size=4),)
    assert [a.size for a in bench.resolve(base(hub) + ":v1", files=files).artifacts] == [4]


TAR = "application/vnd.oci.image.layer.v1.tar"
DOCKER = "application/vnd.docker.ai."


def test_a_file_that_oras_pushes_with_its_default_type_is_a_file(bench: SourceBench, hub: Hub) -> None:
    publish(hub, manifest(layer(b"x" * 9, "tiny.safetensors", TAR, TITLE)))
    (artifact,) = bench.resolve(base(hub) + ":v1", kind="checkpoint").artifacts
    assert (artifact.path, artifact.size) == ("tiny.safetensors", 9)


def test_what_has_a_title_is_a_file_of_whatever_type_as_for_oras(bench: SourceBench, hub: Hub) -> None:
    for kind in (TAR + "+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip", "application/zip", "x/y"):
        publish(hub, manifest(layer(b"x" * 9, "./sub/tiny.zip", kind, TITLE)))
        (artifact,) = bench.resolve(base(hub) + ":v1").artifacts
        assert (artifact.path, artifact.size) == ("sub/tiny.zip", 9)
    publish(hub, manifest(layer(b"x", "a", "application/vnd.cncf.model.weight.v1.tar", TITLE)))
    assert bench.refusal(base(hub) + ":v1").code == "unsupported-manifest"


def test_a_folder_that_oras_pushes_is_an_archive_and_left_out(bench: SourceBench, hub: Hub) -> None:
    folder = layer(b"x", "docs", TAR + "+gzip", TITLE)
    folder["annotations"]["io.deis.oras.content.unpack"] = "true"
    publish(hub, manifest(folder, layer(b"w", "tiny.gguf", TAR, TITLE)))
    assert [a.path for a in bench.resolve(base(hub) + ":v1", kind="snapshot").artifacts] == ["tiny.gguf"]
    publish(hub, manifest(folder))
    assert bench.refusal(base(hub) + ":v1").code == "unsupported-manifest"


def test_the_weights_are_chosen_among_licence_readme_and_settings_by_their_names(bench: SourceBench, hub: Hub) -> None:
    papers = [layer(name.encode(), name, TAR, TITLE) for name in ("LICENSE", "README.md", "config.json")]
    publish(hub, manifest(*papers, layer(b"w", "tiny.safetensors", TAR, TITLE)))
    assert [a.path for a in bench.resolve(base(hub) + ":v1", kind="lora").artifacts] == ["tiny.safetensors"]


def test_among_several_weights_files_filename_or_kind_choose(bench: SourceBench, hub: Hub) -> None:
    names = ("checkpoints/big.safetensors", "vae/small.safetensors", "loras/style.safetensors")
    publish(hub, manifest(*(layer(name.encode(), name, TAR, TITLE) for name in names)))
    where = base(hub) + ":v1"
    assert [a.path for a in bench.resolve(where, kind="vae").artifacts] == ["vae/small.safetensors"]
    assert [a.path for a in bench.resolve(where, kind="lora").artifacts] == ["loras/style.safetensors"]
    named = bench.resolve(where, kind="checkpoint", filename="small.safetensors").artifacts
    assert [a.path for a in named] == ["vae/small.safetensors"]
    chosen = FileSpec(path=names[2], digest=Digest.sha256(names[2].encode()))
    found = bench.resolve(where, kind="checkpoint", files=(chosen,)).artifacts
    assert [(a.path, a.digest) for a in found] == [(names[2], chosen.digest)]
    wrong = FileSpec(path=names[2], digest=Digest.sha256(b"other"))
    assert bench.refusal(where, kind="checkpoint", files=(wrong,)).code == "digest-mismatch"
    assert [a.path for a in bench.resolve(where, kind="checkpoint", include=("vae/*",)).artifacts] == [names[1]]
    error = bench.refusal(where, kind="upscaler")
    assert (error.exit_code, "files: [{path:" in str(error.hint)) == (66, True)


def test_dockers_unnamed_layers_are_named_by_their_types(bench: SourceBench, hub: Hub) -> None:
    parts = [layer(b"g", kind=DOCKER + "gguf.v3"), layer(b"l", kind=DOCKER + "license")]
    publish(hub, manifest(*parts, layer(b"m", kind=DOCKER + "mmproj"), layer(b"t", kind=DOCKER + "dir.tar")))
    assert [a.path for a in bench.resolve(base(hub) + ":v1", kind="file").artifacts] == ["tiny.gguf"]
    every = [a.path for a in bench.resolve(base(hub) + ":v1", kind="snapshot").artifacts]
    assert every == ["tiny.gguf", "LICENSE", "tiny-mmproj.gguf"]
    publish(hub, manifest(layer(b"1", kind=DOCKER + "safetensors"), layer(b"2", kind=DOCKER + "safetensors")))
    shards = [a.path for a in bench.resolve(base(hub) + ":v1", kind="snapshot").artifacts]
    assert shards == ["tiny-00001-of-00002.safetensors", "tiny-00002-of-00002.safetensors"]


def test_a_file_that_is_not_in_it_is_66(bench: SourceBench, hub: Hub) -> None:
    publish(hub, TWO)
    assert bench.refusal(base(hub) + ":v1", files=(FileSpec(path="none"),)).exit_code == 66
    assert bench.refusal(base(hub) + ":v1", include=("*.gguf",)).exit_code == 66
    publish(hub, manifest(layer(b"a", "a.safetensors"), layer(b"b", "b.safetensors")))
    assert bench.refusal(base(hub) + ":v1").exit_code == 66


@pytest.mark.parametrize(
    ("layers", "code"),
    [
        ([layer(b"x", "../x")], "unsafe-path"),
        ([layer(b"x", "/etc/passwd")], "unsafe-path"),
        ([layer(b"x", "a\\b")], "unsafe-path"),
        ([layer(b"x", "./../x")], "unsafe-path"),
        ([layer(b"x", ".//etc/../x")], "unsafe-path"),
        ([layer(b"x", "x" * 2000)], "unsafe-path"),
        ([layer(b"x", "a"), layer(b"y", "a")], "unsupported-manifest"),
        ([layer(b"x", "a"), layer(b"y", "a/b")], "unsupported-manifest"),
        ([layer(b"x"), layer(b"y")], "unsupported-manifest"),
        ([layer(b"x", "a", "application/vnd.cncf.model.weight.v1.tar")], "unsupported-manifest"),
        ([layer(b"x", "a", "application/vnd.oci.image.layer.v1.tar+gzip")], "unsupported-manifest"),
        ([layer(b"x", None, "application/vnd.docker.image.rootfs.diff.tar.gzip")], "unsupported-manifest"),
        ([], "unsupported-manifest"),
    ],
)
def test_layers_that_are_no_safe_files_are_65(bench: SourceBench, hub: Hub, layers: list[Any], code: str) -> None:
    publish(hub, manifest(*layers))
    error = bench.refusal(base(hub) + ":v1", kind="snapshot")
    assert (error.exit_code, error.code) == (65, code)


# -- indexes -----------------------------------------------------------------------------------------------------------

HERE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine().lower(), platform.machine().lower())


def child(content: bytes, **fields: Any) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(content), **fields}


def index(*children: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(children)}).encode()


def test_of_an_index_the_manifest_for_no_platform_is_taken_then_the_one_for_this_machine(
    bench: SourceBench, hub: Hub
) -> None:
    publish(hub, ONE, "one")
    publish(hub, TWO, "two")
    other = child(TWO, platform={"os": "linux", "architecture": "riscv"})
    here = child(ONE, platform={"os": "linux", "architecture": HERE})
    publish(hub, index(other, here), "v1")
    assert bench.resolve(base(hub) + ":v1").revision == str(Digest.sha256(ONE))
    publish(hub, index(here, child(TWO)), "v2")
    assert bench.resolve(base(hub) + ":v2").revision == str(Digest.sha256(TWO))
    publish(hub, index(other, child(TWO, platform={})), "v3")
    assert bench.resolve(base(hub) + ":v3").revision == str(Digest.sha256(TWO))


def test_an_index_in_an_index_is_followed_if_no_manifest_fits(bench: SourceBench, hub: Hub) -> None:
    publish(hub, ONE, "one")
    publish(hub, TWO, "two")
    inner = index(child(ONE))
    publish(hub, inner, "inner")
    nested = child(inner, mediaType=OCI_INDEX)
    publish(hub, index(nested, child(TWO, platform={"os": "plan9", "architecture": "mips"})), "v1")
    assert bench.resolve(base(hub) + ":v1").revision == str(Digest.sha256(ONE))
    publish(hub, index(nested, child(TWO)), "v2")
    assert bench.resolve(base(hub) + ":v2").revision == str(Digest.sha256(TWO))


def test_an_index_without_a_fitting_manifest_is_65(bench: SourceBench, hub: Hub) -> None:
    publish(hub, index(*(child(one, platform={"os": "plan9", "architecture": "mips"}) for one in (ONE, TWO))))
    error = bench.refusal(base(hub) + ":v1")
    assert (error.exit_code, error.code) == (65, "unsupported-manifest")


def test_the_only_manifest_of_an_index_is_for_every_machine(bench: SourceBench, hub: Hub) -> None:
    publish(hub, ONE, "one")
    attestation = child(TWO, platform={"os": "unknown", "architecture": "unknown"})
    for system, others in (("darwin", ()), ("windows", ()), ("unknown", ()), ("darwin", (attestation,))):
        only = child(ONE, platform={"os": system, "architecture": "unknown" if system == "unknown" else "arm64"})
        publish(hub, index(only, *others), "v1")
        assert bench.resolve(base(hub) + ":v1").revision == str(Digest.sha256(ONE))


@each("declared", [OCI_MANIFEST, OCI_INDEX])
def test_nested_indexes_are_limited(bench: SourceBench, hub: Hub, declared: str) -> None:
    content = ONE
    for number in range(5):
        publish(hub, content, f"step{number}")
        content = index(child(content, mediaType=declared))
    publish(hub, content, "chain")
    assert bench.refusal(f"{base(hub)}:chain").code == "unsupported-manifest"


# -- hosts -------------------------------------------------------------------------------------------------------------


def test_https_comes_first_and_plain_http_only_where_it_is_allowed() -> None:
    settings = Settings.from_env({"MODELFETCH_ALLOW_HTTP": "reg.lan:5000,bare.lan"})
    assert bases("reg.lan:5000", settings) == ("https://reg.lan:5000", "http://reg.lan:5000")
    assert bases("reg.lan", settings) == ("https://reg.lan",)
    assert bases("bare.lan", settings) == ("https://bare.lan", "http://bare.lan")
    assert bases("ghcr.io", settings) == ("https://ghcr.io",)
    assert bases("docker.io", settings) == ("https://registry-1.docker.io",)
    assert bases("registry.ollama.ai", settings) == ("https://registry.ollama.ai",)


def test_the_protocol_of_a_host_is_detected_once(bench: SourceBench, hub: Hub) -> None:
    publish(hub, ONE)
    bench.resolve(base(hub) + ":v1")
    before = bench.http.requests
    bench.resolve(base(hub) + ":v1")
    assert bench.http.requests == before + 1


def test_a_manifest_that_is_pinned_and_in_the_store_is_known() -> None:
    uri = parse_uri(f"oci://ghcr.io/fleet/tiny@{Digest.sha256(TWO)}")
    found = known(SourceRequest(uri=uri, kind="snapshot"), Settings(), lambda _digest: TWO)
    assert found is not None
    assert [a.path for a in found.artifacts] == ["tiny.safetensors", "README.md"]
    assert found.artifacts[0].locations[0].url.startswith("https://ghcr.io/v2/fleet/tiny/blobs/")
    assert known(SourceRequest(uri=uri), Settings(), lambda _digest: None) is None
    assert known(SourceRequest(uri=parse_uri("oci://ghcr.io/fleet/tiny:v1")), Settings(), lambda _digest: TWO) is None


def test_the_error_for_a_refusal_explains_how_to_log_in(bench: SourceBench, hub: Hub) -> None:
    publish(hub, ONE)
    hub.faults.add("/v2/*", Status(code=401), times=None)
    assert "docker login" in str(bench.refusal(base(hub) + ":v1").hint)


def test_a_name_that_hugging_face_guards_points_to_its_page(bench: SourceBench) -> None:
    from modelfetch.errors import CredentialsError
    from modelfetch.http import Headers, Reply
    from modelfetch.sources.registry import _check

    with pytest.raises(CredentialsError) as caught:
        _check(
            Reply(status=401, headers=Headers(), body=b"", url="https://hf.co/v2/a/b/manifests/x"),
            "hf.co", "a/b", "x", "ollama://hf.co/a/b:x",
        )  # fmt: skip
    assert "https://huggingface.co/a/b" in str(caught.value.hint)


def test_a_blob_address_is_never_the_redirects(bench: SourceBench, hub: Hub) -> None:
    publish(hub, ONE)
    path = "/v2/fleet/tiny/manifests/v1"
    hub.faults.add(path, RedirectTo(url=hub.ollama.replace("127.0.0.1", "localhost") + path))
    assert "127.0.0.1" in bench.resolve(base(hub) + ":v1").artifacts[0].locations[0].url


def test_a_plain_password_that_is_refused_is_not_taken_for_one_that_is_missing(
    make_desk: Callable[..., SourceBench], hub: Hub, home: Path
) -> None:
    publish(hub, ONE)
    hub.faults.add("/v2/*", Status(code=401, headers={"WWW-Authenticate": 'Basic realm="x"'}), times=None)
    assert make_desk().refusal(base(hub) + ":v1").code == "missing-or-private"
    (home / ".docker").mkdir()
    auth = base64.b64encode(f"me:{PLANTED}".encode()).decode()
    host = hub.ollama.removeprefix("http://")
    (home / ".docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    error = make_desk().refusal(base(hub) + ":v1")
    assert (error.exit_code, error.code) == (77, "unauthorized")
    assert f"docker login {host}" in str(error.hint)


@pytest.mark.parametrize("title", [None, "tiny.safetensors"])
def test_the_empty_layer_of_an_artifact_without_files_is_no_file(
    bench: SourceBench, hub: Hub, title: str | None
) -> None:
    empty = layer(b"{}", title, "application/vnd.oci.empty.v1+json")
    publish(hub, manifest(empty))
    assert bench.refusal(base(hub) + ":v1").code == "unsupported-manifest"
    publish(hub, manifest(empty, layer(b"w" * 88, "tiny.safetensors")))
    assert [a.size for a in bench.resolve(base(hub) + ":v1").artifacts] == [88]
