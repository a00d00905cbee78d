"""Bring the real peers onto this machine, from the package registries, each at one version."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.e2e.cache import build_once, must_run

OLLAMA = "v0.9.6"  # 0.11 and later don't build by `go install`: a C header is missing from the module
ORAS = "v1.3.6"
FASTER_WHISPER = "1.2.1"

REPOSITORY = Path(__file__).resolve().parents[2]


def ollama() -> Path:
    """The real Ollama, server and client in one program. Built in about two minutes."""
    return _go_program("ollama", "github.com/ollama/ollama", OLLAMA)


def oras() -> Path:
    """The real oras, a client of container registries. Built in under a minute."""
    return _go_program("oras", "oras.land/oras/cmd/oras", ORAS)


def whisper_python() -> Path:
    """The Python of an environment that holds the real faster-whisper (about 500 MB)."""
    tag = f"py{sys.version_info.major}.{sys.version_info.minor}"

    def build(folder: Path) -> None:
        make_environment(Path(sys.executable), folder, f"faster-whisper=={FASTER_WHISPER}")

    return build_once(f"faster-whisper-{FASTER_WHISPER}-{tag}", build) / "bin" / "python"


def make_environment(interpreter: Path, folder: Path, *requirements: str) -> Path:
    """An empty environment with these requirements and nothing else; returns its Python."""
    must_run(interpreter, "-m", "venv", folder)
    python = folder / "bin" / "python"
    must_run(python, "-m", "pip", "install", "--quiet", *requirements)
    return python


def build_wheel(folder: Path) -> Path:
    """The wheel of this tree, built by plain pip."""
    must_run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, REPOSITORY)
    (wheel,) = folder.glob("modelfetch-*.whl")
    return wheel


def _go_program(name: str, package: str, version: str) -> Path:
    def build(folder: Path) -> None:
        must_run("go", "install", f"{package}@{version}", environment={"GOBIN": str(folder)})

    return build_once(f"{name}-{version}", build) / name
