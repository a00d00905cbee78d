"""The whole stack is started once, on a machine without a GPU and without internet access, and then checked."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.docker.stack import RERANKER, Stack, answering, clone, settings_for, write_tier
from tests.e2e.tree import assert_store_is_whole, contents

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.docker.engine import Engine
    from tests.e2e.docker.hub import HubProcess

EVERYTHING = ("gpu", "chat", "media", "gpu-media")
WAITS = {
    "ollama": "ollama-init",
    "stable-diffusion": "sd-model-init",
    "comfyui": "comfyui-model-init",
    "whisperx": "whisper-model-init",
    "diffrhythm": "diffrhythm-model-init",
    "immich-machine-learning-gpu": "immich-model-init",
    "anythingllm": "anythingllm-model-init",
    "librechat": "chat-data-init",
}


@pytest.fixture(scope="module")
def stack(built: Engine, hub: HubProcess, playground: Path) -> Iterator[Stack]:
    """The stack, up with all its profiles."""
    running = Stack(engine=built, folder=clone(playground / "up"), sent_before=hub.sent("*"))
    write_tier(running.folder, hub.ask("manifests"))
    running.write_settings(settings_for(hub))
    # Slow enough that the two services which want the checkpoint want it at the same time.
    hub.fault("*/sd_tiny.safetensors", "Throttle", rate=1_500_000)
    running.up(*EVERYTHING)
    hub.heal()
    yield running
    running.down()


def inside_network(stack: Stack, *command: str) -> str:
    """Run a command on the machine that the stack's ports are published on."""
    done = subprocess.run(stack.engine.inside(*command), capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def post(stack: Stack, path: str, **body: object) -> dict[str, Any]:
    """Call Ollama's API at its published port."""
    text = inside_network(
        stack, "curl", "--silent", "--fail", "--data", json.dumps(body), f"http://127.0.0.1:11434{path}"
    )
    return dict(json.loads(text))


def tier_digests(stack: Stack) -> dict[str, str]:
    """The digest of each file that the tier pins, by the last part of its path."""
    models = json.loads((stack.folder / "manifests" / "8g.yaml").read_text())["models"]
    files = [file for model in models for file in model.get("files", [])]
    pinned = [{"path": model.get("filename", model["source"]), **model} for model in models if "digest" in model]
    return {
        entry["path"].rpartition("/")[2]: entry["digest"].removeprefix("sha256:")
        for entry in [*files, *pinned]
        if "digest" in entry
    }


def test_each_service_starts_after_its_init_service_has_succeeded(stack: Stack) -> None:
    for service, init in WAITS.items():
        assert stack.container(init).exit_code == 0
        assert stack.container(service).started >= stack.container(init).finished


def test_init_services_run_at_once_and_fetch_shared_models_once(stack: Stack, hub: HubProcess) -> None:
    forge, comfyui = stack.container("sd-model-init"), stack.container("comfyui-model-init")
    assert max(forge.started, comfyui.started) < min(forge.finished, comfyui.finished)
    size = (stack.root / "comfyui" / "models" / "checkpoints" / "sd_tiny.safetensors").stat().st_size
    assert hub.sent("*") - stack.sent_before < 1.5 * size
    assert_store_is_whole(stack.root)


def test_an_init_service_has_little_memory_few_rights_and_a_read_only_file_system(stack: Stack) -> None:
    host = stack.container("sd-model-init").inspect()["HostConfig"]
    assert host["Memory"] == 256 * 2**20
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]


def test_the_image_generators_find_whole_files_where_they_look(stack: Stack) -> None:
    digests = tier_digests(stack)
    forge, comfyui = stack.finds("stable-diffusion"), stack.finds("comfyui")["models"]
    assert forge["checkpoints"] == {"sd_tiny.safetensors": digests["sd_tiny.safetensors"]}
    assert forge["loras"] == {"styles/ink.safetensors": digests["ink.safetensors"]}
    assert forge["upscalers"] == {"4x-tiny.safetensors": digests["4x-tiny.safetensors"]}
    assert list(forge["vae"]) == ["sd_tiny_vae.safetensors"]
    assert list(forge["embeddings"]) == ["tiny-style.safetensors"]
    assert forge["flags"] == ["--no-download-sd-model", "--do-not-download-clip"]
    assert comfyui == {
        "checkpoints/sd_tiny.safetensors": digests["sd_tiny.safetensors"],
        "embeddings/tiny-style.safetensors": forge["embeddings"]["tiny-style.safetensors"],
        "loras/styles/ink.safetensors": digests["ink.safetensors"],
        "upscale_models/4x-tiny.safetensors": digests["4x-tiny.safetensors"],
        "vae/sd_tiny_vae.safetensors": forge["vae"]["sd_tiny_vae.safetensors"],
    }


def test_one_checkpoint_for_two_services_is_on_disk_once(stack: Stack) -> None:
    forge = stack.root / "stable-diffusion" / "models" / "Stable-diffusion" / "sd_tiny.safetensors"
    assert forge.samefile(stack.root / "comfyui" / "models" / "checkpoints" / "sd_tiny.safetensors")


def test_whisperx_finds_whole_files_where_it_looks(stack: Stack) -> None:
    digests = tier_digests(stack)
    found = stack.finds("whisperx")
    (snapshot,) = found["snapshots"].values()
    assert snapshot["model.bin"] == digests["model.bin"]
    assert set(snapshot) == {
        "config.json",
        "model.bin",
        "preprocessor_config.json",
        "tokenizer.json",
        "vocabulary.json",
    }
    assert found["aligners"] == found["torch"] == {"wav2vec2_tiny.pth": digests["wav2vec2_tiny.pth"]}
    assert any(name.startswith("punkt_tab/") for name in found["nltk"])


def test_diffrhythm_finds_complete_files_in_its_cache(stack: Stack) -> None:
    # The real image waits for `docker compose exec`; so does the stand-in.
    done = stack.container("diffrhythm").exec("python3", "/stub/stub.py", "look")
    found = json.loads(done.stdout)["found"]
    assert found["ASLP-lab/DiffRhythm-1_2"] == {"cfm_model.pt": tier_digests(stack)["cfm_model.pt"]}
    assert len(found) == 5


def test_the_real_ollama_generates_with_the_tiers_model_and_nothing_but_the_stacks_network(stack: Stack) -> None:
    container = stack.container("ollama")
    answer = post(stack, "/api/generate", model="qwen2.5:0.5b", prompt="hello", stream=False)
    assert answer["done"]
    assert answer["eval_count"] > 0
    state = container.inspect()
    assert list(state["NetworkSettings"]["Networks"]) == ["ai-stack"]
    assert state["HostConfig"]["Memory"] == 3 * 2**30
    assert not state["State"]["OOMKilled"]
    assert state["State"]["Health"]["Status"] == "healthy"
    environment = dict(entry.split("=", 1) for entry in state["Config"]["Env"])
    assert environment["OLLAMA_HOST"] == "0.0.0.0:11434"
    assert environment["OLLAMA_CONTEXT_LENGTH"] == "4096"


def test_the_embedding_model_of_the_frontends_is_there(stack: Stack) -> None:
    answer = post(stack, "/api/show", model="nomic-embed-text")
    assert answer["details"]["format"] == "gguf"


def test_the_gpu_check_notices_that_a_model_runs_on_the_cpu(stack: Stack) -> None:
    post(stack, "/api/generate", model="qwen2.5:0.5b", keep_alive=0, stream=False)
    gpu = stack.config("--profile", "gpu", GPU_ENABLE="true")
    kind, command = gpu["services"]["ollama-gpu-check"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    check = stack.container("ollama-gpu-check")
    assert check.exec("sh", "-c", command, check=False).returncode == 0
    post(stack, "/api/generate", model="qwen2.5:0.5b", prompt="hello", stream=False)
    assert check.exec("sh", "-c", command, check=False).returncode == 1


def test_immichs_machine_learning_is_offline_and_finds_its_models(stack: Stack) -> None:
    found = stack.finds("immich-machine-learning-gpu")["models"]
    assert set(found) == {"clip/muq-tiny/config.json", "clip/muq-tiny/model.safetensors"}
    assert found["clip/muq-tiny/model.safetensors"] == tier_digests(stack)["model.safetensors"]
    environment = stack.container("immich-machine-learning-gpu").inspect()["Config"]["Env"]
    assert "HF_HUB_OFFLINE=1" in environment


@pytest.mark.parametrize("frontend", ["open-webui", "librechat", "anythingllm", "private-gpt"])
def test_a_frontend_sees_the_tiers_models_by_its_own_setting(stack: Stack, frontend: str) -> None:
    found = stack.finds(frontend)
    assert found["models"] == ["nomic-embed-text:latest", "qwen2.5:0.5b"]
    assert stack.container(frontend).started >= stack.container("ollama").started


def test_librechats_secrets_are_made_once_and_kept(stack: Stack) -> None:
    lengths = {"CREDS_KEY": 64, "CREDS_IV": 32, "JWT_SECRET": 64, "JWT_REFRESH_SECRET": 64}
    assert stack.finds("librechat")["secrets"] == lengths
    kept = contents(stack.folder / "files" / "ai-data" / "librechat" / "secrets")
    assert set(kept) == {*lengths, "MEILI_MASTER_KEY"}
    assert stack.container("librechat").exec("cat", "/secrets/CREDS_KEY").stdout.strip()


@pytest.mark.parametrize(
    ("one", "other"), [("librechat", "librechat-meilisearch"), ("immich-server", "immich-database")]
)
def test_two_services_share_a_secret_that_was_made_here(stack: Stack, one: str, other: str) -> None:
    assert stack.finds(one)["key"] == stack.finds(other)["key"]
    folder = stack.folder / "files" / "ai-data" / one.partition("-")[0] / "secrets"
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_settings_of_anythingllm_survive_a_new_container(stack: Stack) -> None:
    first = stack.container("anythingllm")
    assert stack.finds("anythingllm")["settings"] == ""
    stack.must("--profile", "chat", "up", "--detach", "--force-recreate", "--no-deps", "anythingllm")
    assert stack.container("anythingllm").name != first.name
    assert stack.finds("anythingllm")["settings"] == "AUTH_TOKEN='set in the page'\n"


def test_anythingllm_finds_its_models_in_its_download_folder(stack: Stack) -> None:
    container = stack.container("anythingllm")
    folder = "/app/server/storage/models"
    found = container.exec("sha256sum", f"{folder}/tesseract/eng.traineddata").stdout.split()[0]
    tier = json.loads((stack.folder / "manifests" / "8g.yaml").read_text())
    scanned, reranker = (model for model in tier["models"] if model["for"] == ["anythingllm"])
    assert scanned["digest"] == f"sha256:{found}"
    for file in reranker["files"]:
        found = container.exec("sha256sum", f"{folder}/{RERANKER}/{file['path']}").stdout.split()[0]
        assert file["digest"] == f"sha256:{found}"
    assert container.exec("cat", f"{folder}/context-windows/context-windows.json").stdout == "{}\n"
    # milliseconds since 1970, as `Date.now()` of the collector's check counts them: not before the year 2200
    assert int(container.exec("cat", f"{folder}/context-windows/.cached_at").stdout) > 230 * 365 * 86_400_000


def test_everything_that_was_placed_is_checked_on_request(stack: Stack) -> None:
    text = stack.must("run", "--rm", "-T", "modelfetch-verify", "verify", "--json")
    report = json.loads(text)
    assert report["ok"]
    folders = {
        placement.partition("/")[0]
        for model in report["models"]
        for artifact in model["artifacts"]
        for placement in artifact["placements"]
    }
    assert {"ollama", "comfyui", "whisper", "diffrhythm", "immich", "anythingllm"} <= folders
    weights = stack.root / "comfyui" / "models" / "vae" / "sd_tiny_vae.safetensors"
    status = weights.stat()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert stack.compose("run", "--rm", "-T", "modelfetch-verify").returncode == 1
    stack.must("run", "--rm", "-T", "modelfetch-verify", "verify", "--repair")
    stack.must("run", "--rm", "-T", "modelfetch-verify")


def test_only_one_of_the_two_machine_learnings_of_immich_runs_and_the_other_passes_on_to_it(stack: Stack) -> None:
    assert '"role"' in stack.logs("immich-machine-learning-gpu")
    passed_on = stack.wait_for_log("immich-machine-learning", "passes on")
    assert '"role"' not in passed_on
    for name in ("immich-ml", "immich-machine-learning", "immich-machine-learning-gpu"):
        assert answering(stack, name) == stack.container("immich-machine-learning-gpu").name, name
    _, *check = stack.container("immich-machine-learning").inspect()["Config"]["Healthcheck"]["Test"]
    health = stack.container("immich-machine-learning").exec(*check, check=False)
    assert health.returncode == 0, health.stderr


def test_the_frontends_that_do_not_run_as_root_own_their_folders(stack: Stack) -> None:
    for service in ("anythingllm", "librechat"):
        assert stack.container(service).exec("id", "-u").stdout.strip() == "1000"
    data = stack.folder / "files" / "ai-data"
    assert {(data / "anythingllm" / name).stat().st_uid for name in ("storage", "secrets")} == {1000}
    assert (data / "librechat" / "secrets" / "MEILI_MASTER_KEY").stat().st_uid == 1000, "Meilisearch made it, as root"


def test_comfyuis_manager_is_set_up_before_it_starts(stack: Stack) -> None:
    config = stack.folder / "files" / "ai-data" / "comfyui" / "user" / "__manager" / "config.ini"
    assert {"security_level = normal", "network_mode = offline"} <= set(config.read_text().splitlines())


@pytest.mark.parametrize("service", ["stable-diffusion", "comfyui", "whisperx", "diffrhythm"])
def test_a_services_health_check_passes_in_its_container(stack: Stack, service: str) -> None:
    container = stack.container(service)
    _, *check = container.inspect()["Config"]["Healthcheck"]["Test"]
    done = container.exec(*check, check=False)
    assert done.returncode == 0, done.stderr


def test_no_container_keeps_more_than_some_log(stack: Stack) -> None:
    drivers = {stack.container(name).inspect()["HostConfig"]["LogConfig"]["Type"] for name in stack.services()}
    assert drivers == {"local"}


def test_pages_are_open_to_this_machine_only(stack: Stack) -> None:
    for port in (3000, 3001, 3080, 8001, 7861, 8188, 9000, 2283):
        inside_network(stack, "curl", "--silent", "--fail", f"http://127.0.0.1:{port}/")
    bindings = [
        binding["HostIp"]
        for service in stack.services()
        for published in (stack.container(service).inspect()["HostConfig"]["PortBindings"] or {}).values()
        for binding in published
    ]
    assert set(bindings) == {"127.0.0.1"}


def test_nothing_can_reach_the_hub_but_the_init_services_or_anything_outside(stack: Stack) -> None:
    for service, state in stack.services().items():
        networks = set(stack.container(service).inspect()["NetworkSettings"]["Networks"])
        expected = {"chat-data-init": {"none"}}.get(service, {"ai-stack_downloads"})
        assert networks == (expected if service.endswith("-init") else {"ai-stack"}), (service, state)


def test_after_a_reboot_all_services_run_again_without_a_request(stack: Stack, engine: Engine, hub: HubProcess) -> None:
    ran, seen = stack.services(), hub.requests()
    finished = {init: stack.container(init).finished for init in WAITS.values()}
    engine.kill()
    engine.start()
    deadline = time.monotonic() + 60
    while stack.services() != ran:
        assert time.monotonic() < deadline, (ran, stack.services())
        time.sleep(0.5)
    assert finished == {init: stack.container(init).finished for init in WAITS.values()}, "init services do not run"
    assert hub.requests() == seen
    assert post(stack, "/api/generate", model="qwen2.5:0.5b", prompt="hello", stream=False)["eval_count"] > 0
    while answering(stack, "immich-machine-learning") != stack.container("immich-machine-learning-gpu").name:
        assert time.monotonic() < deadline, stack.logs("immich-machine-learning")
        time.sleep(1)


def test_a_second_up_takes_seconds_sends_no_request_and_restarts_nothing(stack: Stack, hub: HubProcess) -> None:
    before, seen = stack.container("ollama").started, hub.requests()
    started = time.monotonic()
    stack.up(*EVERYTHING)
    assert time.monotonic() - started < 30
    assert hub.requests() == seen
    assert stack.container("ollama").started == before
    added = stack.root / "comfyui" / "models" / "checkpoints" / "added-in-the-web-page.safetensors"
    assert added.read_bytes() == b"somebody's own"


def test_down_and_a_forced_up_send_no_request_and_keep_all_models(stack: Stack, hub: HubProcess) -> None:
    before, seen = contents(stack.root), hub.requests()
    stack.down()
    assert stack.services() == {}
    stack.must("--profile", "gpu", "up", "--detach", "--force-recreate")
    assert hub.requests() == seen
    assert all(stack.container(init).exit_code == 0 for init in set(WAITS.values()) & set(stack.services()))
    after = contents(stack.root)
    assert {path: digest for path, digest in after.items() if path in before} == before
    assert post(stack, "/api/generate", model="qwen2.5:0.5b", prompt="hello", stream=False)["eval_count"] > 0
