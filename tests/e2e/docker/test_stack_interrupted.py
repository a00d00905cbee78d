"""After a stop, a kill or a lost connection during a download, the next start resumes it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.docker.engine import Engine
    from tests.e2e.docker.hub import HubProcess
    from tests.e2e.docker.stack import Stack

CHECKPOINT = "*/sd_tiny.safetensors"
SIZE = 40_580_552


@pytest.fixture
def slow(new_stack: Stack, hub: HubProcess) -> Iterator[Stack]:
    """A stack whose checkpoint takes half a minute or less, so that there is a middle."""
    hub.fault(CHECKPOINT, "Throttle", rate=1_000_000)
    yield new_stack
    hub.heal()


def wait_for_the_middle(stack: Stack, hub: HubProcess, sent: int, seconds: float = 60) -> None:
    """Wait until a good part of the checkpoint has come: its journal is written for each MiB of a connection."""
    deadline = time.monotonic() + seconds
    while hub.sent("*") - sent < SIZE // 2:
        assert time.monotonic() < deadline, stack.logs("sd-model-init")
        time.sleep(0.2)


def test_stop_ends_fast_and_the_next_up_goes_on(slow: Stack, hub: HubProcess) -> None:
    sent = hub.sent("*")
    with slow.start("--profile", "sd", "up", "--detach") as up:
        wait_for_the_middle(slow, hub, sent)
        started = time.monotonic()
        slow.must("--profile", "sd", "stop")
        assert time.monotonic() - started < 8
        assert up.wait(60) != 0
        assert up.stdout is not None
        up.stdout.read()
    assert slow.container("sd-model-init").exit_code == 143
    assert_goes_on(slow, hub)


def test_a_killed_engine_loses_little_and_the_next_up_goes_on(slow: Stack, hub: HubProcess, engine: Engine) -> None:
    sent = hub.sent("*")
    with slow.start("--profile", "sd", "up", "--detach") as up:
        wait_for_the_middle(slow, hub, sent)
        engine.kill()
        assert up.wait(60) != 0
        assert up.stdout is not None
        up.stdout.read()
    engine.start()
    assert not slow.container("stable-diffusion").was_started
    assert_goes_on(slow, hub)


def test_a_killed_init_service_keeps_its_service_from_starting_and_the_next_up_goes_on(
    slow: Stack, hub: HubProcess
) -> None:
    sent = hub.sent("*")
    with slow.start("--profile", "sd", "up", "--detach") as up:
        wait_for_the_middle(slow, hub, sent)
        slow.engine.output("kill", slow.container("sd-model-init").name)
        assert up.wait(60) != 0
        assert up.stdout is not None
        assert "exit 137" in up.stdout.read()
    assert not slow.container("stable-diffusion").was_started
    assert_goes_on(slow, hub)


def assert_goes_on(stack: Stack, hub: HubProcess) -> None:
    """Nothing partial is where a service looks; the rest is fetched, and not the whole again."""
    folder = stack.root / "stable-diffusion" / "models" / "Stable-diffusion"
    assert not list(folder.glob("sd_tiny*"))
    hub.heal()
    hub_before = hub.sent("*")
    stack.up("sd")
    assert stack.container("sd-model-init").exit_code == 0
    assert (folder / "sd_tiny.safetensors").stat().st_size == SIZE
    again = hub.sent("*") - hub_before
    assert again < 0.75 * SIZE, again
    assert stack.finds("stable-diffusion")["checkpoints"]
