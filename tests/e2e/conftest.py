"""What the end-to-end tests share. A peer that is not available is an error with its reason, never a skip."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e import peers
from tests.e2e.program import Modelfetch

if TYPE_CHECKING:
    from collections.abc import Iterator

SYSTEM_PYTHON = Path("/usr/bin/python3")


@pytest.fixture(scope="session")
def public_folder() -> Iterator[Path]:
    """A folder outside the repository that every user may enter (pytest's own are private)."""
    with tempfile.TemporaryDirectory(prefix="modelfetch-e2e-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture(scope="session")
def script(public_folder: Path) -> Path:
    """The console script, from the wheel, in an environment with nothing but its own dependencies."""
    wheel = peers.build_wheel(public_folder / "wheel")
    # Another user can't enter a Python below root's home, as pyenv has it.
    interpreter = SYSTEM_PYTHON if SYSTEM_PYTHON.exists() else Path(sys.executable)
    python = peers.make_environment(interpreter, public_folder / "environment", str(wheel))
    return python.with_name("modelfetch")


@pytest.fixture
def workplace(public_folder: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty folder for one test."""
    folder = Path(tempfile.mkdtemp(prefix=f"{request.node.originalname}-"[:40], dir=public_folder))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def modelfetch(script: Path, workplace: Path) -> Modelfetch:
    """The installed program in an empty folder."""
    return Modelfetch(script=script, cwd=workplace)


@pytest.fixture(scope="session")
def filled(script: Path, public_folder: Path) -> Path:
    """A root that `sync --tier demo` filled. Tests only read it; a test that changes files fills its own root."""
    cwd = public_folder / "filled"
    cwd.mkdir()
    program = Modelfetch(script=script, cwd=cwd)
    program.report("sync", "--tier", "demo")
    return program.root


@pytest.fixture(scope="session")
def ollama_binary() -> Path:
    """The real Ollama."""
    return peers.ollama()


@pytest.fixture(scope="session")
def oras_binary() -> Path:
    """The real oras."""
    return peers.oras()


@pytest.fixture(scope="session")
def whisper_python() -> Path:
    """The Python that has the real faster-whisper."""
    return peers.whisper_python()


@pytest.fixture(scope="session")
def llama_server() -> Path:
    """The real llama-server."""
    return peers.llama_server()


@pytest.fixture(scope="session")
def open_webui_python() -> Path:
    """The Python that has the real Open WebUI."""
    return peers.open_webui_python()
