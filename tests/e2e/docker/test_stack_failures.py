"""What can't be fetched keeps its service from starting, and the log of the init service shows why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.e2e.docker.engine import Engine
    from tests.e2e.docker.hub import HubProcess
    from tests.e2e.docker.stack import Stack

REPO = "modelfetch-demo/sd-tiny"
CHECKPOINT = "*/sd_tiny.safetensors"
UPSCALER = "upscalers/4x-tiny.safetensors"


def flip_a_bit(hub: HubProcess) -> None:
    """Every copy of the checkpoint is damaged on its way."""
    hub.fault(CHECKPOINT, "BitFlip", at=1_000_000)


def take_away(hub: HubProcess) -> None:
    """The file is gone. (A repository of the Hub that is gone looks like a private one.)"""
    hub.ask("take_away", file=UPSCALER)


def gate(hub: HubProcess) -> None:
    """The repository's terms have to be accepted."""
    hub.ask("gate", repo=REPO)


def switch_off(hub: HubProcess) -> None:
    """No server answers."""
    hub.ask("stop")


FAILURES: list[tuple[str, Callable[[HubProcess], None], int, str]] = [
    ("wrong bytes", flip_a_bit, 65, "sd_tiny.safetensors"),
    ("not there", take_away, 66, "4x-tiny.safetensors"),
    ("gated", gate, 77, REPO),
    ("hub down", switch_off, 69, "198.18.0.1"),
]


@pytest.mark.parametrize(("harm", "code", "word"), [pytest.param(*f[1:], id=f[0]) for f in FAILURES])
def test_a_failed_init_service_keeps_its_service_from_starting(
    new_stack: Stack, hub: HubProcess, harm: Callable[[HubProcess], None], code: int, word: str
) -> None:
    harm(hub)
    try:
        assert_up_fails(new_stack, code, word)
    finally:
        hub.ask("start") if harm is switch_off else hub.heal()
    new_stack.up("sd")
    assert new_stack.container("sd-model-init").exit_code == 0
    assert new_stack.container("stable-diffusion").was_started


def test_a_token_from_a_secret_gives_access_and_is_never_shown(new_stack: Stack, hub: HubProcess) -> None:
    gate(hub)
    token = hub.ask("token", value="hf_TestTokenOfTheStack", repo=REPO)
    secrets = new_stack.folder / "secrets"
    secrets.mkdir()
    (secrets / "hf_token").write_text(f"{token}\n")
    (secrets / "civitai_api_token").write_text("")
    new_stack.write_settings(COMPOSE_FILE="compose.yaml:compose/secrets.yml")
    new_stack.up("sd")
    init = new_stack.container("sd-model-init")
    assert init.exit_code == 0
    assert token not in str(init.inspect()) + new_stack.logs("sd-model-init")


def test_a_full_disk_keeps_the_service_from_starting(new_stack: Stack, engine: Engine) -> None:
    small = new_stack.folder / "small"
    engine.mount_tmpfs(small, "16m")
    try:
        new_stack.write_settings(AI_MODELS_DIR="./small")
        assert_up_fails(new_stack, 74, "39.4 MiB needed, 16.0 MiB free")
        new_stack.down()
    finally:
        engine.unmount(small)


def test_an_invalid_tier_keeps_the_service_from_starting(new_stack: Stack) -> None:
    manifest: Path = new_stack.folder / "manifests" / "8g.yaml"
    manifest.write_text(manifest.read_text().replace('"checkpoint"', '"chekpoint"'))
    assert_up_fails(new_stack, 78, "8g.yaml:")


def test_one_failed_init_service_does_not_stop_the_services_of_the_others(new_stack: Stack, hub: HubProcess) -> None:
    flip_a_bit(hub)
    done = new_stack.compose("--profile", "sd", "--profile", "whisper", "up", "--detach")
    assert done.returncode != 0
    assert new_stack.container("sd-model-init").exit_code == 65
    assert not new_stack.container("stable-diffusion").was_started
    new_stack.up("whisper")
    assert new_stack.finds("whisperx")["snapshots"]


def assert_up_fails(stack: Stack, code: int, word: str) -> None:
    """`up` fails, the init service ends with the code, its last lines show why, and its service was never started."""
    done = stack.compose("--profile", "sd", "up", "--detach")
    assert done.returncode != 0
    assert "sd-model-init" in done.stderr
    assert stack.container("sd-model-init").exit_code == code
    last = "\n".join(stack.logs("sd-model-init").strip().splitlines()[-4:])
    assert "error" in last, last
    assert word in last, last
    assert not stack.container("stable-diffusion").was_started
