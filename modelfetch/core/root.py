"""The folder for models: where it is by default, and the services that have a folder in it. Imports nothing."""

DEFAULT_ROOT = "./files/ai-models"
"""The folder that the stack's compose files mount."""

CONSUMERS = ("ollama", "stable-diffusion", "comfyui", "whisper", "diffrhythm", "immich", "anythingllm")
"""The services that models can be placed for; each has the folder of its name below ROOT."""
