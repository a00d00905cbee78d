"""Every variable of the stack, once: ``modelfetch env`` prints this table, and the compose files read its names.

A default is what a clone without any ``.env`` gets, which is the tier 8g: the compose files say ``${NAME:-default}``
with the same value, and a test compares both. What a tier changes is `modelfetch.stack.values`' to say.
"""

from __future__ import annotations

from dataclasses import dataclass

HEADER = "GPU & AI SERVICES CONFIGURATION"
"""The title of the block in ``.env``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One variable of ``.env``.

    Attributes:
        name: Its name.
        default: Its value without a tier, as the compose files have it; empty for none.
        comment: What it is, one or several lines.
        group: The title that it stands under; one of `GROUPS`.
        unset: Printed as a comment, to be filled in by whoever needs it, such as a token.
    """

    name: str
    default: str
    comment: str
    group: str
    unset: bool = False


GPU = "The GPU"
MEMORY = "RAM of the containers"
MODELS = "Models"
BUDGET = "What holds the VRAM budget"
IMMICH = "Immich"
CLIENTS = "Addresses inside the stack"

GROUPS: dict[str, str] = {
    GPU: "",
    MEMORY: (
        "Limits of main memory, which compose sets on the containers. They do NOT cap VRAM: no container limit does.\n"
        "What holds a service to its share of the GPU are the settings below, and which services run at once."
    ),
    MODELS: (
        "Empty means the tier's own. A value replaces the tier's models of that service; several are separated by\n"
        "commas. A value that the tier pins keeps its digest."
    ),
    BUDGET: (
        "Ollama looks at the free VRAM when it loads a model, and puts on the CPU what does not fit, without a word.\n"
        "So context, parallel requests and the number of loaded models are fixed here, not left to its defaults.\n"
        "Start order, where memory is tight: ollama, then whisper, the image generator last."
    ),
    IMMICH: "",
    CLIENTS: "",
}
"""The groups in the order of the file, each with the words that stand under its title."""

VARIABLES: tuple[Variable, ...] = (
    Variable(
        name="COMPOSE_PROFILES",
        default="chat,sd,whisper",
        comment="The services that fit the card together. `gpu` starts all of them, whether they fit or not.",
        group=GPU,
    ),
    Variable(name="GPU_ENABLE", default="true", comment="false: no service asks for a GPU.", group=GPU),
    Variable(
        name="GPU_VRAM_DEFAULT",
        default="8g",
        comment="The tier whose models are fetched. `modelfetch env --tier NAME --update .env` switches all of this.",
        group=GPU,
    ),
    Variable(
        name="GPU_COUNT",
        default="1",
        comment="How many GPUs each service sees. A tier's budget is that of one card, which they share.",
        group=GPU,
    ),
    Variable(name="OLLAMA_MEMORY_LIMIT", default="1g", comment="", group=MEMORY),
    Variable(name="STABLE_DIFFUSION_MEMORY_LIMIT", default="6g", comment="", group=MEMORY),
    Variable(name="COMFYUI_MEMORY_LIMIT", default="6g", comment="", group=MEMORY),
    Variable(name="WHISPERX_MEMORY_LIMIT", default="4g", comment="", group=MEMORY),
    Variable(name="DIFFRHYTHM_MEMORY_LIMIT", default="8g", comment="", group=MEMORY),
    Variable(
        name="OLLAMA_AUTO_PULL_MODEL",
        default="qwen2.5:0.5b",
        comment="Language models.",
        group=MODELS,
    ),
    Variable(
        name="OLLAMA_CHAT_MODEL",
        default="qwen2.5:0.5b",
        comment="The one that the frontends offer first.",
        group=MODELS,
    ),
    Variable(
        name="OLLAMA_EMBEDDING_MODEL",
        default="nomic-embed-text",
        comment="The embedding model of the frontends; ollama-init fetches it beside OLLAMA_AUTO_PULL_MODEL.",
        group=MODELS,
    ),
    Variable(
        name="STABLE_DIFFUSION_AUTO_DOWNLOAD_MODEL",
        default="",
        comment="Checkpoints of the SD WebUI: hf://NS/REPO@REV/FILE, civitai://ID, or a URL.",
        group=MODELS,
    ),
    Variable(name="COMFYUI_AUTO_DOWNLOAD_MODEL", default="", comment="The same for ComfyUI.", group=MODELS),
    Variable(
        name="OLLAMA_CONTEXT_LENGTH",
        default="4096",
        comment="Tokens of one conversation. A current Ollama takes up to 262144 where it sees a large card.",
        group=BUDGET,
    ),
    Variable(
        name="OLLAMA_NUM_PARALLEL",
        default="1",
        comment="Requests answered at once, each with a context of its own.",
        group=BUDGET,
    ),
    Variable(name="OLLAMA_FLASH_ATTENTION", default="1", comment="1: on; smaller buffers.", group=BUDGET),
    Variable(
        name="OLLAMA_KV_CACHE_TYPE",
        default="f16",
        comment="f16, q8_0 (half the cache) or q4_0 (a quarter); the last two need flash attention.",
        group=BUDGET,
    ),
    Variable(
        name="OLLAMA_MAX_LOADED_MODELS",
        default="2",
        comment="The chat model and the embedding model; another one has to wait until one of them is unloaded.",
        group=BUDGET,
    ),
    Variable(
        name="OLLAMA_GPU_OVERHEAD",
        default="53477376",
        comment=(
            "Bytes of each GPU that Ollama leaves alone: what the tier gives to nobody. Ollama subtracts it from what\n"
            "is free when it loads, so the shares of services that are loaded already must not be counted again."
        ),
        group=BUDGET,
    ),
    Variable(
        name="STABLE_DIFFUSION_ARGS",
        default="",
        comment="--medvram keeps one part of a model on the GPU at a time, --lowvram less.",
        group=BUDGET,
    ),
    Variable(
        name="COMFYUI_ARGS",
        default="--reserve-vram 3.75",
        comment=(
            "ComfyUI fills whatever is free: --reserve-vram GiB leaves the other services their share. Where they are\n"
            "loaded first, a smaller number is faster."
        ),
        group=BUDGET,
    ),
    Variable(name="WHISPERX_MODEL", default="small", comment="The size of the speech model.", group=BUDGET),
    Variable(
        name="WHISPERX_COMPUTE_TYPE",
        default="int8",
        comment="float16, or int8 (half the weights); int8 also where WHISPERX_DEVICE is cpu.",
        group=BUDGET,
    ),
    Variable(name="WHISPERX_BATCH_SIZE", default="1", comment="Chunks of speech worked on at once.", group=BUDGET),
    Variable(name="WHISPERX_DEVICE", default="cuda", comment="cuda or cpu.", group=BUDGET),
    Variable(
        name="DIFFRHYTHM_ARGS",
        default="--chunked",
        comment="--chunked decodes in pieces: 8 GB of VRAM instead of more than 14.5.",
        group=BUDGET,
    ),
    Variable(
        name="IMMICH_GPU_ENABLE",
        default="false",
        comment="true: Immich's machine learning runs on the GPU, and takes 3 GiB of it.",
        group=IMMICH,
    ),
    Variable(name="IMMICH_ML_MEMORY_LIMIT", default="2g", comment="RAM of that container, not VRAM.", group=IMMICH),
    Variable(
        name="OLLAMA_HOST",
        default="http://ollama:11434",
        comment="Where clients find Ollama; never given to the Ollama container itself.",
        group=CLIENTS,
    ),
)
"""All variables, each group's in the order of the file; more are appended where a service brings them."""
