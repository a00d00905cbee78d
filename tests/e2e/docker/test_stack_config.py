"""The real Compose reads the files: every combination of profiles, every card, every toggle. No engine is used."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.compose.compose_files import OVERRIDES, VENDORS, services
from tests.e2e.docker import peers
from tests.e2e.docker.stack import RERANKER, clone

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SERVING = ("gpu", "chat", "sd", "comfyui", "whisper", "diffrhythm", "media", "gpu-media")
PROFILES = (*SERVING, "verify")
TOGGLES = ("true", "false")
GPU_SERVICES = {"ollama", "stable-diffusion", "comfyui", "whisperx", "diffrhythm"}
OF_OTHER_VENDORS = {"amd": {"ollama", "stable-diffusion", "comfyui"}, "intel": {"ollama", "comfyui"}}
"""Which services have a build for the card; the others run on the CPU (docs/ai-services-setup.md)."""

MODELS = ("", "ollama", "stable-diffusion", "comfyui/models", "whisper", "diffrhythm", "immich")
ANYTHINGLLM = ("anythingllm/models/tesseract", f"anythingllm/models/{RERANKER}")
TAGS = {
    "amd": {
        "ollama": "-rocm",
        "stable-diffusion": "-rocm",
        "comfyui": "225d7339c",
        "immich-machine-learning-gpu": "-rocm",
    },
    "intel": {"comfyui": ":xpu-20260914", "immich-machine-learning-gpu": "-openvino"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compose:
    """The real Compose over a clone."""

    folder: Path

    def config(self, profiles: Iterable[str], settings: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Its output for the files; stderr must be empty."""
        options = [part for name in profiles for part in ("--profile", name)]
        done = subprocess.run(
            [str(peers.docker()), "compose", *options, "config", "--format", "json"],
            cwd=self.folder,
            env={"PATH": "/usr/bin:/bin", "DOCKER_CONFIG": str(peers.compose_plugin()), **(settings or {})},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, ""), (options, settings, done.stderr)
        return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """A fresh clone without any `.env`."""
    return Compose(folder=clone(tmp_path_factory.mktemp("config") / "clone"))


def every_combination() -> list[tuple[str, ...]]:
    """All 256 of the profiles that start services, the empty one as well; and `verify`, whose service is alone."""
    chosen = chain.from_iterable(combinations(SERVING, size) for size in range(len(SERVING) + 1))
    return [*chosen, ("verify",), PROFILES]


def test_every_combination_of_profiles_has_just_its_services(compose: Compose) -> None:
    known = {name: set(body["profiles"]) for name, body in services().items()}

    def check(profiles: tuple[str, ...]) -> None:
        found = set(compose.config(profiles).get("services", {}))
        assert found == {name for name, own in known.items() if own & set(profiles)}, profiles

    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(check, every_combination()))) == 258


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_card_and_setting_is_valid_and_requests_devices_only_when_enabled(compose: Compose, vendor: str) -> None:
    for enable, immich in product(TOGGLES, TOGGLES):
        settings = {"GPU_ENABLE": enable, "GPU_VENDOR": vendor, "IMMICH_GPU_ENABLE": immich}
        everything = compose.config(PROFILES, settings)
        found = everything["services"]
        assert "localai" not in json.dumps(everything).lower()
        with_devices = {name for name, body in found.items() if devices_of(body)}
        if enable == "false" or vendor == "cpu":
            assert with_devices == set()
        elif vendor == "nvidia":
            wanted = {"immich-machine-learning"} if immich == "true" else set()
            assert with_devices == GPU_SERVICES | {"immich-machine-learning-gpu"} | wanted
        else:
            wanted = {"immich-machine-learning"} if immich == "true" else set()
            assert with_devices == OF_OTHER_VENDORS[vendor] | {"immich-machine-learning-gpu"} | wanted
            tagged = TAGS[vendor]
            assert {
                name: found[name]["image"] for name in tagged if not found[name]["image"].endswith(tagged[name])
            } == {}


def devices_of(body: dict[str, Any]) -> Any:
    """What a service requests in addition to the devices of an ordinary container."""
    reservations = body.get("deploy", {}).get("resources", {}).get("reservations", {})
    return body.get("devices") or reservations.get("devices")


def test_paths_are_those_of_the_root_and_of_the_clone(compose: Compose) -> None:
    found = compose.config(PROFILES)["services"]
    sources = {mount["source"] for body in found.values() for mount in body.get("volumes", [])} - {"/etc/localtime"}
    assert all(source.startswith(f"{compose.folder}/") for source in sources)
    models = {source for source in sources if "ai-models" in source}
    root = compose.folder / "files" / "ai-models"
    assert models == {str(root / part) for part in (*MODELS, *ANYTHINGLLM)}
    assert all(mount["type"] == "bind" for body in found.values() for mount in body.get("volumes", []))


def test_images_are_built_from_folders_with_a_dockerfile(compose: Compose) -> None:
    for vendor in VENDORS:
        found = compose.config(PROFILES, {"GPU_VENDOR": vendor})["services"]
        contexts = {Path(body["build"]["context"]) for body in found.values() if "build" in body}
        folders = (".", "compose/stable-diffusion", "compose/diffrhythm")
        assert contexts == {(compose.folder / folder).resolve() for folder in folders}
        assert all((folder / "Dockerfile").is_file() for folder in contexts)


def test_a_clone_without_settings_is_the_same_as_one_with_the_example(compose: Compose) -> None:
    without = compose.config(PROFILES)
    example = compose.folder / ".env.example"
    (compose.folder / ".env").write_text(example.read_text())
    try:
        with_example = compose.config(PROFILES)
    finally:
        (compose.folder / ".env").unlink()
    pulled = with_example["services"]["ollama-init"]["environment"].pop("OLLAMA_AUTO_PULL_MODEL")
    assert pulled == "qwen2.5:0.5b,nomic-embed-text:latest"
    assert without["services"]["ollama-init"]["environment"].pop("OLLAMA_AUTO_PULL_MODEL") == ""
    assert with_example == without


def test_all_gpus_can_be_requested(compose: Compose) -> None:
    for count, expected in (("2", 2), ("all", -1)):
        ollama = compose.config(["gpu"], {"GPU_COUNT": count})["services"]["ollama"]
        (device,) = ollama["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        assert device.get("count", -1) == expected


def test_a_misspelt_vendor_is_an_error_that_names_it(compose: Compose) -> None:
    done = subprocess.run(
        [str(peers.docker()), "compose", "--profile", "gpu", "config", "--quiet"],
        cwd=compose.folder,
        env={"PATH": "/usr/bin:/bin", "DOCKER_CONFIG": str(peers.compose_plugin()), "GPU_VENDOR": "nvida"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "nvida" in done.stderr


@pytest.mark.parametrize("override", OVERRIDES)
def test_the_override_files_are_valid_on_top(compose: Compose, override: str) -> None:
    files = {"COMPOSE_FILE": f"compose.yaml:compose/{override}"}
    found = compose.config(PROFILES, files)["services"]
    if override == "podman.yml":
        assert not any(body.get("deploy", {}).get("resources", {}).get("reservations") for body in found.values())
        assert found["ollama"]["deploy"]["resources"]["limits"], "the limits stay"
        assert all("nvidia.com/gpu=all" in str(found[name]["devices"]) for name in GPU_SERVICES)
        return
    if override in ("ca.yml", "registry-login.yml"):
        target, variable = {
            "ca.yml": ("/run/ca.pem", "SSL_CERT_FILE"),
            "registry-login.yml": ("/run/docker-login/config.json", "DOCKER_CONFIG"),
        }[override]
        for name in (name for name, body in found.items() if (body.get("command") or [""])[0] in ("sync", "verify")):
            assert target in {mount["target"] for mount in found[name]["volumes"]}
            assert found[name]["environment"][variable]
        return
    if override == "selinux.yml":
        binds = [mount for body in found.values() for mount in body.get("volumes", [])]
        unlabelled = [mount["target"] for mount in binds if mount.get("bind", {}).get("selinux") not in ("z", "Z")]
        assert unlabelled == ["/etc/localtime"]
    else:
        environment = found["sd-model-init"]["environment"]
        assert environment["HF_TOKEN_PATH"] == "/run/secrets/hf_token"
        assert [secret["source"] for secret in found["sd-model-init"]["secrets"]] == ["hf_token", "civitai_api_token"]


def test_every_combination_of_override_files_is_valid(compose: Compose) -> None:
    chosen = list(chain.from_iterable(combinations(OVERRIDES, size) for size in range(2, len(OVERRIDES) + 1)))

    def check(names: tuple[str, ...]) -> None:
        files = ":".join(("compose.yaml", *(f"compose/{name}" for name in names)))
        assert compose.config(PROFILES, {"COMPOSE_FILE": files})["services"].keys() == services().keys(), names

    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(check, chosen))) == 26


def test_the_login_for_traefik_reaches_the_label_as_it_is_written(compose: Compose) -> None:
    (compose.folder / ".env").write_text("TRAEFIK_LOGIN_USERS='me:$2y$05$abcdefghijk'\n")
    try:
        labels = compose.config(PROFILES)["services"]["comfyui"]["labels"]
    finally:
        (compose.folder / ".env").unlink()
    # `config` prints a dollar twice, so that its output can be read again
    assert (
        labels["traefik.http.middlewares.ai-stack-login.basicauth.users"].replace("$$", "$") == "me:$2y$05$abcdefghijk"
    )


def test_an_exported_address_to_listen_on_reaches_no_service(compose: Compose) -> None:
    assert "0.0.0.0:1" not in json.dumps(compose.config(PROFILES, {"OLLAMA_HOST": "0.0.0.0:1"}))
