"""A password in the wrong place is not printed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from modelfetch.cli.app import run
from tests.cases import first

if TYPE_CHECKING:
    from pathlib import Path

PLANTED = "planted-Secret-0123456789abcdef"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELFETCH_CACHE", str(tmp_path / "cache"))
    entry = {"name": "m", "kind": "checkpoint", "source": "https://a.example/x.safetensors", "for": ["comfyui"]}
    (tmp_path / "m.yaml").write_text(json.dumps({"version": 1, "tier": "t", "models": [entry]}))


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        (f"https://me:{PLANTED}@a.example/x.safetensors", 2),
        (f"hf://me:{PLANTED}@a/b/x", 2),
        (f"oci://me:{PLANTED}@a.example/x:y", 2),
        (f"civitai://1?token={PLANTED}", 2),
        (f"http://a.example/x.safetensors?token={PLANTED}", 78),
    ],
)
@pytest.mark.parametrize("options", [(), ("--json",), ("-v", "--progress", "json")])
def test_fetch_does_not_print_a_secret(
    uri: str, code: int, options: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["fetch", uri, *options]) == code
    out, err = capfd.readouterr()
    shown = out.replace(json.dumps(uri), "") if code == 78 else out  # the report names the requested URI
    assert PLANTED not in shown + err


@pytest.mark.parametrize("variable", ["COMFYUI_AUTO_DOWNLOAD_MODEL", "OLLAMA_AUTO_PULL_MODEL"])
@pytest.mark.parametrize("value", [f"https://me:{PLANTED}@a.example/x", f"civitai://1?token={PLANTED}"])
def test_an_invalid_setting_with_a_secret_is_78_and_not_printed(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    assert run(["plan", "--manifest", "m.yaml", "--json"]) == 78
    out, err = capfd.readouterr()
    assert variable in err
    assert PLANTED not in out + err


def test_a_model_that_a_setting_adds_is_not_named_by_the_query_of_its_address(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMFYUI_AUTO_DOWNLOAD_MODEL", f"http://127.0.0.1:9/a/y.safetensors?token={PLANTED}")
    assert run(["sync", "--manifest", "m.yaml", "--retries", "1", "--json", "-v"]) == 69
    out, err = capfd.readouterr()
    assert [model["name"] for model in json.loads(out)["models"]] == ["y.safetensors"]
    assert PLANTED not in err


LINK = f"https://me:{PLANTED}@a.example/x.yaml?token={PLANTED}"


@pytest.mark.parametrize(
    "words",
    [
        ["sync", "--root", LINK, "m.yaml"],
        ["adopt", LINK],
        ["report", "--html", LINK],
        ["validate", LINK],
        ["sync", "--manifest", LINK],
        ["pin", "m.yaml", "--upgrade", LINK],
        ["prune", "--keep-tier", LINK],
        ["fetch", "file:///x", "--digest", LINK],
        ["status", "m.yaml", "--format", LINK],
        ["sync", "m.yaml", "--chown", LINK],
        ["sync", "m.yaml", "--consumer-dir", f"comfyui={LINK}"],
        ["tiers", LINK],
        [LINK],
    ],
    ids=lambda words: " ".join(words).replace(LINK, "LINK"),
)
@pytest.mark.parametrize("as_json", first(1, [True, False]))
def test_a_link_in_a_wrong_place_is_refused_without_its_secret(
    words: list[str], as_json: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    reports = as_json and words[0] in ("sync", "adopt", "pin", "prune", "fetch", "status")
    assert run([*words, "--json"] if reports else words) in (2, 78)
    out, err = capfd.readouterr()
    assert "planted" not in out + err
    assert "error: " in err
    assert sorted(tmp_path.iterdir()) == before, "no folder is named after the address"


@pytest.mark.parametrize("variable", ["ROOT", "STORE", "MANIFEST", "JOBS", "TIER", "REQUIRE_MARKER", "PUID"])
@pytest.mark.parametrize("scheme", ["https", "s3"])
def test_a_link_in_a_variable_of_another_value_is_78_without_its_secret(
    variable: str, scheme: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if variable != "PUID":
        variable = f"MODELFETCH_{variable}"
    monkeypatch.setenv(variable, LINK.replace("https", scheme))
    assert run(["sync", "--json"]) == 78
    out, err = capfd.readouterr()
    assert "planted" not in out + err
    assert variable in err
