"""Load every model that ComfyUI's loader nodes offer, by kind and name, and print the names of its tensors.

Usage: load_comfyui_models.py COMFYUI; with torch, its own `load_torch_file` reads the files.
"""

import importlib.util
import json
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])

import folder_paths  # type: ignore[import-not-found]

KINDS = ("checkpoints", "loras", "vae", "upscale_models", "embeddings")

if importlib.util.find_spec("torch"):
    from comfy.utils import load_torch_file  # type: ignore[import-not-found]

    def load(path: str) -> list[str]:
        return sorted(load_torch_file(path, safe_load=True))
else:
    import safetensors

    def load(path: str) -> list[str]:
        return sorted(name for name, _ in safetensors.deserialize(Path(path).read_bytes()))  # type: ignore[no-untyped-call]


found = {}
for kind in KINDS:
    for name in folder_paths.get_filename_list(kind):
        found[f"{kind}/{name}"] = load(folder_paths.get_full_path(kind, name))
sys.stdout.write(json.dumps(found))
