"""Debian's real docker-registry, open, behind a password and behind TLS: what others pushed comes out by `sync`."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import ssl
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.e2e.cache import program
from tests.e2e.manifests import write_manifest
from tests.e2e.servers import free_port, plain_environment, running, serve_ollama
from tests.e2e.tree import copy_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.program import Modelfetch

USER, PASSWORD = "tester", "word-of-the-tester"
HTPASSWD = f"{USER}:$2b$04$xqLsnjhbxmokauaMFpBhF.r19JbnW.Wds3cHs5rYCX3luKuxtjUwC\n"
PEM = Path(__file__).parents[1] / "sources" / "data" / "localhost.pem"
WEIGHTS = b"\x08\x00\x00\x00\x00\x00\x00\x00{}      " + b"w" * 100_000


@contextmanager
def registry(folder: Path, *, password: bool = False, tls: bool = False) -> Iterator[str]:
    """The registry over ``folder/data``; yields HOST:PORT."""
    folder.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{free_port()}"
    config: dict[str, Any] = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": address},
    }
    if password:
        (folder / "htpasswd").write_text(HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "here", "path": str(folder / "htpasswd")}}
    if tls:
        config["http"]["tls"] = {"certificate": str(PEM), "key": str(PEM)}
    path = folder / "registry.json"
    path.write_text(json.dumps(config))
    with running(
        [str(program("docker-registry", "docker-registry")), "serve", str(path)],
        environment=plain_environment(folder),
        folder=folder,
        ready=lambda: _is_up(address, tls=tls),
    ):
        yield address


def _is_up(address: str, *, tls: bool) -> bool:
    try:
        trusted = ssl.create_default_context(cafile=PEM)
        url = f"{'https' if tls else 'http'}://{address}/v2/"
        return httpx.get(url, verify=trusted, trust_env=False, timeout=5).status_code in (200, 401)
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def pushed(filled: Path, ollama_binary: Path, public_folder: Path) -> Path:
    """A registry's folder that the real Ollama pushed a model into, as library/pushed:1b."""
    folder = public_folder / "pushed-registry"
    models = copy_tree(filled / "ollama", public_folder / "pushing") / "models"
    with registry(folder) as address, serve_ollama(ollama_binary, models, public_folder / "pushing-served") as ollama:
        name = f"{address}/library/pushed:1b"
        ollama.run("cp", ollama.names()[0], name)
        ollama.run("push", "--insecure", name)
    return folder


@pytest.fixture
def data(pushed: Path, workplace: Path) -> Path:
    """A registry's folder of one's own with that model in it."""
    return Path(shutil.copytree(pushed, workplace / "registry"))


def _ollama(workplace: Path, address: str, tag: str = "1b") -> list[str]:
    model = {"name": "pushed", "source": f"ollama://{address}/library/pushed:{tag}", "for": ["ollama"]}
    return ["sync", "--manifest", str(write_manifest(workplace / "m.yaml", model))]


def _login(workplace: Path, address: str, password: str = PASSWORD) -> str:
    folder = workplace / "docker"
    folder.mkdir(exist_ok=True)
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {address: {"auth": auth}}}))
    return str(folder)


def _assert_whole(root: Path, data: Path, address: str) -> None:
    """The manifest is the registry's own bytes, and every blob has its name's digest."""
    models = root / "ollama" / "models"
    manifest = (models / "manifests" / address / "library" / "pushed" / "1b").read_bytes()
    digest = hashlib.sha256(manifest).hexdigest()
    stored = data / "data" / "docker" / "registry" / "v2" / "blobs" / "sha256" / digest[:2] / digest / "data"
    assert stored.read_bytes() == manifest
    document = json.loads(manifest)
    for entry in (document["config"], *document["layers"]):
        blob = models / "blobs" / entry["digest"].replace(":", "-")
        assert f"sha256:{hashlib.sha256(blob.read_bytes()).hexdigest()}" == entry["digest"]


def test_a_model_pushed_by_ollama_is_synced_from_an_open_registry(
    modelfetch: Modelfetch, data: Path, workplace: Path
) -> None:
    with registry(data) as address:
        modelfetch.report(*_ollama(workplace, address))
        _assert_whole(modelfetch.root, data, address)


def test_a_registry_with_a_password_refuses_anonymous_access(
    modelfetch: Modelfetch, data: Path, workplace: Path
) -> None:
    with registry(data, password=True) as address:
        (error,) = modelfetch.report(*_ollama(workplace, address), exit_code=77)["errors"]
        assert "docker login" in error["hint"]
        wrong = modelfetch.with_environment(DOCKER_CONFIG=_login(workplace, address, "wrong-word"))
        done = wrong.run(*_ollama(workplace, address), "--json")
        assert done.returncode == 77
        assert "wrong-word" not in done.stdout + done.stderr


def test_a_login_of_docker_opens_it(modelfetch: Modelfetch, data: Path, workplace: Path) -> None:
    with registry(data, password=True) as address:
        program_ = modelfetch.with_environment(DOCKER_CONFIG=_login(workplace, address))
        program_.report(*_ollama(workplace, address))
        _assert_whole(modelfetch.root, data, address)
    everything = b"".join(path.read_bytes() for path in modelfetch.root.rglob("*") if path.is_file())
    assert PASSWORD.encode() not in everything
    assert base64.b64encode(f"{USER}:{PASSWORD}".encode()) not in everything


def test_netrc_opens_it(modelfetch: Modelfetch, data: Path, workplace: Path) -> None:
    (workplace / "netrc").write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    with registry(data, password=True) as address:
        modelfetch.with_environment(NETRC=str(workplace / "netrc")).report(*_ollama(workplace, address))
        _assert_whole(modelfetch.root, data, address)


def test_a_tls_registry_is_not_accessed_by_plain_http(modelfetch: Modelfetch, data: Path, workplace: Path) -> None:
    with registry(data, tls=True, password=True) as address:
        login = modelfetch.with_environment(DOCKER_CONFIG=_login(workplace, address))
        (error,) = login.report(*_ollama(workplace, address), exit_code=69)["errors"]
        assert error["code"] == "certificate"
        login.with_environment(SSL_CERT_FILE=str(PEM)).report(*_ollama(workplace, address))
        _assert_whole(modelfetch.root, data, address)


def test_an_unknown_tag_is_66(modelfetch: Modelfetch, data: Path, workplace: Path) -> None:
    with registry(data) as address:
        (error,) = modelfetch.report(*_ollama(workplace, address, "none"), exit_code=66)["errors"]
        assert error["code"] == "unknown-tag"


def test_of_an_index_the_child_that_ollama_runs_is_taken(
    modelfetch: Modelfetch, data: Path, workplace: Path, oras_binary: Path
) -> None:
    with registry(data) as address:
        repository = f"{address}/library/pushed"
        (workplace / "note.txt").write_text("not a model")
        _oras(oras_binary, workplace, "push", "--plain-http", f"{repository}:note", "note.txt")
        index = ("manifest", "index", "create", "--plain-http", f"{repository}:both", "note", "1b")
        _oras(oras_binary, workplace, *index)
        modelfetch.report(*_ollama(workplace, address, "both"))
        models = modelfetch.root / "ollama" / "models"
        made = (models / "manifests" / address / "library" / "pushed" / "both").read_bytes()
        assert "vnd.ollama.image.model" in made.decode()


def test_a_file_that_oras_pushed_comes_out_by_its_digest(
    modelfetch: Modelfetch, workplace: Path, oras_binary: Path
) -> None:
    (workplace / "tiny.safetensors").write_bytes(WEIGHTS)
    kind = "application/vnd.cncf.model.weight.v1.raw"
    with registry(workplace / "registry", password=True) as address:
        source = f"{address}/fleet/tiny:v1"
        login = ("--username", USER, "--password", PASSWORD)
        _oras(oras_binary, workplace, "push", "--plain-http", *login, source, f"tiny.safetensors:{kind}")
        digest = hashlib.sha256(WEIGHTS).hexdigest()
        model = {
            "name": "tiny",
            "kind": "checkpoint",
            "source": f"oci://{source}",
            "digest": f"sha256:{digest}",
            "for": ["stable-diffusion"],
        }
        manifest = write_manifest(workplace / "m.yaml", model)
        program_ = modelfetch.with_environment(DOCKER_CONFIG=_login(workplace, address))
        report = program_.report("sync", "--manifest", str(manifest))
        assert report["bytes_fetched"] == len(WEIGHTS)
    placed = modelfetch.root / "stable-diffusion" / "models" / "Stable-diffusion" / "tiny.safetensors"
    assert placed.read_bytes() == WEIGHTS


def _oras(binary: Path, cwd: Path, *arguments: str) -> None:
    done = subprocess.run(
        [str(binary), *arguments],
        cwd=cwd,
        env=plain_environment(cwd),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"oras {arguments[0]}: {done.stderr}"
