"""The services that models can be placed for."""

from __future__ import annotations

CONSUMERS = ("ollama", "stable-diffusion", "comfyui", "whisper", "diffrhythm", "immich", "anythingllm")
"""Their names; each has the folder of its name below ROOT."""
