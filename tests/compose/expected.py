"""The services of the compose files and what is expected of them."""

from __future__ import annotations

import functools
from typing import Any

from tests.compose.compose_files import FILES, REPOSITORY, services

INITS = {
    "ollama-init": ("ollama", "ollama"),
    "sd-model-init": ("stable-diffusion", "stable-diffusion"),
    "comfyui-model-init": ("comfyui", "comfyui"),
    "whisper-model-init": ("whisper", "whisperx"),
    "diffrhythm-model-init": ("diffrhythm", "diffrhythm"),
    "immich-model-init": ("immich", "immich-machine-learning"),
    "anythingllm-model-init": ("anythingllm", "anythingllm"),
}
"""Each init service, the consumer that it syncs for, and a service that waits for it."""

ENDING = {*INITS, "chat-data-init", "modelfetch-verify"}
"""The services that end."""

GPU_SERVICES = ("stable-diffusion", "comfyui", "whisperx", "diffrhythm", "immich-machine-learning-gpu")
"""The services on the GPU except Ollama, which has a separate check."""
PROFILES = {"gpu", "chat", "sd", "comfyui", "whisper", "diffrhythm", "media", "gpu-media", "verify"}
TEXTS = {name: (REPOSITORY / name).read_text() for name in FILES}


@functools.cache
def every() -> dict[str, dict[str, Any]]:
    return services()


def binds(service: dict[str, Any]) -> list[tuple[str, str]]:
    """Source and target of each mount."""
    return [(mount.split(":")[0], mount.split(":")[1]) for mount in service.get("volumes", [])]
