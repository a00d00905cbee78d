"""Bring Docker, Compose and a base image onto this machine, each at one version."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tomllib
from pathlib import Path

from tests.e2e.cache import ENVIRONMENT, build_once, must_run, program
from tests.e2e.debian import SUITE, debian_mirror
from tests.e2e.peers import REPOSITORY

COMPOSE = "v2.29.7"
SYSTEM_PYTHON = Path("/usr/bin/python3")
"""Debian's own Python, which is the base image's as well: wheels that are built with it fit there."""


def docker() -> Path:
    """Debian's client: another one that lies before it in PATH may not speak this engine's version."""
    debians = Path("/usr/bin/docker")
    return debians if debians.exists() else program("docker", "docker.io")


def dockerd() -> Path:
    """Debian's Docker Engine."""
    program("iptables", "iptables")
    return program("dockerd", "docker.io")


def compose_plugin() -> Path:
    """A folder for DOCKER_CONFIG whose plugin is the real Compose. Built in about two minutes."""

    def build(folder: Path) -> None:
        go_path = folder / "go"
        must_run(
            "go",
            "install",
            f"github.com/docker/compose/v2/cmd@{COMPOSE}",
            environment={"GOBIN": str(go_path), "GOFLAGS": "-p=2"},
            seconds=1500,
        )
        plugins = folder / "cli-plugins"
        plugins.mkdir()
        (go_path / "cmd").rename(plugins / "docker-compose")
        go_path.rmdir()

    return build_once(f"compose-{COMPOSE}", build)


def base_tarball() -> Path:
    """A small Debian with Python, as a tarball for `docker import`."""

    def build(folder: Path) -> None:
        tree = folder / "tree"
        must_run(
            program("debootstrap", "debootstrap"),
            "--variant=minbase",
            "--include=python3,python3-venv,ca-certificates",
            SUITE,
            tree,
            debian_mirror(),
        )
        for waste in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
            shutil.rmtree(tree / waste, ignore_errors=True)
        must_run("tar", "-C", tree, "--use-compress-program", "gzip -1", "-cf", folder / "base.tar.gz", ".")
        shutil.rmtree(tree)

    return build_once(f"debian-{SUITE}-python", build) / "base.tar.gz"


def wheels() -> Path:
    """Every wheel that an image of modelfetch is built from, but its own. Named after the list of requirements."""
    requirements = _requirements()
    tag = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:12]

    def build(folder: Path) -> None:
        interpreter = SYSTEM_PYTHON if SYSTEM_PYTHON.exists() else Path(sys.executable)
        venv = folder / "venv"
        must_run(interpreter, "-m", "venv", venv)
        python = venv / "bin" / "python"
        must_run(python, "-m", "pip", "wheel", "--quiet", "--wheel-dir", folder / "wheels", *requirements)
        shutil.rmtree(venv)

    return build_once(f"wheels-{tag}", build) / "wheels"


def _requirements() -> list[str]:
    """What the image installs, and what builds it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    own = project["project"]
    return sorted({*own["dependencies"], *own["optional-dependencies"]["gpu"], *project["build-system"]["requires"]})


def path_without_stand_ins(folder: Path) -> str:
    """A PATH whose `docker` is Debian's."""
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "docker"
    if not link.exists():
        link.symlink_to(docker())
    return f"{folder}:{ENVIRONMENT.get('PATH', '')}:/usr/sbin:/sbin"
