"""Every variable of the stack, once: ``modelfetch env`` prints this table, and the compose files read its names.

A default is what a clone without any ``.env`` gets, which is the tier 8g: the compose files say ``${NAME:-default}``
with the same value, and a test compares both. What a tier changes is `modelfetch.tiers.dotenv.values`' to say.
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
DOWNLOADS = "Downloads"
NETWORK = "Ports and names"
FOLDERS = "Folders"
OTHER_MEMORY = "RAM of the other containers"
IMAGES = "Images"

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
    DOWNLOADS: "For the init services. Empty means none, or the usual place.",
    NETWORK: (
        "Ports of this machine. Ollama and most of the web pages have no login: think before you set another\n"
        "BIND_ADDRESS than this machine's own."
    ),
    FOLDERS: "Relative to the folder of compose.yaml with ./ or ../ before it, or absolute. No colon in a name.",
    OTHER_MEMORY: "",
    IMAGES: "Which image of a service runs: the plain name, or the one of the GPU_VENDOR where that needs another.",
}
"""The groups in the order of the file, each with the words that stand under its title."""


def _plain(group: str, *rows: tuple[str, str, str]) -> tuple[Variable, ...]:
    """Variables of one group by name, default and comment."""
    return tuple(Variable(name=name, default=default, comment=words, group=group) for name, default, words in rows)


def _unset(group: str, *rows: tuple[str, str]) -> tuple[Variable, ...]:
    """Variables that stay empty unless somebody needs them, by name and comment."""
    return tuple(Variable(name=name, default="", comment=words, group=group, unset=True) for name, words in rows)


VARIABLES: tuple[Variable, ...] = (
    Variable(
        name="COMPOSE_PROFILES",
        default="chat,sd,whisper",
        comment="The services that fit the card together. `gpu` starts all of them, whether they fit or not.",
        group=GPU,
    ),
    Variable(name="GPU_ENABLE", default="true", comment="false: no service asks for a GPU.", group=GPU),
    Variable(
        name="GPU_VENDOR",
        default="nvidia",
        comment="nvidia, amd, intel or cpu: the devices and images of the services. cpu is as GPU_ENABLE=false.",
        group=GPU,
    ),
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
        comment="The one that the frontends offer first. Here and below with its tag, as `ollama list` shows it.",
        group=MODELS,
    ),
    Variable(
        name="OLLAMA_EMBEDDING_MODEL",
        default="nomic-embed-text:latest",
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
        comment="--always-offload-from-vram keeps on the GPU only the part of a model that is at work.",
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
    Variable(
        name="OLLAMA_EMBEDDING_DIMENSIONS",
        default="768",
        comment="Numbers in one vector of OLLAMA_EMBEDDING_MODEL; PrivateGPT has to know.",
        group=CLIENTS,
    ),
    *_unset(
        DOWNLOADS,
        ("HF_TOKEN", "Hugging Face; for gated models. Or a file: compose/secrets.yml."),
        ("CIVITAI_API_TOKEN", "CivitAI. Or a file: compose/secrets.yml."),
        ("HF_ENDPOINT", "Mirrors, in place of the hubs themselves."),
        ("MODELFETCH_OLLAMA_REGISTRY", ""),
        ("MODELFETCH_CIVITAI_ENDPOINT", ""),
        ("MODELFETCH_MIRRORS", "PREFIX=PREFIX, a comma between two."),
        ("MODELFETCH_ALLOW_HTTP", "Hosts that may be asked without encryption."),
        ("MODELFETCH_FROM", "oci://…: take everything from a registry of your own."),
        ("MODELFETCH_LIMIT_RATE", "For example 50MB, per second."),
        ("MODELFETCH_RETRIES", "Attempts without progress before a source is given up (5)."),
        ("HF_HUB_OFFLINE", "1: ask nobody; what is not there yet is an error."),
        ("HTTPS_PROXY", "Proxies, for the init services alone."),
        ("HTTP_PROXY", ""),
        ("ALL_PROXY", ""),
        ("NO_PROXY", ""),
    ),
    *_plain(
        NETWORK,
        ("BIND_ADDRESS", "127.0.0.1", ""),
        ("OPEN_WEBUI_PORT", "3000", ""),
        ("ANYTHINGLLM_PORT", "3001", ""),
        ("LIBRECHAT_PORT", "3080", ""),
        ("PRIVATE_GPT_PORT", "8001", ""),
        ("OLLAMA_PORT", "11434", ""),
        ("STABLE_DIFFUSION_PORT", "7861", ""),
        ("COMFYUI_PORT", "8188", ""),
        ("WHISPERX_PORT", "9000", ""),
        ("IMMICH_PORT", "2283", ""),
        ("TRAEFIK_ENABLE", "false", "true: Traefik publishes every web page and Ollama, as NAME.STACK_DOMAIN."),
        ("TRAEFIK_ENTRYPOINT", "websecure", ""),
        ("STACK_DOMAIN", "localhost", ""),
        ("STACK_NETWORK", "ai-stack", "The Docker network, for a reverse proxy to join."),
        ("STACK_NETWORK_INTERNAL", "false", "true: services have no way out, and publish no ports either."),
    ),
    *_plain(
        FOLDERS,
        ("AI_MODELS_DIR", "./files/ai-models", "The models; may be a symlink to another disk or a share."),
        (
            "AI_DATA_DIR",
            "./files/ai-data",
            "What the services themselves write: settings, outputs, chats, their secrets.",
        ),
        ("MODELFETCH_TIERS_DIR", "./manifests", "The tiers, one YAML file each."),
        ("IMMICH_UPLOAD_DIR", "./files/immich/library", "The photos."),
        ("IMMICH_DB_DIR", "./files/immich/postgres", ""),
        ("IMMICH_MODEL_CACHE_DIR", "./files/immich/model-cache", ""),
    ),
    *_unset(
        FOLDERS,
        ("PUID", "Whose the models are; empty: root's, or whoever a share says."),
        ("PGID", ""),
    ),
    *_plain(
        OTHER_MEMORY,
        ("INIT_MEMORY_LIMIT", "256m", ""),
        ("OPEN_WEBUI_MEMORY_LIMIT", "3g", ""),
        ("LIBRECHAT_MEMORY_LIMIT", "2g", ""),
        ("ANYTHINGLLM_MEMORY_LIMIT", "2g", ""),
        ("PRIVATE_GPT_MEMORY_LIMIT", "2g", ""),
        ("IMMICH_ML_OFFLINE", "0", "1: Immich's machine learning downloads nothing; its models must be in the cache."),
        ("IMMICH_ML_MODEL_TTL", "300", "Seconds until an unused model of Immich leaves the memory."),
    ),
    *_plain(
        IMAGES,
        ("MODELFETCH_IMAGE", "modelfetch:0.1.0", "Built from this repository, on this base."),
        ("MODELFETCH_BASE_IMAGE", "python:3.13-slim-bookworm", ""),
        ("OLLAMA_IMAGE", "ollama/ollama:0.34.2", ""),
        ("OLLAMA_IMAGE_AMD", "ollama/ollama:0.34.2-rocm", ""),
        ("STABLE_DIFFUSION_IMAGE", "ai-stack/stable-diffusion-forge:dfdcbab6", "Built from compose/stable-diffusion."),
        ("STABLE_DIFFUSION_IMAGE_AMD", "ai-stack/stable-diffusion-forge:dfdcbab6-rocm", ""),
        ("COMFYUI_IMAGE", "yanwk/comfyui-boot:cu130-slim-v2-20260814", ""),
        ("COMFYUI_IMAGE_AMD", "yanwk/comfyui-boot:rocm7", ""),
        ("COMFYUI_IMAGE_INTEL", "yanwk/comfyui-boot:xpu", ""),
        ("COMFYUI_IMAGE_CPU", "yanwk/comfyui-boot:cpu", ""),
        ("WHISPERX_IMAGE", "learnedmachine/whisperx-asr-service:0.4.1", "RTX 50xx: the tag blackwell."),
        ("DIFFRHYTHM_IMAGE", "ai-stack/diffrhythm:28ad63c0", "Built from compose/diffrhythm."),
        ("OPEN_WEBUI_IMAGE", "ghcr.io/open-webui/open-webui:v0.11.3", ""),
        ("LIBRECHAT_IMAGE", "ghcr.io/danny-avila/librechat:v0.8.7", ""),
        ("LIBRECHAT_MONGODB_IMAGE", "mongo:8.0.20", ""),
        ("LIBRECHAT_MEILISEARCH_IMAGE", "getmeili/meilisearch:v1.35.1", ""),
        ("ANYTHINGLLM_IMAGE", "mintplexlabs/anythingllm:1.16.1", ""),
        ("PRIVATE_GPT_IMAGE", "zylonai/private-gpt:1.0.1", ""),
        ("IMMICH_SERVER_IMAGE", "ghcr.io/immich-app/immich-server:v3.1.0", ""),
        ("IMMICH_ML_IMAGE", "ghcr.io/immich-app/immich-machine-learning:v3.1.0", ""),
        ("IMMICH_ML_IMAGE_NVIDIA", "ghcr.io/immich-app/immich-machine-learning:v3.1.0-cuda", ""),
        ("IMMICH_ML_IMAGE_AMD", "ghcr.io/immich-app/immich-machine-learning:v3.1.0-rocm", ""),
        ("IMMICH_ML_IMAGE_INTEL", "ghcr.io/immich-app/immich-machine-learning:v3.1.0-openvino", ""),
        ("IMMICH_REDIS_IMAGE", "valkey/valkey:8.1.3-bookworm", ""),
        (
            "IMMICH_DATABASE_IMAGE",
            "ghcr.io/immich-app/postgres:14-vectorchord0.4.3-pgvectors0.2.0",
            "",
        ),
    ),
    *_unset(IMAGES, ("TORCH_ROCM_INDEX_URL", "PyTorch's index of ROCm builds, to build the SD WebUI for AMD.")),
)
"""All variables, each group's in the order of the file; more are appended where a service brings them."""
