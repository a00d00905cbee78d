"""An existing ComfyUI is filled and looked after: its own loader finds and reads every model after each command."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.damage import flip
from tests.e2e import peers
from tests.e2e.cache import must_run

if TYPE_CHECKING:
    from tests.e2e.program import Modelfetch

OWN = "loras/own.safetensors"
FROM_THE_TIER = {
    "checkpoints/sd_tiny.safetensors",
    "vae/sd_tiny_vae.safetensors",
    "loras/styles/ink.safetensors",
    "upscale_models/4x-tiny.safetensors",
    "embeddings/tiny-style.safetensors",
}


@pytest.fixture(params=["files", pytest.param("torch", marks=pytest.mark.heavy)])
def python(request: pytest.FixtureRequest) -> Path:
    """The Python that runs ComfyUI's loader; only that of Open WebUI has torch."""
    return peers.open_webui_python() if request.param == "torch" else Path(sys.executable)


def test_comfyui_loads_every_model_after_each_command(
    modelfetch: Modelfetch, filled: Path, python: Path, workplace: Path
) -> None:
    installed = workplace / "ComfyUI"
    shutil.copytree(peers.comfyui(), installed)
    own = installed / "models" / OWN
    own.parent.mkdir(parents=True)
    own.write_bytes((filled / "comfyui/models/checkpoints/sd_tiny.safetensors").read_bytes())
    before = own.stat()

    def loaded() -> dict[str, list[str]]:
        script = Path(__file__).with_name("consumers") / "load_comfyui_models.py"
        found: dict[str, list[str]] = json.loads(must_run(python, script, installed))
        assert all(found.values())
        return found

    tensors = loaded()[OWN]
    modelfetch.report("sync", "--tier", "demo", "--for", "comfyui", "--consumer-dir", f"comfyui={installed}")
    every = loaded()
    assert every.keys() == FROM_THE_TIER | {OWN}
    assert every["checkpoints/sd_tiny.safetensors"] == every[OWN] == tensors
    tier = ("--tier", "demo", "--for", "comfyui")
    commands = (("verify",), ("prune", *tier), ("adopt", str(installed)), ("sync", *tier), ("status", *tier))
    for words in commands:
        assert modelfetch.report(*words)["ok"], words
        assert loaded() == every, words

    flip(installed / "models/vae/sd_tiny_vae.safetensors", offset=200_000)
    assert modelfetch.run("verify").returncode == 1
    assert modelfetch.report("verify", "--repair", *tier)["ok"]
    assert loaded() == every

    after = own.stat()
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)
    modelfetch.report("adopt", "--dedupe", "--no-dry-run", str(installed))
    assert own.samefile(installed / "models/checkpoints/sd_tiny.safetensors")
    assert loaded() == every

    assert modelfetch.report("remove", "sd-tiny", "tiny-style")["ok"]
    left = loaded()
    assert left == {name: every[name] for name in left}
    assert every.keys() - left.keys() == {"checkpoints/sd_tiny.safetensors", "embeddings/tiny-style.safetensors"}
    assert not (modelfetch.root / "comfyui").exists()
