"""The hub source with the oldest supported huggingface_hub, a 1.x and the newest: each sends with another library."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e import cache, peers
from tests.e2e.servers import plain_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

PROJECT = tomllib.loads((peers.REPOSITORY / "pyproject.toml").read_text())["project"]
TOOLS = ("pytest>=8.3", "pytest-timeout>=2.3", "hypothesis>=6.130")
VERSIONS = {"0.34": ("==0.34.*", "requests"), "1": (">=1,<2", "httpx"), "2": (">=2,<3", "httpx2")}
"""Versions, and the library that huggingface_hub sends requests with."""


def environment_of(version: str) -> Path:
    """The Python of an environment with one version of huggingface_hub and this program's other dependencies."""
    others = [need for need in PROJECT["dependencies"] if not need.startswith("huggingface_hub")]
    requirements = (*others, *TOOLS, f"huggingface_hub{VERSIONS[version][0]}")

    def build(folder: Path) -> None:
        peers.make_environment(Path(sys.executable), folder, *requirements)

    # The interpreter of a virtual environment may be used from another folder: it finds its packages beside itself.
    return cache.build_once(f"huggingface-hub-{version}", build) / "bin" / "python"


def run(python: Path, home: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a Python of an environment on this tree."""
    return subprocess.run(
        [str(python), *map(str, words)],
        env=plain_environment(home, PYTHONPATH=str(peers.REPOSITORY), PYTHONDONTWRITEBYTECODE="1"),
        cwd=peers.REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_the_hub_source_keeps_its_contract_with_each_version(version: str, tmp_path: Path) -> None:
    python = environment_of(version)
    library = VERSIONS[version][1]
    found = run(
        python,
        tmp_path,
        "-c",
        "import huggingface_hub.utils as utils; print(type(utils.get_session()).__module__, utils._http.__name__)",
    )
    assert found.stdout.startswith(library), found.stdout + found.stderr
    done = run(python, tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/sources/huggingface")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("neighbour", ["transformers>=4.45", "tokenizers>=0.20"])
def test_the_package_installs_next_to_programs_with_another_huggingface_hub(neighbour: str, tmp_path: Path) -> None:
    requirements: Sequence[str] = (*PROJECT["dependencies"], neighbour)
    cache.must_run(sys.executable, "-m", "venv", tmp_path / "environment")
    python = tmp_path / "environment" / "bin" / "python"
    cache.must_run(python, "-m", "pip", "install", "--quiet", "--dry-run", *requirements)
