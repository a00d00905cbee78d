"""A stand-in for a service: it looks for its files where the real one does, prints what it found, and serves.

Each line is one JSON object. What a service would need and does not find ends the stand-in, as it would the service.
Runs inside the images only.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PORTS = {
    "stable-diffusion": 7860,
    "comfyui": 8188,
    "whisperx": 9000,
    "open-webui": 8080,
    "librechat": 3080,
    "anythingllm": 3001,
    "private-gpt": 8080,
    "immich-server": 2283,
    "immich-machine-learning": 3003,
    "immich-machine-learning-gpu": 3003,
}


def files_below(folder: Path) -> dict[str, str]:
    """Every model file of a folder as the services search it (links followed), by the digest of what can be read."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("put_"):
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def argument(name: str) -> Path:
    """The value of `--name=VALUE`, as launch.py has it."""
    return Path(next(part.partition("=")[2] for part in sys.argv if part.startswith(f"--{name}=")))


def stable_diffusion() -> dict[str, object]:
    """What Forge lists: checkpoints, VAEs, text encoders and embeddings from its arguments, LoRAs below the models."""
    models = argument("models-dir")
    return {
        "checkpoints": files_below(argument("ckpt-dir")),
        "vae": files_below(argument("vae-dir")),
        "loras": files_below(models / "Lora"),
        "upscalers": files_below(models / "ESRGAN"),
        "embeddings": files_below(argument("embeddings-dir")),
        "flags": [part for part in sys.argv if part in ("--no-download-sd-model", "--do-not-download-clip")],
    }


def comfyui() -> dict[str, object]:
    """What ComfyUI lists; then a model is added, as its web page does."""
    models = Path("/root/ComfyUI/models")
    found = {"models": files_below(models)}
    (models / "checkpoints").mkdir(exist_ok=True)
    (models / "checkpoints" / "added-in-the-web-page.safetensors").write_bytes(b"somebody's own")
    return dict(found)


def whisperx() -> dict[str, object]:
    """faster-whisper's way to its model, the aligner's to its checkpoint, and NLTK's to its data."""
    from huggingface_hub import snapshot_download

    cache = Path(os.environ["CACHE_DIR"])
    repos = [entry.name.removeprefix("models--").replace("--", "/") for entry in cache.glob("models--*")]
    patterns = ["config.json", "preprocessor_config.json", "model.bin", "tokenizer.json", "vocabulary.*"]
    snapshots = {
        repo: snapshot_download(repo, cache_dir=cache, local_files_only=True, allow_patterns=patterns) for repo in repos
    }
    return {
        "snapshots": {repo: files_below(Path(folder)) for repo, folder in snapshots.items()},
        "aligners": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in cache.glob("*.pth")},
        "torch": files_below(Path(os.environ["TORCH_HOME"], "hub", "checkpoints")),
        "nltk": files_below(Path(os.environ["NLTK_DATA"], "tokenizers")),
    }


def diffrhythm() -> dict[str, object]:
    """The calls of infer_utils.py and of the libraries that it uses, from its own cache folder, without a revision."""
    from huggingface_hub import hf_hub_download

    wanted = {
        "ASLP-lab/DiffRhythm-1_2": ["cfm_model.pt"],
        "ASLP-lab/DiffRhythm-vae": ["vae_model.pt"],
        "OpenMuQ/MuQ-MuLan-large": ["config.json", "pytorch_model.bin"],
        "OpenMuQ/MuQ-large-msd-iter": ["config.json", "model.safetensors"],
        "xlm-roberta-base": ["config.json"],
    }
    cache = "/app/pretrained"
    return {
        repo: {
            name: hashlib.sha256(
                Path(hf_hub_download(repo, name, cache_dir=cache, local_files_only=True)).read_bytes()
            ).hexdigest()
            for name in names
        }
        for repo, names in wanted.items()
    }


def ask_ollama(variable: str) -> dict[str, object]:
    """The models that a frontend lists, from the address in its own variable."""
    base = os.environ[variable].removesuffix("/v1")
    with urllib.request.urlopen(f"{base}/api/tags", timeout=20) as answer:  # noqa: S310 - the stack's own address
        return {"models": sorted(model["name"] for model in json.load(answer)["models"])}


def librechat() -> dict[str, object]:
    """LibreChat's one endpoint from its own file, and whether its secrets were made."""
    text = Path("/app/librechat.yaml").read_text()
    base = next(line.split()[1] for line in text.splitlines() if "baseURL" in line)
    os.environ["LIBRECHAT_BASE"] = base.rstrip("/")
    secrets = {name: len(os.environ[name]) for name in ("CREDS_KEY", "CREDS_IV", "JWT_SECRET", "JWT_REFRESH_SECRET")}
    key = fingerprint(os.environ["MEILI_MASTER_KEY"])
    return {**ask_ollama("LIBRECHAT_BASE"), "endpoints": os.environ["ENDPOINTS"], "secrets": secrets, "key": key}


def anythingllm() -> dict[str, object]:
    """What was set in its page before, from the file that it keeps such settings in; then a setting is made."""
    settings = Path("/app/server/.env")
    before = settings.read_text()
    settings.write_text("AUTH_TOKEN='set in the page'\n")
    return {**ask_ollama("OLLAMA_BASE_PATH"), "settings": before}


def fingerprint(secret: str) -> str:
    """A value that distinguishes two secrets without showing them."""
    assert len(secret) == 32, "a secret of 16 bytes"
    return hashlib.sha256(secret.encode()).hexdigest()


def immich_ml() -> dict[str, object]:
    """What immich_ml finds in its cache: each model.onnx and the files next to it."""
    return {"models": files_below(Path(os.environ["MACHINE_LEARNING_CACHE_FOLDER"]))}


LOOKS: dict[str, Callable[[], dict[str, object]]] = {
    "stable-diffusion": stable_diffusion,
    "comfyui": comfyui,
    "whisperx": whisperx,
    "diffrhythm": diffrhythm,
    "open-webui": lambda: ask_ollama("OLLAMA_BASE_URL"),
    "anythingllm": anythingllm,
    "private-gpt": lambda: ask_ollama("OPENAI_API_BASE"),
    "librechat": librechat,
    "librechat-meilisearch": lambda: {"key": fingerprint(os.environ["MEILI_MASTER_KEY"])},
    "immich-database": lambda: {"key": fingerprint(os.environ["POSTGRES_PASSWORD"])},
    "immich-machine-learning": immich_ml,
    "immich-machine-learning-gpu": immich_ml,
    "immich-server": lambda: {"key": fingerprint(Path(os.environ["DB_PASSWORD_FILE"]).read_text())},
}


class _Fine(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"host": socket.gethostname()}).encode())

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    """Look, report, serve."""
    role = os.environ["STUB_ROLE"]
    found = LOOKS[role]() if role in LOOKS else {}
    sys.stdout.write(json.dumps({"role": role, "found": found}) + "\n")
    sys.stdout.flush()
    if sys.argv[-1] == "look":
        return
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # as process 1 it would not end by itself
    ThreadingHTTPServer(("0.0.0.0", PORTS.get(role, 1)), _Fine).serve_forever()  # noqa: S104 - inside a container


if __name__ == "__main__":
    main()
