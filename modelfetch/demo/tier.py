"""The demo tier: the content for ``manifests/demo.yaml``, and the environment that points to it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from modelfetch.demo import models
from modelfetch.demo.faults import DropAfter, Throttle
from modelfetch.demo.hub import Hub
from modelfetch.demo.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES_HOST = "https://models.example.com/"
"""The manifest's URL for plain files; the environment redirects it to the hub."""

CHECKPOINT_RATE = 24_000_000
"""Bytes per second on each connection: slow enough to watch."""
DROP_AT = 3 * 1024 * 1024
"""Bytes of the checkpoint after which its connection breaks, once, to demonstrate a resume."""


def demo_world() -> World:
    """Return the content for the demo tier, for all five consumers."""
    world = World()
    world.hf_repo(
        "modelfetch-demo/sd-tiny", {"README.md": _card("sd-tiny"), "sd_tiny.safetensors": models.checkpoint()}
    )
    world.hf_repo(
        "modelfetch-demo/sd-tiny-extras",
        {
            "README.md": _card("sd-tiny-extras"),
            "vae/sd_tiny_vae.safetensors": models.vae(),
            "loras/ink.safetensors": models.lora(),
        },
    )
    world.hf_repo("modelfetch-demo/faster-whisper-tiny", models.faster_whisper())
    world.hf_repo("modelfetch-demo/diffrhythm-tiny", models.diffrhythm_cfm())
    world.hf_repo("modelfetch-demo/diffrhythm-vae-tiny", models.diffrhythm_vae())
    world.hf_repo("modelfetch-demo/muq-mulan-tiny", models.muq_mulan())
    world.hf_repo("modelfetch-demo/muq-tiny", models.muq())
    world.hf_repo("modelfetch-demo/xlm-roberta-tiny", models.xlm_roberta())
    world.ollama_model("modelfetch-demo:latest", models.ollama_layers(), config=models.ollama_config())
    world.file("upscalers/4x-tiny.safetensors", models.upscaler())
    world.file("embeddings/tiny-style.safetensors", models.embedding())
    world.file("torch/wav2vec2_tiny.pth", models.align_model())
    world.file("whisper/tiny.pt", models.openai_whisper())
    world.file("nltk/punkt_tab.zip", models.nltk_punkt(), content_type="application/zip")
    return world


def environment(hub: Hub) -> dict[str, str]:
    """Return the settings that make a downloader use ``hub`` instead of the real services."""
    return {
        "HF_ENDPOINT": hub.endpoint,
        "MODELFETCH_OLLAMA_REGISTRY": hub.ollama,
        "MODELFETCH_CIVITAI_ENDPOINT": hub.civitai,
        "MODELFETCH_MIRRORS": f"{FILES_HOST}={hub.files}",
    }


@contextmanager
def demo_environment(*, eventful: bool = True) -> Iterator[dict[str, str]]:
    """Start the demo's hub and yield the environment that points to it.

    ``eventful``: the checkpoint is sent at a speed that can be watched, and its connection breaks once.
    """
    with Hub(demo_world()) as hub:
        if eventful:
            hub.faults.add("*/sd_tiny.safetensors", Throttle(rate=CHECKPOINT_RATE), times=None)
            hub.faults.add("*/sd_tiny.safetensors", DropAfter(bytes=DROP_AT), origin="cdn")
        yield environment(hub)


def _card(name: str) -> str:
    return f"---\nlicense: cc0-1.0\n---\n# {name}\n\nNoise in the shape of a model, for modelfetch's demo tier.\n"
