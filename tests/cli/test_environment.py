"""A MODELFETCH_ variable that would be ignored is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest

from modelfetch.cli.app import cli, run
from modelfetch.cli.environment import SETTINGS, check_environment


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    entry = {"name": "m", "kind": "file", "path": "x.json", "source": "file:///nowhere/x.json", "for": ["comfyui"]}
    Path("models.yaml").write_text(json.dumps({"version": 1, "models": [entry]}))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("MODELFETCH_FROM", "unset it"),
        ("MODELFETCH_SYNC_FROM", "unset it"),
        ("MODELFETCH_LIMITRATE", "did you mean MODELFETCH_LIMIT_RATE?"),
        ("MODELFETCH_TIER_DIR", "did you mean MODELFETCH_TIERS_DIR?"),
        ("MODELFETCH_SYNC_RETRY", "did you mean MODELFETCH_SYNC_RETRIES?"),
        ("MODELFETCH_XYZ", "unset it"),
        ("MODELFETCH_SYNC_FORCE", "unset it"),
        ("MODELFETCH_STATUS_FORCE", "unset it"),
        ("MODELFETCH_", "unset it"),
        ("MODELFETCH_IMAGES", "unset it"),
        ("MODELFETCH_HF_TOKEN", "unset it"),
    ],
)
def test_a_variable_that_would_be_ignored_is_78(
    name: str, hint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "x")
    assert run(["status"]) == 78
    err = capsys.readouterr().err
    assert name in err
    assert hint in err
    monkeypatch.setenv(name, " ")
    assert run(["status"]) == 1


@pytest.mark.parametrize(
    "name",
    [
        "MODELFETCH_IMAGE",
        "MODELFETCH_BASE_IMAGE",
        "MODELFETCH_JOBS",
        "MODELFETCH_SYNC_JOBS",
        "MODELFETCH_SERVICE_HOST",
        "MODELFETCH_CACHE_SERVICE_PORT_HTTP",
        "MODELFETCH_PORT",
        "MODELFETCH_PORT_80_TCP_ADDR",
        "MODELFETCHED",
    ],
)
def test_variables_of_other_programs_and_of_options_are_accepted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "4")
    assert run(["status"]) == 1


def test_every_variable_of_the_stack_is_known() -> None:
    root = Path(__file__).parents[2]
    files = [root / ".env.example", *root.glob("compose/*"), *root.glob("*compose*.y*ml"), *root.glob("Dockerfile*")]
    names = {name for file in files if file.is_file() for name in re.findall(r"MODELFETCH_[A-Z_]+", file.read_text())}
    assert len(names) > 10
    names -= {"MODELFETCH_FROM"}  # passed on for a later version, empty unless it is set
    check_environment(click.Context(cli), dict.fromkeys(names, "1"))


def test_every_setting_is_known() -> None:
    text = (Path(__file__).parents[2] / "modelfetch/config/settings.py").read_text()
    assert set(re.findall(r'"(MODELFETCH_[A-Z_]+)"', text)) <= SETTINGS


def test_models_yaml_is_taken_when_nothing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["models"][0]["name"] == "m"
    Path("models.yaml").unlink()
    assert run(["status"]) == 2


def test_validate_lists_every_problem_of_every_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "models.yaml"]) == 0
    assert capsys.readouterr().out == "models.yaml: valid, 1 model\n"
    Path("bad.yaml").write_text("version: 3\nmodels: 7\n")
    assert run(["validate", "bad.yaml", "models.yaml", "none.yaml"]) == 78
    out, err = capsys.readouterr()
    assert "models.yaml: valid" in out
    assert "bad.yaml:1:10" in err
    assert "bad.yaml:2:9" in err
    assert "none.yaml" in err
    assert run(["validate"]) == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert "_MODELFETCH_COMPLETE" in capsys.readouterr().out


def test_a_tier_that_is_almost_right_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    Path("manifests").mkdir()
    Path("manifests/special.yaml").write_text("version: 1\nmodels: []\n")
    assert run(["status", "--tier", "speciall"]) == 2
    assert "did you mean special?" in capsys.readouterr().err
