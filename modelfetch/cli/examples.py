"""The examples at the end of each command's help."""

from __future__ import annotations

_EXAMPLES = {
    "modelfetch": (
        'modelfetch add "ollama run qwen2.5:0.5b"    # write a model into ./models.yaml',
        "modelfetch plan                             # show what sync would do",
        "modelfetch sync                             # download it, and put it in place",
        "modelfetch sync --tier 16g                  # or use the ready-made models for a 16 GB card",
    ),
    "sync": (
        "modelfetch sync --tier 16g",
        "modelfetch sync my-models.yaml --for comfyui,whisper",
        "modelfetch sync --tier auto --limit-rate 50MB --prune",
    ),
    "plan": (
        "modelfetch plan --tier 16g",
        "modelfetch plan my-models.yaml --offline",
    ),
    "status": (
        "modelfetch status --tier 16g",
        "modelfetch status my-models.yaml --for ollama",
        "modelfetch status --tier 16g --format prom",
    ),
    "verify": (
        "modelfetch verify",
        "modelfetch verify --older-than 30d",
        "modelfetch verify my-models.yaml --repair",
    ),
    "list": (
        "modelfetch list",
        "modelfetch list --for comfyui --json",
    ),
    "remove": (
        "modelfetch remove sdxl-vae --dry-run",
        "modelfetch remove sdxl-vae --keep-tier 16g",
    ),
    "prune": (
        "modelfetch prune --tier 16g --dry-run",
        "modelfetch prune my-models.yaml --older-than 30d",
    ),
    "add": (
        "modelfetch add https://huggingface.co/madebyollin/sdxl-vae-fp16-fix/blob/main/sdxl.vae.safetensors",
        "modelfetch add ollama://qwen2.5:0.5b --manifest my-models.yaml --dry-run",
    ),
    "report": (
        "modelfetch report --html models.html",
        "modelfetch report my-models.yaml --html models.html",
    ),
    "adopt": (
        "modelfetch adopt ~/ComfyUI",
        "modelfetch adopt ~/.cache/huggingface ~/.ollama --in-place",
    ),
    "pin": (
        "modelfetch pin my-models.yaml",
        "modelfetch pin my-models.yaml --check",
    ),
    "fetch": (
        "modelfetch fetch hf://madebyollin/sdxl-vae-fp16-fix/sdxl.vae.safetensors",
        "modelfetch fetch https://models.example.com/vae.safetensors -o vae.safetensors",
    ),
    "fit": (
        "modelfetch fit --tier 16g",
        "modelfetch fit my-models.yaml --plot vram.svg",
        "modelfetch fit ollama://qwen2.5:0.5b --context 8192 --usable 7.5GiB",
    ),
    "tiers": (
        "modelfetch tiers",
        "modelfetch tiers --json",
    ),
    "env": (
        "modelfetch env --tier 16g",
        "modelfetch env my-models.yaml --update .env",
        "modelfetch env --tier auto --update .env",
    ),
    "validate": ("modelfetch validate my-models.yaml",),
    "schema": ("modelfetch schema > manifest.schema.json",),
    "completion": (
        'eval "$(modelfetch completion bash)"    # in ~/.bashrc',
        'eval "$(modelfetch completion zsh)"     # in ~/.zshrc',
        "modelfetch completion fish > ~/.config/fish/completions/modelfetch.fish",
    ),
}


def epilog_of(name: str) -> str:
    """Return the end of a command's help, or of the program's; click leaves the lines after its mark unwrapped."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in _EXAMPLES[name])])
