"""Entries of a manifest for the demo's models, published on the hub of a test."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from modelfetch.demo import models as made

if TYPE_CHECKING:
    from tests.pipeline.conftest import Bench


WEIGHTS = made.vae()
OTHER = made.lora()
REPO = "acme/art"


def read(body: Any) -> bytes:
    return body if isinstance(body, bytes) else bytes(body.read(0, body.size))


def sha256(data: Any) -> str:
    return "sha256:" + hashlib.sha256(read(data)).hexdigest()


def commit(bench: Bench, repo: str = REPO, ref: str = "main") -> str:
    return bench.world.repos[repo].refs[ref]


def vae(bench: Bench, **keys: Any) -> dict[str, Any]:
    if REPO not in bench.world.repos:
        bench.world.hf_repo(REPO, {"art.safetensors": WEIGHTS, "README.md": b"# art"})
    entry = {
        "name": "vae",
        "kind": "vae",
        "source": f"hf://{REPO}/art.safetensors",
        "for": ["stable-diffusion", "comfyui"],
    }
    return {**entry, **keys}


def ollama(bench: Bench, **keys: Any) -> dict[str, Any]:
    if not bench.world.ollama:
        bench.world.ollama_model("tiny:1b", made.ollama_layers(), config=made.ollama_config())
    return {"name": "tiny", "source": "ollama://tiny:1b", "for": ["ollama"], **keys}


def whisper(bench: Bench, **keys: Any) -> dict[str, Any]:
    repo = "acme/whisper"
    if repo not in bench.world.repos:
        bench.world.hf_repo(repo, {**made.faster_whisper(), "README.md": b"# whisper", "sub/dir/extra.json": b"{}"})
    return {"name": "w", "kind": "snapshot", "source": f"hf://{repo}", "for": ["whisper"], **keys}
