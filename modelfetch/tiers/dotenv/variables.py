"""The table of the stack's variables, which ``modelfetch env`` prints and the compose files use.

The defaults apply to a clone without a ``.env`` and are those of the tier 8g. The compose files contain the same
defaults (``${NAME:-default}``), and a test compares them. The values that a tier sets are in
`modelfetch.tiers.dotenv.values`, those that a graphics card sets in `modelfetch.tiers.dotenv.cards`.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelfetch.core.root import DEFAULT_ROOT

HEADER = "GPU & AI SERVICES CONFIGURATION"
"""The title of the block in ``.env``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One variable of ``.env``.

    Attributes:
        name: Its name.
        default: Its value without a tier, the same as in the compose files; empty for none.
        comment: Its explanation, in one or several lines; empty for none.
        group: The title of its section; one of `GROUPS`.
        commented: Whether its line is a comment: a token, or a default that later versions may change, such as an
            image. An existing ``.env`` then gets the new default with the next release.
        former: Defaults of earlier versions, which an update replaces.
    """

    name: str
    default: str
    comment: str
    group: str
    commented: bool = False
    former: tuple[str, ...] = ()


GPU = "The GPU"
MEMORY = "RAM of the containers"
MODELS = "Models"
BUDGET = "Settings that keep the VRAM budget"
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
        "RAM limits of the containers. They do NOT cap VRAM: no container limit does. The settings below, and the\n"
        "choice of services that run at the same time, keep the services within the card's memory."
    ),
    MODELS: (
        "Empty means the tier's own models. A value replaces the tier's models of that service; separate several\n"
        "with commas. Models that the tier pins keep their digests."
    ),
    BUDGET: (
        "If a model does not fit into the free VRAM, Ollama silently runs a part of it on the CPU. So context,\n"
        "parallel requests and the number of loaded models are set here, not left to its defaults. If memory is\n"
        "tight, start ollama first, then whisper, and the image generator last."
    ),
    IMMICH: "",
    CLIENTS: "",
    DOWNLOADS: "For the init services and Immich's machine learning. Empty means none.",
    NETWORK: (
        "Ports on this machine. Ollama and most web pages have no login: everyone who reaches BIND_ADDRESS can use\n"
        "them."
    ),
    FOLDERS: "Absolute paths, or paths that begin with ./ or ../, relative to the folder of compose.yaml. No colons.",
    OTHER_MEMORY: "",
    IMAGES: (
        "The image of each service, and those for a GPU_VENDOR that needs another one. These lines are comments, so\n"
        "that a new version of this repository can change the images. Remove the # to keep an image."
    ),
}
"""The groups in the order of the file, each with the text under its title."""


def _plain(group: str, *rows: tuple[str, str, str]) -> tuple[Variable, ...]:
    """Variables of one group by name, default and comment."""
    return tuple(Variable(name=name, default=default, comment=words, group=group) for name, default, words in rows)


def _commented(group: str, *rows: tuple[str, str, str]) -> tuple[Variable, ...]:
    """Commented variables of one group by name, default and comment."""
    return tuple(
        Variable(name=name, default=default, comment=words, group=group, commented=True)
        for name, default, words in rows
    )


VARIABLES: tuple[Variable, ...] = (
    Variable(
        name="COMPOSE_PROFILES",
        default="chat,sd,whisper",
        comment="The services that fit the card together. `gpu` starts all of them, even if they don't fit.",
        group=GPU,
    ),
    Variable(name="GPU_ENABLE", default="true", comment="false: no service uses a GPU.", group=GPU),
    Variable(
        name="GPU_VENDOR",
        default="nvidia",
        comment="nvidia, amd, intel or cpu: the devices and images of the services. cpu means GPU_ENABLE=false.",
        group=GPU,
    ),
    Variable(
        name="GPU_VRAM_DEFAULT",
        default="8g",
        comment="The tier whose models are used. `modelfetch env --tier NAME --update .env` switches to another.",
        group=GPU,
    ),
    Variable(
        name="GPU_COUNT",
        default="1",
        comment="How many GPUs each service sees. A tier's budgets are for one card, which all services share.",
        group=GPU,
    ),
    Variable(
        name="OLLAMA_IGPU_ENABLE",
        default="0",
        comment="1: Ollama also uses the GPU of an AMD processor (APU). GPUs of Intel processors are always used.",
        group=GPU,
    ),
    Variable(
        name="TORCH_BUILD",
        default="cuda",
        comment="PyTorch in the images that are built here (Forge, DiffRhythm): cuda, or cu128 for RTX 50xx.",
        group=GPU,
        commented=True,
    ),
    Variable(
        name="OLLAMA_MEMORY_LIMIT",
        default="3g",
        comment=(
            "The first plan had 1g. With that, the kernel killed Ollama's llama-server at the eighth to thirteenth\n"
            "long prompt: it keeps old prompts in RAM (LLAMA_ARG_CACHE_RAM below), and two models may be loaded."
        ),
        group=MEMORY,
    ),
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
        comment="The model that the frontends offer first. Write names with their tag, as `ollama list` shows them.",
        group=MODELS,
    ),
    Variable(
        name="OLLAMA_EMBEDDING_MODEL",
        default="nomic-embed-text:latest",
        comment=(
            "The embedding model of the frontends. ollama-init downloads it together with OLLAMA_AUTO_PULL_MODEL.\n"
            "PrivateGPT exits at start unless its family is bert, nomic-bert or sentence-transformers."
        ),
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
        comment="Context length in tokens. Without this, Ollama takes up to 262144 on a large card.",
        group=BUDGET,
    ),
    Variable(
        name="OLLAMA_NUM_PARALLEL",
        default="1",
        comment="Requests answered at the same time, each with its own context.",
        group=BUDGET,
    ),
    Variable(name="OLLAMA_FLASH_ATTENTION", default="1", comment="1: on, which makes buffers smaller.", group=BUDGET),
    Variable(
        name="OLLAMA_KV_CACHE_TYPE",
        default="f16",
        comment="f16, q8_0 (half the cache) or q4_0 (a quarter); the last two need flash attention.",
        group=BUDGET,
    ),
    Variable(
        name="OLLAMA_MAX_LOADED_MODELS",
        default="2",
        comment="The chat model and the embedding model; a third model waits until one of them is unloaded.",
        group=BUDGET,
    ),
    Variable(
        name="LLAMA_ARG_CACHE_RAM",
        default="224",
        comment=(
            "MiB of RAM in which each loaded model keeps the prompts of earlier conversations; 0: none. The default\n"
            "of llama-server, 8192, is more than the container has."
        ),
        group=BUDGET,
    ),
    Variable(
        name="LLAMA_ARG_FIT_TARGET",
        default="256",
        comment=(
            "MiB of each GPU that Ollama's llama-server leaves free when it loads a model. OLLAMA_GPU_OVERHEAD has\n"
            "had no effect on it since Ollama 0.30."
        ),
        group=BUDGET,
    ),
    Variable(
        name="STABLE_DIFFUSION_ARGS",
        default="",
        comment="--always-offload-from-vram keeps only the part of a model on the GPU that is in use.",
        group=BUDGET,
    ),
    Variable(
        name="COMFYUI_ARGS",
        default="--reserve-vram 3.75",
        comment=(
            "ComfyUI uses all free VRAM: --reserve-vram GiB leaves some for the other services. If they are loaded\n"
            "first, a smaller number is faster."
        ),
        group=BUDGET,
    ),
    Variable(name="WHISPERX_MODEL", default="small", comment="The size of the speech model.", group=BUDGET),
    Variable(
        name="WHISPERX_COMPUTE_TYPE",
        default="int8",
        comment="float16, or int8 (half the memory for weights). Use int8 if WHISPERX_DEVICE is cpu.",
        group=BUDGET,
    ),
    Variable(
        name="WHISPERX_BATCH_SIZE", default="1", comment="Chunks of speech processed at the same time.", group=BUDGET
    ),
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
        comment="true: Immich's machine learning runs on the GPU and takes 3 GiB of it.",
        group=IMMICH,
    ),
    Variable(name="IMMICH_ML_MEMORY_LIMIT", default="2g", comment="RAM of that container, not VRAM.", group=IMMICH),
    Variable(
        name="OLLAMA_URL",
        default="http://ollama:11434",
        comment=(
            "Where the frontends find Ollama. It was OLLAMA_HOST, but many shells export that as the address to\n"
            "listen on, and Compose would use it instead of the value here."
        ),
        group=CLIENTS,
    ),
    Variable(
        name="OLLAMA_EMBEDDING_DIMENSIONS",
        default="768",
        comment="Length of the vectors of OLLAMA_EMBEDDING_MODEL, for PrivateGPT.",
        group=CLIENTS,
    ),
    *_commented(
        DOWNLOADS,
        ("HF_TOKEN", "", "For gated models of Hugging Face. compose/secrets.yml keeps it in a file instead."),
        ("CIVITAI_API_TOKEN", "", "For CivitAI. compose/secrets.yml keeps it in a file instead."),
        ("HF_ENDPOINT", "https://huggingface.co", "Mirrors to use instead of the hubs."),
        ("MODELFETCH_OLLAMA_REGISTRY", "", ""),
        ("MODELFETCH_CIVITAI_ENDPOINT", "", ""),
        ("MODELFETCH_MIRRORS", "", "PREFIX=PREFIX, separated by commas."),
        ("MODELFETCH_ALLOW_HTTP", "", "Hosts that may be used without encryption."),
        ("MODELFETCH_FROM", "", "oci://…: download everything from your own registry."),
        ("MODELFETCH_LIMIT_RATE", "", "For example 50MB, per second."),
        ("MODELFETCH_RETRIES", "", "Attempts without progress before a source is given up (5)."),
        ("HF_HUB_OFFLINE", "", "1: no network; a missing model is an error."),
        ("HTTPS_PROXY", "", "Proxies; also for building the images. Certificates of a proxy: compose/ca.yml."),
        ("HTTP_PROXY", "", ""),
        ("ALL_PROXY", "", ""),
        ("NO_PROXY", "", ""),
        (
            "SERVICES_HTTPS_PROXY",
            "http://127.0.0.1:9",
            (
                "The proxy of Forge and WhisperX. There is none at this address, so they can't download anything by\n"
                "themselves. An empty value allows it."
            ),
        ),
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
        ("TRAEFIK_ENABLE", "false", "true: Traefik publishes all web pages and Ollama, as NAME.STACK_DOMAIN."),
    ),
    *_commented(
        NETWORK,
        ("OLLAMA_TRAEFIK_ENABLE", "false", "The same for one service."),
        ("OPEN_WEBUI_TRAEFIK_ENABLE", "false", ""),
        ("ANYTHINGLLM_TRAEFIK_ENABLE", "false", ""),
        ("LIBRECHAT_TRAEFIK_ENABLE", "false", ""),
        ("PRIVATE_GPT_TRAEFIK_ENABLE", "false", ""),
        ("STABLE_DIFFUSION_TRAEFIK_ENABLE", "false", ""),
        ("COMFYUI_TRAEFIK_ENABLE", "false", ""),
        ("WHISPERX_TRAEFIK_ENABLE", "false", ""),
        ("IMMICH_TRAEFIK_ENABLE", "false", ""),
        (
            "TRAEFIK_LOGIN_USERS",
            "",
            (
                "Login for services without their own (all but Open WebUI, LibreChat and Immich): NAME:HASH\n"
                "as `htpasswd -nB NAME` prints it, in single quotes. Without it Traefik refuses everyone."
            ),
        ),
        ("TRAEFIK_LOGIN_MIDDLEWARE", "ai-stack-login@docker", "Another login, for example authelia@file."),
    ),
    *_plain(
        NETWORK,
        ("TRAEFIK_ENTRYPOINT", "websecure", ""),
        ("STACK_DOMAIN", "localhost", ""),
        ("STACK_NETWORK", "ai-stack", "The Docker network. A reverse proxy can join it."),
        ("STACK_NETWORK_INTERNAL", "false", "true: services can't reach the internet, and no ports are published."),
        (
            "COMFYUI_MANAGER_SECURITY",
            "normal",
            (
                "What ComfyUI-Manager may install: strong, normal, normal- or weak. The image sets weak, with which\n"
                "everyone who reaches ComfyUI's page can install any code."
            ),
        ),
        ("COMFYUI_MANAGER_NETWORK", "offline", "public: ComfyUI-Manager downloads its lists of nodes and models."),
    ),
    *_plain(
        FOLDERS,
        ("AI_MODELS_DIR", DEFAULT_ROOT, "The models; may be a symlink to another disk or a share."),
        (
            "AI_DATA_DIR",
            "./files/ai-data",
            "What the services write: settings, outputs, chats, their secrets.",
        ),
        ("MODELFETCH_TIERS_DIR", "./manifests", "The tiers, one YAML file each."),
        ("IMMICH_UPLOAD_DIR", "./files/immich/library", "The photos."),
        ("IMMICH_DB_DIR", "./files/immich/postgres", ""),
    ),
    *_commented(
        FOLDERS,
        ("PUID", "", "Owner of the models. Empty: root, or the owner that a share assigns."),
        ("PGID", "", ""),
        (
            "MODELFETCH_REQUIRE_MARKER",
            "",
            "1: download nothing if AI_MODELS_DIR has no .modelfetch folder, as when a share is not mounted.",
        ),
        ("MODELFETCH_MIN_FREE", "", "Disk space that downloads leave free, for example 20GB."),
    ),
    *_plain(
        OTHER_MEMORY,
        ("INIT_MEMORY_LIMIT", "256m", ""),
        ("OPEN_WEBUI_MEMORY_LIMIT", "3g", ""),
        ("LIBRECHAT_MEMORY_LIMIT", "2g", ""),
        ("ANYTHINGLLM_MEMORY_LIMIT", "2g", ""),
        ("PRIVATE_GPT_MEMORY_LIMIT", "2g", ""),
        ("IMMICH_ML_MODEL_TTL", "300", "Seconds after which Immich unloads an unused model."),
        (
            "LOG_DRIVER",
            "local",
            "Docker's log driver. `local` rotates its files; json-file does so only if that is configured.",
        ),
    ),
    Variable(
        name="IMMICH_ML_OFFLINE",
        default="1",
        comment="0: Immich's machine learning may download models, which settings other than its defaults require.",
        group=OTHER_MEMORY,
        former=("0",),
    ),
    *_commented(
        IMAGES,
        ("MODELFETCH_IMAGE", "modelfetch:0.1.0", "Built from this repository on the base below."),
        ("MODELFETCH_BASE_IMAGE", "python:3.13-slim-bookworm", ""),
        ("OLLAMA_IMAGE", "ollama/ollama:0.34.2", ""),
        ("OLLAMA_IMAGE_AMD", "ollama/ollama:0.34.2-rocm", ""),
        (
            "STABLE_DIFFUSION_IMAGE",
            "ai-stack/stable-diffusion-forge:dfdcbab6-1-cuda",
            "Built from compose/stable-diffusion; the tag ends with TORCH_BUILD.",
        ),
        ("STABLE_DIFFUSION_IMAGE_AMD", "ai-stack/stable-diffusion-forge:dfdcbab6-1-rocm", ""),
        ("COMFYUI_IMAGE", "yanwk/comfyui-boot:cu130-slim-v2-20260814", "GTX 9xx, 10xx, Volta: cu126-slim-20260914."),
    ),
    Variable(
        name="COMFYUI_IMAGE_AMD",
        default="yanwk/comfyui-boot:rocm7@sha256:c16f96a94c4760037d2d854acbe93ce594d4314b7bcb665da9f3cae225d7339c",
        comment="",
        group=IMAGES,
        commented=True,
        former=("yanwk/comfyui-boot:rocm7",),
    ),
    Variable(
        name="COMFYUI_IMAGE_INTEL",
        default="yanwk/comfyui-boot:xpu-20260914",
        comment="",
        group=IMAGES,
        commented=True,
        former=("yanwk/comfyui-boot:xpu",),
    ),
    Variable(
        name="COMFYUI_IMAGE_CPU",
        default="yanwk/comfyui-boot:cpu-20260914",
        comment="",
        group=IMAGES,
        commented=True,
        former=("yanwk/comfyui-boot:cpu",),
    ),
    *_commented(
        IMAGES,
        ("WHISPERX_IMAGE", "learnedmachine/whisperx-asr-service:0.4.1", "RTX 50xx: 0.4.1-blackwell."),
        (
            "DIFFRHYTHM_IMAGE",
            "ai-stack/diffrhythm:28ad63c0-cuda",
            "Built from compose/diffrhythm; the tag ends with TORCH_BUILD.",
        ),
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
    *_commented(
        IMAGES, ("TORCH_ROCM_INDEX_URL", "", "PyTorch's index of ROCm builds; needed to build the SD WebUI for AMD.")
    ),
)
"""All variables, those of each group in the order of the file."""

RETIRED = frozenset({"OLLAMA_GPU_OVERHEAD", "IMMICH_MODEL_CACHE_DIR"})
"""Obsolete variables of earlier versions; an update removes their lines."""

RENAMED = {"OLLAMA_HOST": "OLLAMA_URL"}
"""Earlier names of variables; an update keeps their values."""
