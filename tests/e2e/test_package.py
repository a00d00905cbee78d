"""What is published: the sdist and the wheel, checked and installed into empty environments on each Python."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import click
import pytest

from modelfetch.cli.app import cli
from tests.e2e.cache import ENVIRONMENT, build_once, must_run
from tests.e2e.peers import REPOSITORY, make_environment

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
TOOLS = ("build", "twine", "hatchling")


def pythons() -> list[Path]:
    """A Python of each supported version that this machine has; the one that runs the tests is always among them."""
    found = {f"{sys.version_info.major}.{sys.version_info.minor}": Path(sys.executable).resolve()}
    pyenv = Path(ENVIRONMENT.get("HOME", "/root"), ".pyenv/versions")
    for version in VERSIONS:
        on_path = shutil.which(f"python{version}", path=ENVIRONMENT.get("PATH", ""))
        in_pyenv = sorted(pyenv.glob(f"{version}.*/bin/python"))
        if in_pyenv or (on_path and "shims" not in on_path):
            found.setdefault(version, in_pyenv[-1] if in_pyenv else Path(str(on_path)))
    return [found[version] for version in sorted(found)]


@pytest.fixture(scope="session")
def dist(public_folder: Path) -> Path:
    """The sdist, and the wheel built from it."""
    tools = build_once("packaging-tools", _install)
    folder = public_folder / "dist"
    must_run(tools / "bin" / "python", "-m", "build", "--no-isolation", "--outdir", folder, REPOSITORY)
    return folder


def _install(folder: Path) -> None:
    make_environment(Path(sys.executable), folder, *TOOLS)


def test_the_metadata_and_the_long_description_are_valid(dist: Path) -> None:
    tools = build_once("packaging-tools", _install)
    done = must_run(tools / "bin" / "python", "-m", "twine", "check", "--strict", *dist.iterdir())
    assert done.count("PASSED") == 2


def test_the_wheel_contains_only_the_package_and_the_tiers(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top.partition("-")[0] for top in tops} == {"modelfetch"}
    assert "modelfetch/_tiers/8g.yaml" in names
    assert "modelfetch/py.typed" in names
    assert any(name.endswith("/share/man/man1/modelfetch.1") for name in names)
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert not [name for name in archive.getnames() if "/tests/" in name or "/files/" in name]


@pytest.mark.parametrize("interpreter", pythons(), ids=lambda path: path.parent.parent.name)
def test_it_installs_and_runs_on_each_python(dist: Path, workplace: Path, interpreter: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    python = make_environment(interpreter, workplace / "environment", str(wheel))
    home = {"PATH": os.environ["PATH"], "HOME": str(workplace)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(python.with_name("modelfetch")), *words]
        return subprocess.run(command, cwd=workplace, env=home, capture_output=True, text=True, timeout=120)

    assert run("--version").stdout.startswith("modelfetch")
    for requests in (True, False):
        done = run("sync", "--tier", "demo", "--root", "root", "--json")
        assert done.returncode == 0, done.stderr
        assert bool(json.loads(done.stdout)["requests"]) is requests
    installed = must_run(python, "-m", "pip", "list", "--format=json")
    names = {entry["name"].lower() for entry in json.loads(installed.splitlines()[0])}
    assert names.isdisjoint({"pytest", "mypy", "ruff", "hypothesis", "respx", "mkdocs"})


def test_the_lowest_versions_that_it_allows_are_enough(dist: Path, workplace: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    lowest = [re.sub(r">=([\d.]+).*", r"==\1", requirement) for requirement in declared]
    assert all("==" in requirement for requirement in lowest)
    python = make_environment(Path(sys.executable), workplace / "environment", str(wheel), *lowest)
    program = str(python.with_name("modelfetch"))
    home = {"PATH": os.environ["PATH"], "HOME": str(workplace)}
    must_run(program, "sync", "--tier", "demo", "--root", workplace / "root", environment=home)
    for command in cli.list_commands(click.Context(cli)):
        must_run(program, command, "--help", environment=home)
