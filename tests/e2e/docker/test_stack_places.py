"""Where the models are, which users read them, and what the init services need."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from modelfetch.core.root import CONSUMERS
from tests.e2e.docker import peers
from tests.e2e.docker.images import MODELFETCH
from tests.e2e.docker.stack import answering, settings_for
from tests.e2e.tree import assert_store_is_whole, contents

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.docker.engine import Engine
    from tests.e2e.docker.hub import HubProcess
    from tests.e2e.docker.stack import Stack

INITS = ("ollama-init", "sd-model-init", "comfyui-model-init", *(f"{name}-model-init" for name in CONSUMERS[3:]))
OTHER_FILE_SYSTEM = Path("/dev/shm")  # noqa: S108 - a file system in memory, on every Linux machine


@pytest.fixture
def elsewhere(engine: Engine) -> Iterator[Path]:
    """A folder on another file system than the clone."""
    with tempfile.TemporaryDirectory(dir=OTHER_FILE_SYSTEM, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        assert folder.stat().st_dev != engine.folder.stat().st_dev
        yield folder


def test_the_root_may_be_a_symlink_to_another_file_system(new_stack: Stack, elsewhere: Path) -> None:
    new_stack.root.parent.mkdir(exist_ok=True)
    new_stack.root.symlink_to(elsewhere)
    new_stack.up("sd", "comfyui")
    assert new_stack.root.is_symlink()
    forge = new_stack.finds("stable-diffusion")["checkpoints"]
    comfyui = new_stack.finds("comfyui")["models"]
    assert forge["sd_tiny.safetensors"] == comfyui["checkpoints/sd_tiny.safetensors"]
    placed = elsewhere / "stable-diffusion" / "models" / "Stable-diffusion" / "sd_tiny.safetensors"
    assert placed.stat().st_nlink == 3, "one for each service and one in the store"


def test_immichs_machine_learning_is_on_the_cpu_only_while_the_one_on_the_gpu_is_not_there(new_stack: Stack) -> None:
    new_stack.up("media")
    found = new_stack.wait_for_log("immich-machine-learning", '"role"')
    assert "passes on" not in found
    cpu = new_stack.container("immich-machine-learning")
    assert answering(new_stack, "immich-ml") == cpu.name
    new_stack.up("media", "gpu-media")
    new_stack.wait_for_log("immich-machine-learning", "passes on")
    assert new_stack.container("immich-machine-learning").name == cpu.name, "the same container as before"
    gpu = new_stack.container("immich-machine-learning-gpu")
    assert answering(new_stack, "immich-machine-learning") == gpu.name
    new_stack.must("--profile", "gpu-media", "stop", "immich-machine-learning-gpu")
    deadline = time.monotonic() + 60
    while new_stack.logs("immich-machine-learning").count("working on the CPU") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    started = time.monotonic()
    new_stack.must("--profile", "media", "stop", "immich-machine-learning")
    assert time.monotonic() - started < 8


def test_an_internal_network_is_enough_for_everything_but_the_init_services(new_stack: Stack) -> None:
    new_stack.write_settings(STACK_NETWORK_INTERNAL="true")
    new_stack.up("chat")
    assert new_stack.engine.output("network", "inspect", "--format", "{{.Internal}}", "ai-stack") == "true"
    for frontend in ("open-webui", "librechat", "anythingllm", "private-gpt"):
        assert new_stack.finds(frontend)["models"] == ["nomic-embed-text:latest", "qwen2.5:0.5b"]
    body = json.dumps({"model": "qwen2.5:0.5b", "prompt": "hello", "stream": False}).encode()
    code = f"from urllib.request import urlopen; print(urlopen('http://ollama:11434/api/generate', {body!r}).status)"
    assert new_stack.container("open-webui").exec("python3", "-c", code).stdout.strip() == "200"


def test_a_root_of_another_user_is_filled_for_the_configured_user(new_stack: Stack) -> None:
    new_stack.root.mkdir(parents=True)
    new_stack.root.chmod(0o700)
    os.chown(new_stack.root, 4321, 4321)
    new_stack.write_settings(PUID="1000", PGID="1000")
    new_stack.up("sd", "chat")
    assert (new_stack.root.stat().st_uid, new_stack.root.stat().st_mode & 0o777) == (4321, 0o700)
    folders = {path for path in (new_stack.root / "stable-diffusion").rglob("*") if path.is_dir()}
    assert {(folder.stat().st_uid, folder.stat().st_mode & 0o777) for folder in folders} == {(1000, 0o755)}
    for service in ("stable-diffusion", "librechat", "anythingllm"):
        assert new_stack.finds(service)


def test_another_root_is_taken_from_the_settings(new_stack: Stack, elsewhere: Path) -> None:
    new_stack.write_settings(AI_MODELS_DIR=str(elsewhere))
    new_stack.up("whisper")
    assert new_stack.finds("whisperx")["snapshots"]
    assert (elsewhere / "whisper" / "hub").is_dir()
    assert not new_stack.root.exists()


def test_a_service_of_another_user_reads_every_model(new_stack: Stack) -> None:
    for init in INITS:
        new_stack.must("--profile", "gpu", "run", "--rm", init)
    done = run_modelfetch(
        new_stack.engine,
        *("--user", "4321:4321", "--cap-drop", "ALL", "--volume", f"{new_stack.root}:/ai-models:ro"),
        *("--entrypoint", "sh"),
        command=["-c", "id -u; cd /ai-models && find -L * -type f | sort | tr '\\n' '\\0' | xargs -0 sha256sum"],
    )
    assert done.returncode == 0, done.stderr
    user, *lines = done.stdout.splitlines()
    assert user == "4321"
    placed = {path: digest for path, digest in contents(new_stack.root).items() if not path.startswith(".modelfetch")}
    assert {path.partition("/")[0] for path in placed} == set(CONSUMERS)
    assert {line[66:]: line[:64] for line in lines} == placed


def test_modelfetch_runs_as_any_user_without_a_home_or_a_writable_file_system(
    new_stack: Stack, hub: HubProcess
) -> None:
    root = new_stack.folder / "own"
    root.mkdir()
    subprocess.run(["chown", "1000:1000", str(root)], check=True)
    done = run_modelfetch(
        new_stack.engine,
        *("--user", "1000:1000", "--read-only", "--cap-drop", "ALL", "--memory", "128m"),
        *mounts(new_stack, root),
        *environment(hub),
        command=["sync"],
    )
    assert done.returncode == 0, done.stderr
    owners = {path.lstat().st_uid for path in root.rglob("*")}
    assert owners == {1000}
    assert_store_is_whole(root)


def test_all_at_once_share_an_empty_store_in_128_mib_each(new_stack: Stack, hub: HubProcess) -> None:
    root = new_stack.folder / "shared"
    root.mkdir()
    options = [*LITTLE, *mounts(new_stack, root), *environment(hub)]
    running = [
        subprocess.Popen(
            [str(peers.docker()), "run", "--rm", *options, MODELFETCH, "sync", "--for", consumer],
            env=new_stack.engine.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for consumer in CONSUMERS
    ]
    ends = [(process.communicate(timeout=180)[0], process.returncode) for process in running]
    assert [code for _, code in ends] == [0] * len(CONSUMERS), ends
    assert_store_is_whole(root)
    before = hub.requests()
    done = run_modelfetch(new_stack.engine, *LITTLE, *mounts(new_stack, root), *environment(hub), command=["status"])
    assert done.returncode == 0, done.stdout
    assert hub.requests() == before


def test_process_1_ends_at_once_on_a_signal(new_stack: Stack, hub: HubProcess) -> None:
    hub.fault("*/sd_tiny.safetensors", "Throttle", rate=50_000)
    engine, root = new_stack.engine, new_stack.folder / "stopped"
    root.mkdir()
    name = engine.output(
        *("run", "--detach", "--read-only", *mounts(new_stack, root), *environment(hub), MODELFETCH, "sync"),
        *("--for", "stable-diffusion"),
    )
    deadline = time.monotonic() + 30
    while not list((root / ".modelfetch").glob("ingest/*")):
        assert time.monotonic() < deadline, engine.output("logs", name)
        time.sleep(0.1)
    started = time.monotonic()
    engine.output("stop", "--time", "20", name)
    assert time.monotonic() - started < 5
    assert engine.output("inspect", "--format", "{{.State.ExitCode}}", name) == "143"
    engine.output("rm", name)


LITTLE = ("--memory", "128m", "--memory-swap", "128m", "--read-only", "--network", "bridge")


def run_modelfetch(engine: Engine, *options: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    """`docker run OPTIONS modelfetch COMMAND` to its end."""
    return engine.run("run", "--rm", *options, MODELFETCH, *command, check=False)


def mounts(stack: Stack, root: Path) -> list[str]:
    """A root and the stack's tiers, as the init services have them."""
    return ["--volume", f"{root}:/ai-models", "--volume", f"{stack.folder}/manifests:/manifests:ro"]


def environment(hub: HubProcess) -> list[str]:
    """The settings of an init service."""
    values = {
        **settings_for(hub),
        "MODELFETCH_ROOT": "/ai-models",
        "MODELFETCH_TIERS_DIR": "/manifests",
        "MODELFETCH_TIER": "8g",
    }
    return [part for name, value in values.items() for part in ("--env", f"{name}={value}")]
