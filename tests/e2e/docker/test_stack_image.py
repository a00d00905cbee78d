"""The image of modelfetch, built by the classic builder from the Dockerfile as it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.e2e.docker.images import BASE, MODELFETCH

if TYPE_CHECKING:
    from tests.e2e.docker.engine import Engine

SECRET_OF_THE_BUILD = "/src/wheels"


def test_the_image_has_labels_and_runs_modelfetch(built: Engine) -> None:
    config = json.loads(built.output("inspect", MODELFETCH))[0]["Config"]
    labels = {name.rpartition(".")[2]: value for name, value in config["Labels"].items()}
    assert labels["title"] == "modelfetch"
    assert labels["licenses"] == "Apache-2.0"
    assert config["Entrypoint"] == ["modelfetch"]
    assert config["User"] == ""
    assert built.output("run", "--rm", MODELFETCH, "--version") == f"modelfetch {labels['version']}"


def test_the_image_has_the_shipped_tiers_and_can_query_a_gpu(built: Engine) -> None:
    assert "94g" in built.output("run", "--rm", "--network", "none", MODELFETCH, "tiers")
    built.output("run", "--rm", "--entrypoint", "/opt/modelfetch/bin/python", MODELFETCH, "-c", "import pynvml")


def test_nothing_of_the_build_is_left_in_it(built: Engine) -> None:
    folders = built.output("run", "--rm", "--entrypoint", "sh", MODELFETCH, "-c", "ls -A /src /root/.cache 2>&1; true")
    assert folders.count("No such file") == 2
    pip = built.run("run", "--rm", "--entrypoint", "/opt/modelfetch/bin/python", MODELFETCH, "-m", "pip", check=False)
    assert pip.returncode != 0
    assert SECRET_OF_THE_BUILD not in built.output("history", "--no-trunc", MODELFETCH)
    sizes = [int(built.output("inspect", "--format", "{{.Size}}", image)) for image in (MODELFETCH, BASE)]
    assert sizes[0] - sizes[1] < 120e6


def test_the_demo_runs_in_it_without_any_network(built: Engine) -> None:
    options = ("--rm", "--network", "none", "--read-only", "--tmpfs", "/models", "--user", "1000:1000")
    done = built.run("run", *options, MODELFETCH, "sync", "--tier", "demo", "--root", "/models/ai", check=False)
    assert done.returncode == 0, done.stderr
