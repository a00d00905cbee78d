"""A consumer's folder outside ROOT, named on purpose and recorded."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.cli.app import run
from modelfetch.demo import models as made
from modelfetch.placement.consumer_dirs import consumer_dir_file, read_consumer_dirs, record_consumer_dirs
from tests.care.conftest import actions
from tests.care.conftest import care as care  # noqa: PLC0414 - the fixture
from tests.damage import flip
from tests.pipeline.conftest import bench as bench  # noqa: PLC0414 - the fixture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.pipeline.conftest import Bench, Result

ART = "comfyui/models/vae/art.safetensors"
MINE = "comfyui/models/vae/mine.safetensors"


def vae(bench: Bench) -> dict[str, Any]:
    bench.world.hf_repo("acme/art", {"art.safetensors": made.vae()})
    return {"name": "art", "kind": "vae", "source": "hf://acme/art/art.safetensors", "for": ["comfyui"]}


@pytest.fixture
def installed(bench: Bench) -> Path:
    folder = bench.folder / "ComfyUI"
    (folder / "models/vae").mkdir(parents=True)
    (folder / "models/vae/mine.safetensors").write_bytes(b"precious")
    return folder


@pytest.mark.parametrize("written", ["ComfyUI", "ComfyUI/models", "~/ComfyUI", "variable"])
def test_an_existing_installation_is_filled(
    bench: Bench, installed: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setenv("HOME", str(bench.folder))
    entry = vae(bench)
    options = ("--consumer-dir", f"comfyui={written}")
    if written == "variable":
        monkeypatch.setenv("MODELFETCH_CONSUMER_DIR", "comfyui=ComfyUI")
        options = ()  # type: ignore[assignment]
    manifest = bench.manifest(entry)
    assert bench.run("sync", manifest, *options).code == 0
    assert sorted(p.name for p in (installed / "models/vae").iterdir()) == ["art.safetensors", "mine.safetensors"]
    assert not (bench.root / "comfyui").exists()
    again = bench.run("sync", manifest, *options)
    assert (again.code, again.report["requests"]) == (0, 0)
    for command in ("status", "verify"):
        assert bench.run(command, manifest, *options).code == 0, command
    (installed / "models/vae/art.safetensors").unlink()
    assert bench.run("status", manifest, *options).code == 1
    assert bench.run("sync", manifest, *options).code == 0


def test_a_subfolder_that_links_outside_is_refused(bench: Bench, installed: Path) -> None:
    (bench.folder / "outside").mkdir()
    (installed / "models/vae/mine.safetensors").unlink()
    (installed / "models/vae").rmdir()
    (installed / "models/vae").symlink_to(bench.folder / "outside")
    result = bench.sync(vae(bench), options=("--consumer-dir", f"comfyui={installed}"))
    assert result.codes() == ["outside-root"]
    assert not list((bench.folder / "outside").iterdir())


def test_the_hint_for_a_folder_that_links_outside_names_it_on_purpose(bench: Bench, installed: Path) -> None:
    bench.root.mkdir()
    (bench.root / "comfyui").symlink_to(installed)
    refused = bench.sync(vae(bench))
    assert refused.codes() == ["outside-root"]
    option = refused.report["errors"][0]["hint"].rpartition("name it: ")[2]
    assert option == f"--consumer-dir comfyui={installed}"
    assert bench.sync(vae(bench), options=tuple(option.split())).code == 0


@pytest.mark.parametrize("value", ["comfyui", "nobody=/x", "comfyui=", "=x"])
def test_an_invalid_consumer_folder_is_a_usage_error(bench: Bench, value: str) -> None:
    assert bench.sync(vae(bench), options=("--consumer-dir", value)).code == 2


@pytest.fixture
def filled(bench: Bench, installed: Path) -> Path:
    """A manifest that was synced into the installation, whose folder no later command names."""
    manifest = bench.manifest(vae(bench))
    assert bench.run("sync", manifest, "--consumer-dir", f"comfyui={installed}").code == 0
    return manifest


def record(bench: Bench) -> Path:
    return consumer_dir_file(bench.root, "comfyui")


def folder_on_record(bench: Bench) -> Path | None:
    return next((found.folder for found in read_consumer_dirs(bench.root)), None)


def test_every_command_finds_the_recorded_folder(
    bench: Bench, installed: Path, filled: Path, care: Callable[..., Result]
) -> None:
    ours = installed / "models/vae/art.safetensors"
    before = ours.read_bytes()
    assert set(bench.run("plan", filled).actions().values()) == {"present"}
    assert bench.run("status", filled).code == 0
    assert {entry["path"] for entry in care("list").report["entries"]} == {ART, MINE}
    assert run(["list", "--root", str(bench.root)]) == 0
    assert f" in {installed}" in bench.capsys.readouterr().out.splitlines()[-1]
    assert actions(care("verify")) == {ART: "present"}
    page = bench.folder / "page.html"
    assert run(["report", str(filled), "--html", str(page), "--root", str(bench.root), "-q"]) == 0
    assert "missing" not in page.read_text().split("</style>")[1]
    flip(ours)
    assert actions(care("verify")) == {ART: "damaged"}
    assert bench.run("verify", filled, "--repair").code == 0
    assert ours.read_bytes() == before
    assert care("prune", str(filled)).report["models"] == []
    assert actions(care("remove", "art", "--dry-run")) == {ART: "would-remove"}
    assert care("remove", "art").code == 0
    assert [path.name for path in (installed / "models/vae").iterdir()] == ["mine.safetensors"]
    assert bench.run("sync", filled).code == 0
    assert ours.read_bytes() == before
    assert care("adopt", str(installed)).code == 0
    assert not (bench.root / "comfyui").exists()


def test_prune_removes_unrequested_files_from_the_recorded_folder(
    bench: Bench, installed: Path, filled: Path, care: Callable[..., Result]
) -> None:
    other = bench.manifest(tier="other")
    assert actions(care("prune", str(other))) == {ART: "removed"}
    assert [path.name for path in (installed / "models/vae").iterdir()] == ["mine.safetensors"]


def test_a_named_folder_overrides_the_recorded_one_with_a_notice(bench: Bench, installed: Path, filled: Path) -> None:
    other = bench.folder / "other"
    result = bench.run("status", filled, "--consumer-dir", f"comfyui={other}")
    assert (result.code, folder_on_record(bench)) == (1, installed)
    assert f"comfyui: using {other}, as named; the last sync filled {installed}" in result.err
    assert bench.run("sync", filled, "--consumer-dir", f"comfyui={other}").code == 0
    assert (other / "models/vae/art.safetensors").is_file()
    assert (installed / "models/vae/art.safetensors").is_file()
    again = bench.run("verify", filled)
    assert (again.code, "as named" in again.err, folder_on_record(bench)) == (0, False, other)


def test_the_folder_below_the_root_is_used_again_once_it_is_named(bench: Bench, filled: Path) -> None:
    assert bench.run("sync", filled, "--consumer-dir", f"comfyui={bench.root / 'comfyui'}").code == 0
    assert (bench.root / ART).is_file()
    assert not record(bench).exists()
    assert bench.run("status", filled).code == 0


def test_a_sync_of_other_services_records_nothing(bench: Bench, installed: Path) -> None:
    manifest = bench.manifest({**vae(bench), "for": ["stable-diffusion"]})
    assert bench.run("sync", manifest, "--consumer-dir", f"comfyui={installed}").code == 0
    assert folder_on_record(bench) is None


def test_a_sync_with_nothing_to_do_records_the_folder_too(bench: Bench, installed: Path, filled: Path) -> None:
    record(bench).unlink()  # an older version made this root
    for words in ((), ("--json",)):
        argv = ["sync", str(filled), "--root", str(bench.root), "--consumer-dir", f"comfyui={installed}", *words]
        assert run(argv) == 0
    assert folder_on_record(bench) == installed


def test_the_quick_no_op_notices_that_another_sync_filled_another_folder(
    bench: Bench, installed: Path, filled: Path
) -> None:
    words = ["sync", str(filled), "--root", str(bench.root), "-q"]
    assert run(words) == run(words) == 0
    other = bench.folder / "other"
    assert run([*words, "--consumer-dir", f"comfyui={other}"]) == 0
    shutil.rmtree(other)
    assert run(words) == 73


def test_a_missing_recorded_folder_stops_each_command(bench: Bench, installed: Path, filled: Path) -> None:
    gone = bench.folder / "unmounted"
    installed.rename(gone)
    page = str(bench.folder / "page.html")
    commands = [[name, str(filled)] for name in ("sync", "plan", "status", "verify", "prune")]
    commands += [["list"], ["remove", "art"], ["adopt", str(gone)], ["report", str(filled), "--html", page]]
    for command in commands:
        bench.capsys.readouterr()
        assert run([*command, "--root", str(bench.root)]) == 73, command
        assert f"comfyui was placed in {installed}, which does not exist" in "".join(bench.capsys.readouterr()), command
    assert not (bench.root / "comfyui").exists()


def test_fit_needs_no_recorded_folder(bench: Bench, installed: Path, filled: Path) -> None:
    codes = []
    for _ in range(2):
        codes.append(run(["fit", str(filled), "--root", str(bench.root), "--json"]))
        if installed.exists():
            installed.rename(bench.folder / "unmounted")
    assert codes[0] == codes[1] != 73


def test_other_services_work_while_the_recorded_folder_is_missing(
    bench: Bench, installed: Path, filled: Path, care: Callable[..., Result]
) -> None:
    installed.rename(bench.folder / "unmounted")
    assert care("verify", "--for", "ollama").code == 0
    assert care("prune", "--for", "ollama").code == 0
    (bench.folder / "unmounted").rename(installed)
    assert care("verify").code == 0


def test_a_missing_recorded_folder_without_placements_is_ignored(
    bench: Bench, installed: Path, filled: Path, care: Callable[..., Result]
) -> None:
    assert care("remove", "art").code == 0
    shutil.rmtree(installed)
    assert care("list").code == 0
    assert bench.run("sync", filled).code == 0
    assert (bench.root / ART).is_file()
    assert not record(bench).exists()


def test_a_folder_record_writable_by_others_is_ignored(
    bench: Bench, installed: Path, filled: Path, care: Callable[..., Result]
) -> None:
    file = record(bench)
    right = json.loads(file.read_text())

    def link() -> None:
        file.rename(file.with_name("elsewhere"))
        file.symlink_to("elsewhere")

    forgeries: dict[str, Callable[[], object]] = {
        "others can write it": lambda: file.chmod(0o666),
        "damaged": lambda: file.write_text("{"),
        "for another service": lambda: file.write_text(json.dumps({**right, "consumer": "ollama"})),
        "relative": lambda: file.write_text(json.dumps({**right, "folder": "ComfyUI"})),
        "a newer version's": lambda: file.write_text(json.dumps({**right, "version": 2})),
    }
    if os.geteuid() == 0:
        forgeries["of another user"] = lambda: os.chown(file, 1234, 1234)
    for name, forge in {**forgeries, "a link": link}.items():
        forge()
        for words in (("remove", "art"), ("prune",), ("verify", "--repair"), ("list",)):
            result = care(*words)
            assert (result.code, "consumer-dir-unknown" in result.out) == (73, True), (name, words)
        assert bench.run("sync", filled).codes() == ["consumer-dir-unknown"], name
        assert (installed / "models/vae/art.safetensors").is_file(), name
        assert not (bench.root / "comfyui").exists(), name
        named = bench.run("sync", filled, "--consumer-dir", f"comfyui={installed}")
        assert (named.code, "can't be recorded" in named.err) == (0, name == "a link"), name
        assert (care("verify").code == 0) is (name != "a link"), name


def test_a_folder_record_is_written_once_and_not_writable_by_others(bench: Bench) -> None:
    umask = os.umask(0)
    try:
        record_consumer_dirs(bench.root, {"comfyui": bench.folder, "ollama": None})
    finally:
        os.umask(umask)
    before = record(bench).stat()
    assert before.st_mode & 0o777 == 0o644
    record_consumer_dirs(bench.root, {"comfyui": bench.folder})
    assert record(bench).stat().st_ino == before.st_ino
    assert [found.consumer for found in read_consumer_dirs(bench.root)] == ["comfyui"]
