"""``modelfetch fetch``: what it prints."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.cli.app import run
from modelfetch.demo.hub import Hub
from modelfetch.demo.world import World
from modelfetch.pipeline.output import Output

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("words", "root"), [(["-o", "new/x.json"], "new"), (["-o", "x.json"], "."), (["-o", "/proc/self/cwd/x.json"], None)]
)
def test_the_path_in_the_report_is_relative_to_its_root(
    words: list[str],
    root: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "source.json"
    source.write_text("{}")
    for _ in ("fetched", "present"):
        assert run(["fetch", source.as_uri(), *words, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        (placed,) = report["models"][0]["artifacts"][0]["placements"]
        assert placed == "x.json"
        assert report["root"] == (root or "/proc/self/cwd")
        assert Path(report["root"], placed).read_text() == "{}"
    assert run(["fetch", source.as_uri(), *words]) == 0
    assert capsys.readouterr().out == f"{words[1]}\n"


def test_the_path_in_the_cache_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source.json"
    source.write_text("{}")
    assert run(["fetch", source.as_uri(), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert run(["fetch", source.as_uri()]) == 0
    assert capsys.readouterr().out == f"{Path(report['root'], report['models'][0]['artifacts'][0]['placements'][0])}\n"


def test_a_cache_may_be_spread_over_several_file_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a union mount, or with volumes mounted below it."""
    replace, link = os.replace, os.link

    def apart(do: Callable[..., None]) -> Callable[..., None]:
        def work(source: str | Path, target: str | Path, **named: Any) -> None:
            if not named and Path(source).parent != Path(target).parent:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
            do(source, target, **named)

        return work

    monkeypatch.setattr(os, "replace", apart(replace))
    monkeypatch.setattr(os, "link", apart(link))
    source = tmp_path / "source.json"
    source.write_text("{}")
    for _ in ("fetched", "present"):
        assert run(["fetch", source.as_uri()]) == 0
        file = Path(capsys.readouterr().out.strip())
        assert file.read_text() == "{}"
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("words", [[], ["--force"]])
def test_no_other_file_gets_the_mode_of_a_new_file_that_became_a_link(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root, in a folder that others may write."""
    victim, source, chmod = tmp_path / "victim", tmp_path / "source.json", os.chmod
    victim.write_text("private")
    victim.chmod(0o600)
    source.write_text("{}")

    def swap_first(path: Any, mode: int, **named: Any) -> None:
        for new in tmp_path.glob("out/.modelfetch-fetch-*"):
            new.unlink()
            new.symlink_to(victim)
        chmod(path, mode, **named)

    monkeypatch.setattr(os, "chmod", swap_first)
    monkeypatch.setattr(Output, "_has_moved", lambda *_: False)
    run(["fetch", source.as_uri(), "-o", str(tmp_path / "out/x.json"), *words])
    assert victim.stat().st_mode & 0o777 == 0o600


def test_another_digest_upstream_gets_no_hint_about_a_manifest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World()
    world.hf_repo("acme/art", {"a.safetensors": b"weights"})
    with Hub(world) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert run(["fetch", "hf://acme/art/a.safetensors", "--digest", "sha256:" + "0" * 64]) == 65
    err = capsys.readouterr().err
    assert f"upstream, expected sha256:{'0' * 64}" in err
    assert "check the expected digest" in err
    assert "manifest" not in err
    assert "modelfetch pin" not in err


@pytest.mark.parametrize(("words", "advised"), [([], True), (["-o", "new/x.json"], False)])
def test_the_hint_names_the_variable_of_a_cache_that_is_not_writable(
    words: list[str],
    advised: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "x.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELFETCH_CACHE", str(tmp_path / "home/cache"))
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert run(["fetch", (tmp_path / "x.json").as_uri(), *words]) == 73
    assert ("MODELFETCH_CACHE names another folder" in capsys.readouterr().err) == advised
