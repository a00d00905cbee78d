"""The images that the stack runs here: modelfetch and Ollama for real, and stand-ins for the services around them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e import peers as programs
from tests.e2e.docker import peers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.e2e.docker.engine import Engine

BASE = "base:bookworm"
MODELFETCH = "modelfetch:0.1.0"
BUILD_CONTEXT = ("Dockerfile", ".dockerignore", "LICENSE", "README.md", "pyproject.toml", "manifests", "modelfetch")

_STUB = Path(__file__).parent / "stub"


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A stand-in: the variable and default of the image whose name it takes, and how that image starts."""

    service: str
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


STUB = ("python3", "/stub/stub.py")
ROLES = (
    Role(service="stable-diffusion", entrypoint=(*STUB, "stable-diffusion")),
    Role(service="comfyui"),
    Role(service="whisperx", command=("/workspace/entrypoint.sh",)),
    Role(service="diffrhythm", command=("sleep", "infinity")),
    Role(service="open-webui", command=(*STUB, "open-webui")),
    Role(service="librechat", command=("npm", "run", "backend")),
    Role(service="librechat-mongodb"),
    Role(service="librechat-meilisearch", entrypoint=("tini", "--"), command=("/bin/meilisearch",)),
    Role(service="anythingllm", entrypoint=("/bin/bash", "/usr/local/bin/docker-entrypoint.sh")),
    Role(service="private-gpt", entrypoint=(*STUB, "private-gpt")),
    Role(service="immich-machine-learning", entrypoint=("tini", "--"), command=("python", "-m", "immich_ml")),
    Role(service="immich-machine-learning-gpu", entrypoint=("tini", "--"), command=("python", "-m", "immich_ml")),
    Role(service="immich-server", entrypoint=(*STUB, "immich-server")),
    Role(service="immich-redis", command=(*STUB, "idle")),
    Role(service="immich-database", entrypoint=("immich-docker-entrypoint.sh",), command=("postgres",)),
)
"""Every service but modelfetch's own and Ollama."""


def build_all(engine: Engine, folder: Path, names: Mapping[str, str]) -> None:
    """Build everything. ``names`` is the image of each service of the compose files."""
    engine.output("import", str(peers.base_tarball()), BASE)
    build_modelfetch(engine, folder / "modelfetch")
    build_ollama(engine, folder / "ollama", names["ollama"])
    build_stubs(engine, folder / "stub", names)


def build_modelfetch(engine: Engine, context: Path) -> str:
    """Build the real Dockerfile, by the classic builder and without a network; returns what it printed."""
    context.mkdir(parents=True)
    for name in BUILD_CONTEXT:
        source = programs.REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, context / name)
    shutil.copytree(peers.wheels(), context / "wheels")
    arguments = {"BASE_IMAGE": BASE, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/src/wheels"}
    build_args = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
    return engine.output("build", "--network", "none", "--tag", MODELFETCH, *build_args, str(context), seconds=600)


def build_ollama(engine: Engine, context: Path, name: str) -> None:
    """The real Ollama's program in an image of the official name, laid out as that one is."""
    context.mkdir(parents=True)
    shutil.copy(programs.ollama(), context / "ollama")
    write_dockerfile(
        context,
        f"FROM {BASE}",
        "COPY ollama /bin/ollama",
        "ENV OLLAMA_HOST=0.0.0.0:11434",
        'ENTRYPOINT ["/bin/ollama"]',
        'CMD ["serve"]',
    )
    engine.output("build", "--tag", name, str(context), seconds=300)


def build_stubs(engine: Engine, context: Path, names: Mapping[str, str]) -> None:
    """One image that can stand in for every other service, and each service's name for it, started as it starts."""
    shutil.copytree(_STUB, context)
    # modelfetch's own image has huggingface_hub, which finds the files of a cache as the real services do.
    write_dockerfile(
        context,
        f"FROM {MODELFETCH}",
        "COPY . /stub/",
        "RUN sh /stub/install.sh",
        "ENTRYPOINT []",
        "CMD []",
    )
    engine.output("build", "--tag", "stub", str(context), seconds=300)
    for role in ROLES:
        dockerfile = (
            "FROM stub\n"
            f"ENV STUB_ROLE={role.service}\n"
            f"ENTRYPOINT {json.dumps(role.entrypoint)}\n"
            f"CMD {json.dumps(role.command)}\n"
        )
        engine.run("build", "--tag", names[role.service], "-", stdin=dockerfile)


def write_dockerfile(context: Path, *lines: str) -> None:
    """A Dockerfile of these lines."""
    (context / "Dockerfile").write_text("\n".join(lines) + "\n")
