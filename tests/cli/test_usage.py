"""A mistyped command line gets a suggestion that works when pasted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from modelfetch.cli.app import run
from modelfetch.core.root import CONSUMERS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["sycn"], "did you mean `modelfetch sync`?"),
        (["pull", "qwen2.5"], "did you mean `modelfetch sync`?"),
        (["rm", "sdxl"], "did you mean `modelfetch remove`?"),
        (["clean"], "did you mean `modelfetch prune`?"),
        (["version"], "did you mean `modelfetch --version`?"),
        (["xyzzy"], "`modelfetch --help` lists the commands"),
        (["help", "statsu"], "did you mean `modelfetch status`?"),
        (["sync", "--teir", "16g"], "did you mean --tier? `modelfetch sync --help` lists all options"),
        (["fetch", "--digst=x", "uri"], "did you mean --digest?"),
        (["sync", "--bogus"], "hint: `modelfetch sync --help` lists its options"),
        (["sync", "--limit", "1MB"], "did you mean --limit-rate?"),
        (["add", "--token", "x"], "set HF_TOKEN or CIVITAI_API_TOKEN"),
        (["sync", "--dry-run"], "`modelfetch plan` shows what sync would do"),
        (["sync", "--hlep"], "did you mean --help?"),
        (["sync", "--force"], "for damaged files: modelfetch verify --repair"),
        (["prune", "--yes"], "no question is asked"),
        (["verify", "--force"], "hint: `modelfetch verify --help` lists its options"),
        (["--versoin"], "did you mean --version? `modelfetch --help` lists all options"),
        (["--tier", "16g", "sync"], "options follow the command: modelfetch COMMAND OPTIONS"),
        (["sync", "--tier"], "`modelfetch sync --help` lists its options"),
        (["sync", "--tier", "16gg"], "did you mean 16g?"),
        (["sync", "--for", "comfyuii"], "did you mean comfyui?"),
        (["list", "--for", "ollama,wisper"], "did you mean whisper?"),
        (["sync", "--for", "OLLAMA"], "did you mean ollama?"),
        (["sync", "--tier", "16g", "--consumer-dir", "comfi=/x"], "`modelfetch sync --help`"),
        (["status", "--format", "tabel"], "did you mean table?"),
        (["completion", "bsh"], "did you mean bash?"),
        (["add", "hf://a/b/c.safetensors", "--kind", "loar"], "did you mean lora?"),
        (["add", "hf://a/b/c.safetensors", "--for", "comfiui"], "did you mean comfyui?"),
        (["sync", "16g"], "for a tier, write: modelfetch sync --tier 16g"),
        (["env", "16"], "for a tier, write: modelfetch env --tier 16g"),
        (["sync", "sd_tiny"], "name the file of a manifest, such as models.yaml; `modelfetch tiers` lists the tiers"),
        (["verify", "sd_tiny"], "for a model, write: modelfetch verify --model sd_tiny"),
        (["verify", "16gib"], "for a tier, write: modelfetch verify --tier 16g"),
        (["list", "--format", "json"], "did you mean --json?"),
        (["fit", "16g"], "for a tier, write: modelfetch fit --tier 16g"),
        (["fit", "a.yaml", "hf://a/b"], "modelfetch fit hf://a/b"),
        (["fit", "a.yaml", "--tier", "16g"], "leave out --tier or the manifest files"),
    ],
)
def test_the_hint_names_the_most_similar_option(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    error, said = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert said.startswith("hint: ")
    assert hint in said


@pytest.mark.parametrize("value", ["comfi", "ollama,comfi"])
def test_a_variable_with_a_misspelled_service_is_78_with_the_same_hint(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELFETCH_FOR", value)
    assert run(["status", "--tier", "8g"]) == 78
    assert capsys.readouterr().err.splitlines() == [
        f"error: MODELFETCH_FOR={value}: 'comfi' is not one of {', '.join(CONSUMERS)}",
        "hint: did you mean comfyui?",
    ]


@pytest.mark.parametrize("words", [["help"], ["help", "sync"], ["help", "ls"]])
def test_help_is_accepted_as_a_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 0
    said = capsys.readouterr().out
    assert run([*words[1:], "--help"]) == 0
    assert capsys.readouterr().out == said
    assert said.startswith("Usage: modelfetch")


@pytest.mark.parametrize(
    "words",
    [["report", "--html"], ["fit", "file:///x.gguf", "--plot"], ["env", "--update"], ["add", "x:1b", "--manifest"]],
    ids=" ".join,
)
def test_an_empty_path_is_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, ""]) == 2
    assert "expected a path, found ''" in capsys.readouterr().err


def test_a_report_page_does_not_replace_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "root").mkdir()
    for target in (".", "/", str(tmp_path), f"{tmp_path}/"):
        assert run(["report", "--root", str(tmp_path / "root"), "--html", target]) == 73
        assert "is a folder" in capsys.readouterr().err
