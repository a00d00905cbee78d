"""The script that starts ComfyUI keeps its code and its manager's settings up to date."""

from __future__ import annotations

import configparser
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.compose.compose_files import REPOSITORY
from tests.compose.expected import binds, every

if TYPE_CHECKING:
    from pathlib import Path


def start_comfyui(tmp_path: Path, **environment: str) -> str:
    """Run comfyui-start.sh over the folders below ``tmp_path``, with an entrypoint that prints a line."""
    (tmp_path / "entrypoint.sh").write_text("echo started\n")
    done = subprocess.run(
        ["bash", str(REPOSITORY / "compose" / "comfyui-start.sh")],
        env={
            "PATH": "/usr/bin:/bin",
            "COMFYUI_BUNDLE": str(tmp_path / "bundle"),
            "COMFYUI_HOME": str(tmp_path / "home"),
            "COMFYUI_ENTRYPOINT": str(tmp_path / "entrypoint.sh"),
            **environment,
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith("started\n")
    return done.stdout


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    """A bundle of version 2, and a folder with the code of version 1 and files of the user."""
    for folder, version in (("bundle", "2"), ("home", "1")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "main.py").touch()
        (tmp_path / folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    for name in ("models", "custom_nodes", "input", "output", "user"):
        (tmp_path / "home" / name).mkdir()
        (tmp_path / "home" / name / "mine").touch()
    (tmp_path / "home" / "comfy").mkdir()
    return tmp_path


def test_comfyuis_code_is_replaced_when_the_image_has_another_version(comfyui: Path) -> None:
    # YanWenKun/ComfyUI-Docker, cpu/runner-scripts/entrypoint.sh: ComfyUI is copied only where main.py is missing
    assert "replacing it" in start_comfyui(comfyui)
    left = sorted(path.name for path in (comfyui / "home").iterdir())
    assert left == ["custom_nodes", "input", "models", "output", "user"]
    assert all((comfyui / "home" / name / "mine").exists() for name in left)


def test_comfyuis_code_stays_while_the_image_has_the_same_version(comfyui: Path) -> None:
    (comfyui / "home" / "comfyui_version.py").write_bytes((comfyui / "bundle" / "comfyui_version.py").read_bytes())
    (comfyui / "home" / "extra_model_paths.yaml").touch()
    assert start_comfyui(comfyui) == "started\n"
    assert (comfyui / "home" / "extra_model_paths.yaml").exists()


@pytest.mark.parametrize(
    "before", [None, "[default]\nuse_uv = False\nsecurity_level = weak\n", "[other]\nx = 1\n", "[default]\r\nx = 1\n"]
)
def test_comfyui_manager_has_the_configured_security_level(comfyui: Path, before: str | None) -> None:
    # the same repository, */builder-scripts/preload-cache.sh: security_level = weak in every image with the Manager
    config = comfyui / "home" / "user" / "__manager" / "config.ini"
    if before is not None:
        config.parent.mkdir(parents=True)
        config.write_bytes(before.encode())
    for security, network in (("normal", "offline"), ("strong", "public")):
        start_comfyui(comfyui, COMFYUI_MANAGER_SECURITY=security, COMFYUI_MANAGER_NETWORK=network)
        parser = configparser.ConfigParser()
        parser.read(config)
        assert (parser["default"]["security_level"], parser["default"]["network_mode"]) == (security, network)
    environment = every()["comfyui"]["environment"]
    assert environment["COMFYUI_MANAGER_SECURITY"] == "normal"
    assert environment["COMFYUI_MANAGER_NETWORK"] == "offline"


def test_comfyuis_packages_and_code_are_in_a_folder_that_outlives_the_container() -> None:
    # the same repository: `VOLUME /root` in cpu, rocm7, xpu and cu126-slim, `PIP_USER=true` in the entrypoints
    assert ("./files/ai-data/comfyui/root", "/root") in binds(every()["comfyui"])
    assert every()["comfyui"]["command"] == ["bash", "/usr/local/bin/comfyui-start"]
