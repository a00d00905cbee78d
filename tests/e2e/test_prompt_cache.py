"""The real llama-server, as Ollama runs it, in the memory that the stack gives to Ollama's container."""

from __future__ import annotations

import random
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.compose.compose_files import services
from tests.e2e.memory_limit import memory_limit
from tests.e2e.servers import answers, free_port, plain_environment, running
from tests.fitting.architectures import Spec, made

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.e2e.memory_limit import MemoryGroup

pytestmark = pytest.mark.heavy

GIB = 2**30
PROMPTS, TOKENS = 30, 3840
# The layers, heads for keys and values, and vocabulary of qwen2.5:0.5b: its prompts take as much memory, 45 MiB each.
# Fewer heads for queries and a small feed-forward network make them quick.
SHAPE = Spec(
    arch="llama",
    layers=24,
    embedding=896,
    heads=2,
    kv_heads=2,
    head=64,
    ff=64,
    vocab=151936,
    tied=True,
    more={"rope.dimension_count": 64},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaServer:
    """A running llama-server."""

    address: str

    def read_prompt(self, seed: int) -> None:
        """Send a long prompt that shares its beginning with no other one.

        Raises:
            httpx.TransportError: The server is gone.
        """
        chance = random.Random(seed)
        prompt = [chance.randrange(2, SHAPE.vocab) for _ in range(TOKENS)]
        body = {"prompt": prompt, "n_predict": 1}
        httpx.post(f"{self.address}/completion", json=body, trust_env=False, timeout=600).raise_for_status()


def read_prompts(*servers: LlamaServer) -> None:
    """Send many long prompts to each server."""
    for seed in range(PROMPTS):
        for server in servers:
            server.read_prompt(seed)


@contextmanager
def serve_llama(
    binary: Path, model: Path, folder: Path, *, group: MemoryGroup, settings: Mapping[str, str]
) -> Iterator[LlamaServer]:
    """A llama-server in a memory group, with the options that Ollama gives it: one request at a time, no mapping."""
    folder.mkdir()
    port = free_port()
    command = group.command(
        *(str(binary), "--model", str(model), "--load-mode", "none", "--flash-attn", "on", "--port", str(port)),
        *("--ctx-size", settings["OLLAMA_CONTEXT_LENGTH"], "--parallel", settings["OLLAMA_NUM_PARALLEL"]),
    )
    chosen = {name: value for name, value in settings.items() if name.startswith("LLAMA_ARG_")}
    environment = plain_environment(folder, LD_LIBRARY_PATH=str(binary.parent), **chosen)
    address = f"http://127.0.0.1:{port}"
    ready = f"{address}/health"
    with running(command, environment=environment, folder=folder, ready=lambda: answers(ready), seconds=120):
        yield LlamaServer(address=address)


@pytest.fixture(scope="module")
def model(public_folder: Path) -> Path:
    """A model of that shape, all of whose weights are zero."""
    return made(SHAPE).write(public_folder / "model.gguf")


@pytest.fixture
def settings() -> dict[str, str]:
    """What the compose files set for Ollama when `.env` sets nothing."""
    return {name: str(value) for name, value in services()["ollama"]["environment"].items()}


def test_with_the_stacks_settings_all_models_that_ollama_loads_survive_many_long_prompts(
    llama_server: Path, model: Path, workplace: Path, settings: dict[str, str]
) -> None:
    limit = services()["ollama"]["deploy"]["resources"]["limits"]["memory"]
    with memory_limit(int(limit.removesuffix("g")) * GIB) as group, ExitStack() as stack:
        servers = [
            stack.enter_context(
                serve_llama(llama_server, model, workplace / str(number), group=group, settings=settings)
            )
            for number in range(int(settings["OLLAMA_MAX_LOADED_MODELS"]))
        ]
        read_prompts(*servers)
        assert group.killed == 0
        assert group.peak < 0.95 * GIB * int(limit.removesuffix("g"))


def test_with_its_own_cache_size_it_is_killed_in_the_first_plans_limit(
    llama_server: Path, model: Path, workplace: Path, settings: dict[str, str]
) -> None:
    del settings["LLAMA_ARG_CACHE_RAM"]
    with (
        memory_limit(GIB) as group,
        serve_llama(llama_server, model, workplace / "0", group=group, settings=settings) as server,
    ):
        with pytest.raises(httpx.TransportError):
            read_prompts(server)
        assert group.killed == 1
