"""The precedence of options, and the errors for invalid values."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click
import pytest

from modelfetch.cli.app import cli, run
from modelfetch.cli.options import EnvOption
from tests.cases import each

if TYPE_CHECKING:
    from pathlib import Path


def manifest(folder: Path, name: str) -> Path:
    path = folder / f"{name}.yaml"
    source = "file:///nowhere/x.safetensors"
    entry = {"name": "m", "kind": "vae", "source": source, "for": ["comfyui"]}
    path.write_text(json.dumps({"version": 1, "tier": name, "models": [entry]}))
    return path


@pytest.fixture(autouse=True)
def _tiers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "manifests").mkdir()
    for name in ("8g", "16g", "other"):
        manifest(tmp_path / "manifests", name)


def status(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str | None, str]:
    capsys.readouterr()
    code = run(["status", "--json", *words])
    out, err = capsys.readouterr()
    return code, json.loads(out)["tier"] if out.startswith("{") else None, err


@pytest.mark.parametrize(
    ("environ", "words", "tier"),
    [
        ({"GPU_VRAM_DEFAULT": "16"}, [], "16g"),
        ({"GPU_VRAM_DEFAULT": "16GB"}, [], "16g"),
        ({"MODELFETCH_TIER": "16 GiB"}, [], "16g"),
        ({}, ["--tier", "16"], "16g"),
        ({}, ["--tier=16GB"], "16g"),
        ({}, ["--tier", " 16GiB "], "16g"),
        ({"GPU_VRAM_DEFAULT": "16g", "MODELFETCH_TIER": "8g"}, [], "8g"),
        ({"MODELFETCH_TIER": "8g", "MODELFETCH_STATUS_TIER": "other"}, [], "other"),
        ({"MODELFETCH_STATUS_TIER": "other"}, ["--tier", "8g"], "8g"),
        ({"MODELFETCH_TIER": "8g"}, ["--manifest", "manifests/other.yaml"], "other"),
        ({"MODELFETCH_TIER": "8g", "MODELFETCH_MANIFEST": "manifests/other.yaml"}, [], "other"),
        ({"GPU_VRAM_DEFAULT": "16g", "MODELFETCH_MANIFEST": "manifests/other.yaml"}, [], "other"),
        ({"MODELFETCH_MANIFEST": "manifests/other.yaml"}, ["--tier", "8g"], "8g"),
        ({"MODELFETCH_STATUS_TIER": "", "MODELFETCH_TIER": " ", "GPU_VRAM_DEFAULT": "8g"}, [], "8g"),
    ],
)
def test_options_are_read_from_the_command_line_then_variables_then_the_stack(
    environ: dict[str, str],
    words: list[str],
    tier: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert status(capsys, *words)[:2] == (1, tier)


@pytest.mark.parametrize(
    ("environ", "words", "code"),
    [
        ({}, [], 2),
        ({}, ["--tier", "nope"], 2),
        ({}, ["--tier", "../manifests/8g"], 2),
        ({}, ["--tier", "8g", "--manifest", "manifests/other.yaml"], 2),
        ({}, ["--tier", "8g", "--for", "nobody"], 2),
        ({}, ["--tier", "8g", "--jobs", "0"], 2),
        ({}, ["--tier", "8g", "--limit-rate", "fast"], 2),
        ({}, ["--tier", "8g", "--lock-timeout", "nan"], 2),
        ({"MODELFETCH_LOCK_TIMEOUT": "nan"}, ["--tier", "8g"], 78),
        ({}, ["--tier", "8g", "--chown", "me"], 2),
        ({}, ["--nope"], 2),
        ({}, ["--manifest", ""], 2),
        ({"MODELFETCH_TIER": "nope"}, [], 78),
        ({"MODELFETCH_STATUS_TIER": "nope"}, [], 78),
        ({"GPU_VRAM_DEFAULT": "13g"}, [], 78),
        ({"MODELFETCH_JOBS": "many"}, ["--tier", "8g"], 78),
        ({"MODELFETCH_STATUS_JOBS": "0"}, ["--tier", "8g"], 78),
        ({"MODELFETCH_FOR": "comfyui,nobody"}, ["--tier", "8g"], 78),
        ({"MODELFETCH_LIMIT_RATE": "-1"}, ["--tier", "8g"], 78),
        ({"MODELFETCH_OFFLINE": "maybe"}, ["--tier", "8g"], 78),
        ({"PUID": "me"}, ["--tier", "8g"], 78),
        ({"HF_ENDPOINT": "not a url"}, ["--tier", "8g"], 78),
        ({"MODELFETCH_MIRRORS": "nonsense"}, ["--tier", "8g"], 78),
        ({"MODELFETCH_MANIFEST": "none.yaml"}, [], 78),
    ],
)
def test_a_wrong_option_is_2_and_a_wrong_variable_is_78(
    environ: dict[str, str],
    words: list[str],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    got, _, err = status(capsys, *words)
    assert got == code, err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert "hint: " in err
    assert "boolean" not in err  # the word of click
    for name in environ:
        if code == 78 and name != "MODELFETCH_MANIFEST":
            assert name in err


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["list"], "LIST_SORT"),
        (["ls"], "LIST_SORT"),
        (["ls"], "LIST_FILTER"),
        (["list"], "JSON"),
        (["add", "hf://a/b"], "ADD_KIND"),
        (["add", "hf://a/b"], "FOR"),
        (["adopt", ".", "--dedupe"], "ADOPT_DRY_RUN"),
        (["validate", "x.yaml"], "QUIET"),
        (["env", "--tier", "8g"], "ENV_UPDATE"),
    ],
)
def test_a_variable_is_checked_as_its_option_is(
    words: list[str], name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    value = "nowhere/" if name == "ENV_UPDATE" else "colour"
    monkeypatch.setenv(f"MODELFETCH_{name}", value)
    assert run(words) == 78
    assert capsys.readouterr().err.startswith(f"error: MODELFETCH_{name}={value}: ")


def test_every_option_can_be_a_variable() -> None:
    parent = click.Context(cli)
    for name in cli.list_commands(parent):
        command = cli.get_command(parent, name)
        assert command is not None
        options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
        assert [option.name for option in options if not isinstance(option, EnvOption)] == [], name


def test_the_short_name_of_a_command_has_the_variables_of_the_long_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELFETCH_LIST_ROOT", "there")
    monkeypatch.setenv("MODELFETCH_LIST_JSON", "1")
    assert run(["ls"]) == 73
    assert json.loads(capsys.readouterr().out)["root"] == "there"


def test_a_dry_run_for_all_commands_does_not_concern_an_adoption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELFETCH_DRY_RUN", "1")
    assert run(["adopt", str(tmp_path / "manifests"), "--root", str(tmp_path / "root")]) == 0
    assert run(["adopt", str(tmp_path / "manifests"), "--root", str(tmp_path / "root"), "--dry-run"]) == 2
    assert "--dry-run requires --dedupe" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["sync", "status", "validate", "pin", "adopt", "prune"])
@pytest.mark.parametrize("path", ["", " "])
def test_an_empty_path_is_2_and_not_the_working_directory(
    command: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([command, path]) == 2
    assert "expected a path" in capsys.readouterr().err


def test_a_long_value_of_a_variable_is_cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MODELFETCH_JOBS", "9" * 5000)
    code, _, err = status(capsys, "--tier", "8g")
    assert code == 78
    assert len(err) < 400


@pytest.mark.parametrize("variable", ["MODELFETCH_KEEP_TIER", "MODELFETCH_PRUNE_KEEP_TIER"])
def test_a_kept_tier_that_does_not_exist_is_78_in_a_variable(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "root").mkdir()
    assert run(["prune", "--root", "root", "--keep-tier", "nope"]) == 2
    monkeypatch.setenv(variable, "8g,nope")
    capsys.readouterr()
    assert run(["prune", "--root", "root"]) == 78
    assert f"{variable}=nope" in capsys.readouterr().err


def test_a_list_in_a_variable_splits_at_commas(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELFETCH_MANIFEST", "manifests/8g.yaml, manifests/other.yaml")
    monkeypatch.setenv("MODELFETCH_FOR", "comfyui,whisper")
    run(["status", "--json"])
    assert len(json.loads(capsys.readouterr().out)["models"]) == 2


def test_no_command_shows_help_and_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "Commands:" in capsys.readouterr().err


def test_an_unknown_command_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["frobnicate"]) == 2
    assert "frobnicate" in capsys.readouterr().err


def test_an_internal_error_is_70_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("modelfetch.pipeline.status.select", broken)
    assert run(["status", "--tier", "8g"]) == 70
    err = capsys.readouterr().err
    assert "a bug in modelfetch: ZeroDivisionError: oops" in err
    assert "Traceback" not in err


def test_prometheus_text_has_one_state_per_model_and_service(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--tier", "8g", "--format", "prom"]) == 1
    out = capsys.readouterr().out
    assert 'modelfetch_model_state{tier="8g",model="m",consumer="comfyui",state="missing"} 1' in out
    assert 'modelfetch_ready{tier="8g"} 0' in out
    values = [line for line in out.splitlines() if line and not line.startswith("#")]
    assert all(line.rsplit(" ", 1)[1].isdigit() for line in values)


@pytest.mark.parametrize("option", ["--root", "--store"])
def test_an_empty_folder_option_does_not_mean_the_working_directory(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = status(capsys, "--tier", "8g", option, "")
    assert (code, option in err) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifests"]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["sync", "--manifest", "nowhere.yaml"], "hint: paths start from "),
        (["sync", "--manifest", "manifests/8g.yml"], "hint: did you mean manifests/8g.yaml?"),
        (["sync", "manifests"], "hint: name a file in it, such as manifests/models.yaml"),
        (["plan", "--manifest", "8GB"], "hint: for a tier, write: modelfetch plan --tier 8g"),
        (["sync", "--tier", "my.yaml"], "hint: a file is named by --manifest: modelfetch sync --manifest my.yaml"),
        (["status", "--tier", "a/b"], "hint: a file is named by --manifest: modelfetch status --manifest a/b"),
        (["sync", "ollama run llama3.2"], "hint: write it into one first: modelfetch add 'ollama run llama3.2'"),
        (["plan", "hf://a/b/c.gguf"], "hint: write it into one first: modelfetch add hf://a/b/c.gguf"),
        (["plan", "hf://a/b/c.yaml"], "hint: download it first: modelfetch fetch hf://a/b/c.yaml -o c.yaml"),
        (["validate", "https://h.example/a.yml"], "modelfetch fetch https://h.example/a.yml -o a.yml"),
        (["pin", "https://h.example/a.yaml"], "modelfetch fetch https://h.example/a.yaml -o a.yaml"),
        (["fetch", "x.safetensors"], "hint: one file: https://"),
        (["sync", "--tier", "8g", "--jobs", "many"], "expected a whole number from 1 to 64, found 'many'"),
    ],
)
def test_a_typical_mistake_gets_a_hint_with_the_right_command(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) in (2, 78)
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--for", "whisper,comfyui"], ["--for", "whisper", "--for", " comfyui"]])
def test_names_are_repeated_or_separated_by_commas(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--tier", "8g", "--json", *words]) == 1
    assert [model["name"] for model in json.loads(capsys.readouterr().out)["models"]] == ["m"]


@each("names", ["", "whisper,", "whisper,nobody"])
def test_a_name_among_several_that_is_empty_or_unknown_is_a_usage_error(names: str) -> None:
    assert run(["status", "--tier", "8g", "--for", names]) == 2


@pytest.mark.parametrize("option", ["--jobs", "--limit-rate", "--refresh", "--keep-going", "--min-free", "--chown"])
def test_status_does_not_list_options_without_effect(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sync", "--help"]) == 0
    assert option in capsys.readouterr().out
    assert run(["status", "--help"]) == 0
    assert option not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["JOBS", "REFRESH", "MIN_FREE", "STATUS_CONNECTIONS", "SYNC_RETRIES"])
def test_status_accepts_the_variables_of_options_that_it_ignores(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MODELFETCH_{name}", "1")
    assert run(["status", "--tier", "8g"]) == 1


@pytest.mark.parametrize(
    "words", [["plan"], ["status"], ["list"], ["verify"], ["remove", "m"], ["prune"], ["adopt", "."]]
)
def test_commands_accept_the_shared_options_of_sync(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tier = ["--tier", "8g"] if words[0] in ("plan", "status") else []
    numbers = [word for name in ("jobs", "connections", "retries", "lock-timeout") for word in (f"--{name}", "1")]
    flags = ["--offline", "--refresh", "--require-digests", "--keep-going", "--progress", "none", "-v", "-q", "--json"]
    owner = ["--chown", f"{os.getuid()}:{os.getgid()}", "--limit-rate", "1MB", "--min-free", "1"]
    (tmp_path / "root").mkdir()
    run([*words, *tier, "--root", str(tmp_path / "root"), *numbers, *flags, *owner, "--for", "comfyui"])
    assert "there is no option" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["sync"], "name a manifest FILE, or --tier NAME, one of: 8g,"),
        (["status"], "name a manifest FILE, or --tier NAME, one of: 8g,"),
        (["validate", "nosuch.yaml"], "hint: paths start from "),
        (["status", "--for", "nobody"], "`modelfetch status --help`"),
        (["list", "--sort", "colour"], "`modelfetch list --help`"),
    ],
)
def test_the_hint_names_the_arguments_of_the_command(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) != 0
    err = capsys.readouterr().err
    assert hint in err
    assert "docs/" not in err
