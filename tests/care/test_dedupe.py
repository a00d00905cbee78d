"""Deduplication leaves one copy of equal files and loses nothing."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.care import dedupe
from modelfetch.cli.app import run
from modelfetch.core import directories, fs
from tests.care.test_adopt import collection, state
from tests.cases import first

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.pipeline.conftest import Bench, Result

DATA = bytes(range(256)) * 8192


def clone(source: int, target: int) -> bool:
    fs.copy_descriptor(source, target)
    return True


@pytest.fixture
def twins(bench: Bench) -> tuple[Path, Path]:
    """The same file in two collections, and another one of the same size."""
    other = collection(bench.folder / "a1111", "AUTOMATIC1111 or Forge", DATA)
    (other.parent / "other.safetensors").write_bytes(b"x" * len(DATA))
    return collection(bench.folder / "comfy", "ComfyUI", DATA), other


def test_a_dry_run_is_the_default_and_changes_nothing(
    bench: Bench, care: Callable[..., Result], twins: tuple[Path, Path]
) -> None:
    before = [state(path) for path in twins]
    result = care("adopt", "--dedupe", str(bench.folder / "comfy"), str(bench.folder / "a1111"))
    assert result.code == 0, result.err
    assert len(result.report["models"]) == 1
    assert [state(path) for path in twins] == before
    assert not bench.root.exists()


def test_equal_files_become_one(bench: Bench, care: Callable[..., Result], twins: tuple[Path, Path]) -> None:
    words = ["adopt", "--dedupe", "--no-dry-run", str(bench.folder / "comfy"), str(bench.folder / "a1111")]
    result = care(*words)
    assert result.code == 0, result.err
    one, two = twins
    assert one.samefile(two)
    assert one.read_bytes() == DATA
    assert (two.parent / "other.safetensors").read_bytes() == b"x" * len(DATA)
    assert [path.name for path in two.parent.iterdir() if path.name.startswith(".")] == []
    assert care(*words).report["models"] == []


@pytest.mark.parametrize(
    ("modes", "shared"), [((0o600, 0o644), False), ((0o644, 0o640), False), ((0o644, 0o664), True)]
)
def test_who_may_read_a_file_stays_the_same(
    bench: Bench,
    care: Callable[..., Result],
    twins: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    modes: tuple[int, int],
    *,
    shared: bool,
) -> None:
    monkeypatch.setattr("modelfetch.store.ingest.try_reflink", lambda *_: False)
    monkeypatch.setattr(fs, "clone_descriptor", lambda *_: False)
    monkeypatch.setattr(fs, "can_reflink", lambda *_: False)
    for path, mode in zip(twins, modes, strict=True):
        path.chmod(mode)
    foreseen = care("adopt", "--dedupe", str(bench.folder / "comfy"), str(bench.folder / "a1111"))
    found = [artifact["action"] for model in foreseen.report["models"] for artifact in model["artifacts"]]
    assert found == ["present" if shared else "skipped"]
    result = care("adopt", "--dedupe", "--no-dry-run", str(bench.folder / "comfy"), str(bench.folder / "a1111"))
    assert result.code == 0, result.err
    assert twins[0].samefile(twins[1]) is shared
    assert [path.stat().st_mode & 0o444 for path in twins] == [mode & 0o444 for mode in modes]


def test_a_reflink_keeps_mode_and_time(
    bench: Bench, care: Callable[..., Result], twins: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [state(path)[:4] for path in twins]
    monkeypatch.setattr(fs, "clone_descriptor", clone)
    care("adopt", "--dedupe", "--no-dry-run", str(bench.folder / "comfy"), str(bench.folder / "a1111"))
    assert [state(path)[:4] for path in twins] == before


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("name", ["_blob", "_put_link", "_make", "exchange"])
def test_no_bytes_are_lost_if_one_of_two_files_is_written_to_meanwhile(
    bench: Bench,
    care: Callable[..., Result],
    twins: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    *,
    kept: bool,
) -> None:
    owner = directories if name == "exchange" else dedupe
    keeper, replaced = sorted(twins)
    written, other = (keeper, replaced) if kept else (replaced, keeper)
    do, calls = getattr(owner, name), list[str]()

    def write(*given: object, **named: object) -> object:
        calls.append(name)
        made = do(*given, **named) if name == "_blob" else None
        if len(calls) == 1:
            written.chmod(0o644)
            with written.open("r+b") as file:
                file.write(b"newer")
        return made or do(*given, **named)

    monkeypatch.setattr(owner, name, write)
    result = care("adopt", "--dedupe", "--no-dry-run", str(bench.folder / "comfy"), str(bench.folder / "a1111"))
    assert result.code == 0, result.err
    assert written.read_bytes() == b"newer" + DATA[5:]
    assert other.read_bytes() == DATA
    assert not list(replaced.parent.glob(".modelfetch*"))


@pytest.mark.parametrize("shares", [False, True])
def test_a_folder_that_becomes_a_link_meanwhile_leads_nowhere(
    bench: Bench,
    care: Callable[..., Result],
    twins: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    *,
    shares: bool,
) -> None:
    make, folder = dedupe._make, max(twins).parent
    elsewhere = bench.folder / "elsewhere"
    elsewhere.mkdir()

    def move_first(*given: object) -> str | None:
        folder.rename(folder.with_name("moved"))
        folder.symlink_to(elsewhere)
        return make(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(dedupe, "_make", move_first)
    if shares:
        monkeypatch.setattr(fs, "clone_descriptor", clone)
    care("adopt", "--dedupe", "--no-dry-run", str(bench.folder / "comfy"), str(bench.folder / "a1111"))
    assert list(elsewhere.iterdir()) == []
    assert (folder.with_name("moved") / max(twins).name).read_bytes() == DATA


@pytest.mark.parametrize("at", first(1, ["chown", "chmod", "utime"]))
def test_no_other_file_gets_the_mode_owner_or_time_of_a_reflink_that_became_a_link(
    bench: Bench, care: Callable[..., Result], twins: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """As root, where the owner of the folder could name any file."""
    victim = bench.folder / "victim"
    victim.write_bytes(b"private")
    victim.chmod(0o600)
    before, change = state(victim), getattr(os, at)

    def swap_first(*given: Any, **named: Any) -> None:
        for path in bench.folder.rglob(".modelfetch-dedupe-*"):
            path.unlink()
            path.symlink_to(victim)
        change(*given, **named)

    monkeypatch.setattr(fs, "clone_descriptor", clone)
    monkeypatch.setattr(os, at, swap_first)
    care("adopt", "--dedupe", "--no-dry-run", str(bench.folder / "comfy"), str(bench.folder / "a1111"))
    assert state(victim) == before


def test_leftovers_of_a_killed_run_are_removed_only_if_their_bytes_are_kept(
    bench: Bench, care: Callable[..., Result], twins: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = 2**22 + 1  # no process has this number
    known, unknown, empty = (twins[0].with_name(f".modelfetch-dedupe-{dead}-{n}.old") for n in ("0a", "0b", "0c"))
    same_pid = twins[0].with_name(f".modelfetch-dedupe-{os.getpid()}-0d.old")  # as in the next run of a container
    in_use = twins[0].with_name(f".modelfetch-dedupe-{os.getppid()}-0e.old")
    for path in (known, same_pid, in_use):
        path.write_bytes(DATA)
    empty.touch()
    unknown.write_bytes(b"newer")
    words = ["adopt", "--dedupe", "--no-dry-run", str(bench.folder / "comfy"), str(bench.folder / "a1111")]
    care(*words)
    result = care(*words)
    assert result.code == 0, result.err
    assert not any(path.exists() for path in (known, empty, same_pid))
    assert in_use.exists()
    later = time.time() + 4000
    monkeypatch.setattr(time, "time", lambda: later)
    care(*words)
    assert not in_use.exists()
    assert unknown.read_bytes() == b"newer"
    assert result.report["models"][0]["artifacts"][0]["action"] == "skipped"


def test_dedupe_in_place_is_wrong_usage(care: Callable[..., Result], tmp_path: Path) -> None:
    assert care("adopt", "--dedupe", "--in-place", str(tmp_path)).code == 2


def test_a_folder_whose_program_may_rewrite_its_files_is_refused(bench: Bench, care: Callable[..., Result]) -> None:
    (bench.folder / "immich/facial-recognition").mkdir(parents=True)
    result = care("adopt", "--dedupe", "--no-dry-run", str(bench.folder / "immich"))
    assert (result.code, result.codes()) == (2, ["usage"])


def test_every_hardlink_of_a_file_is_replaced_and_its_bytes_count_once(
    bench: Bench, care: Callable[..., Result], twins: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = twins
    more = two.with_name("more.safetensors")
    more.hardlink_to(two)
    two.with_name("symlink.safetensors").symlink_to(two.name)
    folders = [str(bench.folder / "comfy"), str(bench.folder / "a1111")]
    for words, text in ((["--dry-run"], "would be freed"), (["--no-dry-run"], "freed")):
        capsys.readouterr()
        assert run(["adopt", "--dedupe", *words, *folders, "--root", str(bench.root)]) == 0
        assert f"2.0 MiB {text}" in capsys.readouterr().out
    assert one.samefile(two)
    assert one.samefile(more)
    assert care("adopt", "--dedupe", *folders).report["models"] == []


@pytest.mark.parametrize("whole", first(1, [False, True]))
def test_a_file_outside_of_the_named_folders_is_neither_replaced_nor_kept_for_others(
    bench: Bench, care: Callable[..., Result], twins: tuple[Path, Path], *, whole: bool
) -> None:
    """A link, to the file or to its folder, may lead to the models of a program that rewrites them."""
    outside = bench.folder / "a program" / "model.safetensors"
    outside.parent.mkdir()
    outside.write_bytes(DATA)
    outside.chmod(0o640)
    link = twins[0].parent / ("linked" if whole else "linked.safetensors")
    link.symlink_to(outside.parent if whole else outside)
    before = state(outside)
    result = care("adopt", "--dedupe", "--no-dry-run", str(bench.folder / "comfy"), str(bench.folder / "a1111"))
    assert result.code == 0, result.err
    assert "outside of the named folders: 1" in result.err
    assert twins[0].samefile(twins[1])
    assert (state(outside), outside.stat().st_nlink) == (before, 1)


def test_a_file_with_a_link_elsewhere_frees_nothing(
    bench: Bench, twins: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (bench.folder / "elsewhere").hardlink_to(twins[0])  # the one in the other folder comes first and stays
    folders = [str(bench.folder / "comfy"), str(bench.folder / "a1111")]
    capsys.readouterr()
    assert run(["adopt", "--dedupe", "--no-dry-run", *folders, "--root", str(bench.root)]) == 0
    assert "0 B freed" in capsys.readouterr().out
