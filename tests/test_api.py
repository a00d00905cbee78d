"""The Python API."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import inspect
import json
import os
import stat
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import modelfetch
from modelfetch.cli.app import run
from modelfetch.config.options import PARSERS, TransferValues
from modelfetch.core import directories
from modelfetch.core.cancel import Cancel
from modelfetch.demo import models as made
from modelfetch.demo.hub import Hub
from modelfetch.demo.world import World
from modelfetch.errors import RetryLaterError
from modelfetch.store import Store
from modelfetch.store.locks.gate import removing
from modelfetch.store.locks.lock import lock
from modelfetch.transfer import Engine
from tests import interpreter
from tests.cases import each
from tests.faults import Stall
from tests.store.test_store import obstruct

if TYPE_CHECKING:
    from collections.abc import Iterator

VAE = bytes(made.vae().read(0, made.vae().size))
DIGEST = "sha256:" + hashlib.sha256(VAE).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub(World()) as running:
        running.world.hf_repo("a/b", {"x.safetensors": made.vae()})
        running.world.file("x.safetensors", made.vae())
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.setenv("MODELFETCH_OLLAMA_REGISTRY", running.ollama)
        monkeypatch.setenv("MODELFETCH_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        yield running


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "m.yaml"
    entry = {"name": "vae", "kind": "vae", "source": "hf://a/b/x.safetensors", "for": ["comfyui"]}
    path.write_text(json.dumps({"version": 1, "tier": "t", "models": [entry]}))
    return path


@pytest.mark.usefixtures("hub")
def test_sync_returns_the_report(manifest: Path, tmp_path: Path) -> None:
    report = modelfetch.sync(manifest=manifest, root=tmp_path / "models")
    assert report.raise_for_error() is report
    assert (tmp_path / "models/comfyui/models/vae/x.safetensors").read_bytes() == VAE
    assert json.loads(json.dumps(report.as_dict()))["models"][0]["ok"] is True


@pytest.mark.usefixtures("hub")
def test_sync_reports_failures_and_raises_them_on_request(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nmodels: [{name: x}]\n")
    report = modelfetch.sync(manifest=bad, root=tmp_path / "models")
    assert (report.ok, report.exit_code, report.models) == (False, 78, ())
    with pytest.raises(modelfetch.ModelfetchError) as raised:
        report.raise_for_error()
    assert raised.value.exit_code == 78


@pytest.mark.usefixtures("hub")
def test_sync_works_where_a_loop_is_running(manifest: Path, tmp_path: Path) -> None:
    async def cell() -> modelfetch.Report:
        return modelfetch.sync(manifest=manifest, root=tmp_path / "models")

    assert asyncio.run(cell()).ok


def test_sync_async_never_blocks_the_callers_loop(hub: Hub, manifest: Path, tmp_path: Path) -> None:
    hub.faults.add("*", Stall(seconds=0.5), origin="cdn")

    async def main() -> float:
        worst, last = 0.0, time.monotonic()

        async def tick() -> None:
            nonlocal worst, last
            while True:
                await asyncio.sleep(0.01)
                now = time.monotonic()
                worst, last = max(worst, now - last), now

        ticking = asyncio.create_task(tick())
        assert (await modelfetch.sync_async(manifest=manifest, root=tmp_path / "models")).ok
        ticking.cancel()
        return worst

    assert asyncio.run(main()) < 0.4


@pytest.mark.usefixtures("hub")
def test_a_cancelled_task_ends_and_the_next_run_finishes(manifest: Path, tmp_path: Path, hub: Hub) -> None:
    hub.faults.add("*", Stall(seconds=20), origin="cdn")

    async def main() -> float:
        task = asyncio.create_task(modelfetch.sync_async(manifest=manifest, root=tmp_path / "models"))
        await asyncio.sleep(0.6)
        start = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - start

    assert asyncio.run(main()) < 5
    assert modelfetch.sync(manifest=manifest, root=tmp_path / "models").ok


@each(
    ("call", "text"),
    [
        ("sync(tear='8g')", r"sync\(\) has no option 'tear'; did you mean 'tier'\?"),
        ("plan(job=2)", r"plan\(\) has no option 'job'; did you mean 'jobs'\?"),
        ("adopt('.', colour='blue')", r"adopt\(\) has no option 'colour'; help\(modelfetch.adopt\)"),
        ("pin('m.yaml', min_free=1)", r"pin\(\) has no option 'min_free'"),
        ("retrieve('hf://a/b/c', ofline=True)", r"retrieve\(\) has no option 'ofline'; did you mean 'offline'\?"),
        ("status(manifest=5)", r"status\(manifest=5\): expected a manifest file's path, or a list of them"),
        ("sync(manifest='version: 1\\nmodels: []')", r"sync\(manifest=.*\): expected a manifest file's path"),
        ("fit(manifest=[5])", r"fit\(manifest=\[5\]\): expected a manifest"),
        ("verify(tier=8)", r"verify\(tier=8\): expected a tier's name"),
        ("sync(progress='bar')", r"sync\(progress='bar'\): expected True, False, or a function"),
        ("prune(cancel=True)", r"prune\(cancel=True\): expected a modelfetch.Cancel"),
        ("sync('m.yaml')", r"sync\('m.yaml'\): name this argument, such as manifest="),
        ("retrieve('hf://a/b/c', None, True)", r"retrieve\(True\): name this argument"),
        ("retrieve(None)", r"retrieve\(uri=None\): expected a URI as text"),
        ("fit(5)", r"fit\(uri=5\): expected a URI as text"),
        ("pin(None)", r"pin\(manifest=None\): expected a manifest file's path"),
    ],
)
def test_an_unknown_option_or_an_argument_of_the_wrong_type_is_a_type_error_that_names_it(call: str, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        eval(f"modelfetch.{call}")  # noqa: S307 - the calls are those above


@each(
    ("call", "text"),
    [
        ("verify(models='nothing')", "no model 'nothing' was placed in"),
        ("prune(keep_tiers='nothing')", "there is no tier 'nothing'"),
        ("remove('x', keep_tiers='nothing')", "there is no tier 'nothing'"),
        ("add('file:///x.gguf', consumers='nothing')", "unknown consumer 'nothing'"),
        ("pin('nothing.yaml', upgrade='x')", "nothing.yaml: no such file"),
        ("remove()", "no model was named"),
        ("remove([])", "no model was named"),
        ("adopt()", "no folder was named"),
    ],
)
def test_one_text_is_taken_for_a_list_of_texts_and_an_empty_list_is_refused(
    call: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files/ai-models").mkdir(parents=True, exist_ok=True)
    report = eval(f"modelfetch.{call}")  # noqa: S307 - the calls are those above
    assert [error.message.startswith(text) for error in report.errors] == [True], report.errors


def test_a_tier_and_a_manifest_together_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="not both"):
        modelfetch.sync(tier="8g", manifest="x.yaml")


def test_options_are_written_as_on_the_command_line(hub: Hub, manifest: Path, tmp_path: Path) -> None:
    spelled: tuple[dict[str, Any], ...] = (
        {"limit_rate": "50MB", "chown": f"{os.getuid()}:{os.getgid()}"},
        {"limit_rate": 50_000_000, "consumers": "comfyui", "lock_timeout": 5},
        {"for_": ["comfyui"], "store": str(tmp_path / "store"), "retries": 0, "keep_going": True},
    )
    for number, options in enumerate(spelled):
        report = modelfetch.sync(manifest=manifest, root=str(tmp_path / f"{number}"), **options)
        assert report.ok, report.errors


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("consumers", ["nobody"]),
        ("for_", "nobody"),
        ("jobs", 0),
        ("jobs", "many"),
        ("connections", True),
        ("retries", -1),
        ("limit_rate", "fast"),
        ("limit_rate", 0),
        ("lock_timeout", -1),
        ("chown", "me"),
        ("chown", (1, 2, 3)),
        ("offline", "yes"),
        ("root", 5),
    ],
)
def test_a_value_that_an_option_can_not_have_is_reported_and_nothing_is_done(
    option: str, value: Any, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = modelfetch.sync(manifest=manifest, **{option: value})
    assert (report.ok, report.exit_code, report.models) == (False, 2, ())
    assert option.replace("for_", "consumers") in report.errors[0].message
    assert not (tmp_path / "files").exists()


def test_the_same_manifest_named_twice_counts_once(hub: Hub, manifest: Path, tmp_path: Path) -> None:
    assert len(modelfetch.sync(manifest=[manifest, manifest], root=tmp_path / "models").models) == 1


def test_retrieve_fetches_once_and_then_sends_no_request(hub: Hub, tmp_path: Path) -> None:
    path = modelfetch.retrieve(f"{hub.files}x.safetensors")
    assert path.name == "x.safetensors"
    assert path.is_relative_to(tmp_path / "cache")
    assert path.read_bytes() == VAE
    mark = hub.log.mark()
    assert modelfetch.retrieve(f"{hub.files}x.safetensors") == path
    assert modelfetch.retrieve(f"{hub.files}x.safetensors", DIGEST) == path
    assert hub.log.since(mark) == []


def test_retrieve_takes_any_uri_and_a_digest(hub: Hub) -> None:
    assert modelfetch.retrieve("hf://a/b/x.safetensors", modelfetch.Digest.parse(DIGEST)).read_bytes() == VAE
    with pytest.raises(modelfetch.IntegrityError):
        modelfetch.retrieve(f"{hub.files}x.safetensors", "sha256:" + "0" * 64)
    with pytest.raises(modelfetch.UsageError):
        modelfetch.retrieve("hf://a/b")
    with pytest.raises(modelfetch.NotFoundError):
        modelfetch.retrieve(f"{hub.files}none.safetensors")
    with pytest.raises(ValueError, match="sha256"):
        modelfetch.retrieve(f"{hub.files}x.safetensors", "md5:00")


def test_the_traceback_of_an_error_shows_no_other_one() -> None:
    with pytest.raises(modelfetch.UsageError) as usage:
        modelfetch.retrieve("hf://a/b")
    with pytest.raises(TypeError) as wrong:
        modelfetch.sync(tier="8g", manifest="x.yaml")
    assert "no running event loop" not in "".join(traceback.format_exception(usage.value))
    assert "no running event loop" not in "".join(traceback.format_exception(wrong.value))


def test_a_file_that_was_changed_in_the_cache_is_fetched_again(hub: Hub) -> None:
    path = modelfetch.retrieve(f"{hub.files}x.safetensors", DIGEST)
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    assert modelfetch.retrieve(f"{hub.files}x.safetensors", DIGEST).read_bytes() == VAE


def test_fetch_prints_the_path_in_the_cache(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fetch", f"{hub.files}x.safetensors", "-q"]) == 0
    printed = Path(capsys.readouterr().out.strip())
    assert printed == modelfetch.retrieve(f"{hub.files}x.safetensors")


@pytest.mark.parametrize(
    ("words", "folder"),
    [((), "cache/.modelfetch"), (("-o", "x.bin", "--store", "store"), "store")],
    ids=["into the cache", "to a path, with a store"],
)
def test_no_file_is_removed_while_one_is_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], folder: str
) -> None:
    locks = tmp_path / folder / "locks"
    locks.mkdir(parents=True)
    fetch = Engine.fetch
    refused: list[str] = []

    async def fetch_and_try_to_remove(*arguments: Any, **options: Any) -> Any:
        try:
            with removing([locks], timeout=0, cancel=Cancel()):
                pass
        except RetryLaterError as error:
            refused.append(error.code)
        return await fetch(*arguments, **options)

    monkeypatch.setattr(Engine, "fetch", fetch_and_try_to_remove)
    assert run(["fetch", f"{hub.files}x.safetensors", *words]) == 0
    assert refused == ["lock-timeout"]
    with removing([locks], timeout=0, cancel=Cancel()):
        pass  # afterwards it is possible


def test_fetch_to_a_path_makes_an_ordinary_file_and_leaves_nothing_else(hub: Hub, tmp_path: Path) -> None:
    target = tmp_path / "out" / "here.safetensors"
    before = os.umask(0o027)
    try:
        assert run(["fetch", f"{hub.files}x.safetensors", "-o", str(target), "--digest", DIGEST]) == 0
    finally:
        os.umask(before)
    assert target.read_bytes() == VAE
    assert (stat.S_IMODE(target.stat().st_mode), target.stat().st_nlink) == (0o640, 1)
    assert [p.name for p in target.parent.iterdir()] == ["here.safetensors"]
    mark = hub.log.mark()
    assert run(["fetch", f"{hub.files}x.safetensors", "-o", str(target), "--digest", DIGEST]) == 0
    assert hub.log.since(mark) == []


def test_a_disk_that_fails_after_a_fetched_file_has_its_name_is_named(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"

    def fail(folder: Path) -> None:
        if folder == tmp_path:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder))

    monkeypatch.setattr(directories, "sync_directory", fail)
    assert run(["fetch", f"{hub.files}x.safetensors", "-o", str(target), "--digest", DIGEST]) == 74
    assert "Input/output error" in capsys.readouterr().err
    assert target.read_bytes() == VAE
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("inside", ["notes.txt", "blobs/mine", "CACHEDIR.TAG", "ingest/0.part"])
def test_fetch_to_a_path_keeps_a_folder_that_has_the_name_of_its_temporary_one(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], inside: str
) -> None:
    mine = tmp_path / ".out.modelfetch" / inside
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert run(["fetch", f"{hub.files}x.safetensors", "-o", str(tmp_path / "out"), "--retries", "0"]) == 73
    assert ".out.modelfetch" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    assert not (tmp_path / "out").exists()


def test_fetch_to_a_path_resumes_in_the_temporary_folder_of_a_failed_run(hub: Hub, tmp_path: Path) -> None:
    target = tmp_path / "out"
    Store(tmp_path / ".out.modelfetch").folder("ingest")
    (tmp_path / ".out.modelfetch" / "mine").write_text("mine")
    assert run(["fetch", f"{hub.files}x.safetensors", "-o", str(target)]) == 0
    assert target.read_bytes() == VAE
    assert (tmp_path / ".out.modelfetch" / "mine").read_text() == "mine"


@pytest.mark.parametrize("inside", ["blobs/mine.txt", "blobs/sha256/ab/mine", "ingest/mine.part", "locks/mine", "mine"])
def test_fetch_to_a_path_keeps_files_in_its_temporary_folder_that_it_did_not_make(
    hub: Hub, tmp_path: Path, inside: str
) -> None:
    work = Store(tmp_path / ".out.modelfetch")
    (work.folder("ingest") / f"{'a' * 64}.part").write_text("left by a killed run")
    mine = work.path / inside
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    assert run(["fetch", f"{hub.files}x.safetensors", "-o", str(tmp_path / "out")]) == 0
    assert {path for path in work.path.rglob("*") if path.is_file()} == {mine, work.path / "CACHEDIR.TAG"}
    assert run(["fetch", f"{hub.files}x.safetensors", "-o", str(tmp_path / "out"), "--refresh"]) == 0


def test_a_fetch_to_a_path_waits_for_another_one_to_the_same_path(hub: Hub, tmp_path: Path) -> None:
    work = Store(tmp_path / ".out.modelfetch")
    part = work.folder("ingest") / f"{'a' * 64}.part"
    part.write_text("of the other process")
    words = ["fetch", f"{hub.files}x.safetensors", "-o", str(tmp_path / "out")]
    with lock(work.folder("locks") / "output.lock", label="the other process"):
        assert run([*words, "--lock-timeout", "0"]) == 75
        assert part.exists()
    assert run(words) == 0
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["out"]


@pytest.mark.parametrize("kind", ["FIFO", "folder", "link", "huge file", "garbage"])
def test_an_unreadable_cache_record_does_not_block(hub: Hub, kind: str) -> None:
    uri = f"{hub.files}x.safetensors"
    path = modelfetch.retrieve(uri)
    note = next((path.parents[2] / "index").iterdir())
    if kind == "garbage":
        note.write_bytes(b"[" * 100_000)
    else:
        obstruct(note, kind)
    if kind in ("FIFO", "folder", "link"):  # nothing can be noted there
        with pytest.raises(modelfetch.ModelfetchError) as caught:
            modelfetch.retrieve(uri)
        assert caught.value.exit_code == 73
    else:
        assert modelfetch.retrieve(uri) == path


def test_fetch_to_a_path_with_a_store_keeps_a_separate_blob(hub: Hub, tmp_path: Path) -> None:
    target = tmp_path / "here.safetensors"
    assert run(["fetch", f"{hub.files}x.safetensors", "-o", str(target), "--store", str(tmp_path / "store")]) == 0
    blob = tmp_path / "store/blobs/sha256" / DIGEST[7:9] / DIGEST[7:]
    assert blob.read_bytes() == VAE
    assert not target.samefile(blob)
    target.write_bytes(b"mine")
    assert blob.read_bytes() == VAE


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["nonsense"], 2),
        (["hf://a/b"], 2),
        (["hf://a/b/x.safetensors", "--digest", "md5:1"], 2),
        (["http://plain.example/x"], 78),
        (["hf://a/none/x.safetensors"], 77),
        (["hf://a/b/none.safetensors"], 66),
        (["hf://a/b/x.safetensors", "--digest", "sha256:" + "0" * 64], 65),
        (["hf://a/b/x.safetensors", "--offline"], 69),
        (["hf://a/b/x.safetensors", "-o", "."], 73),
    ],
)
@pytest.mark.usefixtures("hub")
def test_fetch_fails_with_its_exit_code_and_a_line(
    words: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["fetch", *words, "--retries", "0"]) == code
    err = capsys.readouterr().err
    assert "error: " in err
    assert "hint: " in err
    assert "Traceback" not in err


def test_load_manifest_takes_a_path_or_a_text(manifest: Path) -> None:
    assert modelfetch.load_manifest(manifest).models[0].name == "vae"
    assert modelfetch.load_manifest(str(manifest)).tier == "t"
    assert modelfetch.load_manifest(manifest.read_text() + "\n").tier == "t"
    with pytest.raises(modelfetch.ManifestError) as bad:
        modelfetch.load_manifest("version: 3\nmodels: 7\n")
    assert len(bad.value.problems) == 2


def test_load_manifest_follows_the_settings_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "version: 1\nmodels:\n  - {name: h, kind: vae, source: 'http://models.lan/x.safetensors', for: [comfyui]}\n"
    with pytest.raises(modelfetch.ManifestError, match=r"http://models\.lan"):
        modelfetch.load_manifest(text)
    monkeypatch.setenv("MODELFETCH_ALLOW_HTTP", "models.lan")
    assert modelfetch.load_manifest(text).models[0].name == "h"
    (tmp_path / "mine.yaml").write_text("version: 1\ntier: mine\nmodels: []\n")
    monkeypatch.setenv("MODELFETCH_TIERS_DIR", str(tmp_path))
    assert modelfetch.load_manifest("version: 1\nextends: mine\n").tier == "mine"


def test_every_error_has_a_code_an_exit_code_and_permanence() -> None:
    for name in modelfetch.__all__:
        kind = getattr(modelfetch, name)
        if inspect.isclass(kind) and issubclass(kind, modelfetch.ModelfetchError):
            error = kind([]) if kind is modelfetch.ManifestError else kind("x")
            assert error.code
            assert error.exit_code
            assert error.permanent in (True, False)


def test_no_module_takes_the_place_of_a_public_name() -> None:
    """A submodule that is imported becomes an attribute of its package, and would hide a function of its name."""
    code = (
        "import sys, modelfetch\n"
        "print(len([name for name in sys.modules if name.startswith('modelfetch.')]))\n"
        "print([name for name in modelfetch.__all__ if type(getattr(modelfetch, name)).__name__ == 'module'])\n"
    )
    imported, hidden = interpreter.run("-c", code).stdout.splitlines()  # in a process that has imported every module
    assert int(imported) > 100
    assert hidden == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="frobnicate"):
        modelfetch.frobnicate  # type: ignore[attr-defined]  # noqa: B018
    assert {name for name in dir(modelfetch) if not name.startswith("__")} == set(modelfetch.__all__)


@each("name", ["sync", "plan", "status", "verify", "remove", "prune", "adopt", "pin", "add", "fit", "retrieve"])
def test_every_function_is_documented_and_has_an_async_form_with_the_same_parameters(name: str) -> None:
    blocking, other = getattr(modelfetch, name), getattr(modelfetch, f"{name}_async")
    assert inspect.getdoc(blocking)
    assert inspect.getdoc(other)
    assert inspect.iscoroutinefunction(other)
    parameters = inspect.signature(blocking).parameters
    assert parameters == inspect.signature(other).parameters
    assert {"cancel", "jobs", "retries", "offline"} <= set(parameters)
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    assert not inspect.iscoroutinefunction(blocking)
    assert (blocking.__name__, blocking.__doc__) == (name, other.__doc__)


def test_every_option_has_a_parser_and_a_line_of_documentation() -> None:
    kinds = (modelfetch.OptionValues, modelfetch.PinValues, modelfetch.FetchValues, TransferValues)
    for kind in kinds:
        own = set(kind.__annotations__)
        inherited = set(TransferValues.__annotations__) if kind is not TransferValues else set()
        doc = inspect.getdoc(kind) or ""
        assert {name for name in own - inherited if f"{name}:" not in doc} == set()
        assert own - {"for_"} <= set(PARSERS)


@pytest.mark.usefixtures("hub")
def test_plan_status_and_sync_agree_on_a_manifest(manifest: Path, tmp_path: Path) -> None:
    root = tmp_path / "models"
    planned = modelfetch.plan(manifest=manifest, root=root)
    assert [a.action for m in planned.models for a in m.artifacts] == ["would-fetch"]
    assert modelfetch.status(manifest=manifest, root=root).exit_code == 1
    assert modelfetch.sync(manifest=str(manifest), root=root).ok
    assert modelfetch.status(manifest=[manifest], root=root).ok
    assert modelfetch.plan(manifest=manifest, root=root).requests == 0


@pytest.mark.usefixtures("hub")
def test_pin_writes_the_file_and_check_does_not(manifest: Path) -> None:
    before = manifest.read_text()
    checked = modelfetch.pin(manifest, check=True)
    assert checked.exit_code == 1, checked.errors
    assert manifest.read_text() == before
    assert modelfetch.pin(manifest, jobs=2).ok
    assert modelfetch.load_manifest(manifest).models[0].digest == modelfetch.Digest.parse(DIGEST)
    assert modelfetch.pin(str(manifest), upgrade="nothing-of-this-name").exit_code == 2


@pytest.mark.usefixtures("hub")
def test_sync_prunes_and_adopt_deduplicates_on_request(manifest: Path, tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "other.yaml"
    placed = modelfetch.sync(manifest=manifest, root=root).models[0].artifacts[0].placements[0]
    other.write_text("version: 1\nmodels: []\n")
    assert modelfetch.sync(manifest=other, root=root, prune=True).ok
    assert not (root / placed).exists()
    collection = tmp_path / "collection"
    checkpoints = collection / "models/checkpoints"
    checkpoints.mkdir(parents=True)
    for name in ("a.bin", "b.bin"):
        (checkpoints / name).write_bytes(b"\6" * 200_000)
    for dry_run, links in ((None, 1), (False, 3)):  # the third is the blob of the store
        assert modelfetch.adopt(collection, dedupe=True, dry_run=dry_run, root=root).ok
        assert (checkpoints / "a.bin").stat().st_nlink in (1, links)  # 1 after a reflink


@each("name", ["sync", "plan", "status", "verify", "prune", "remove", "adopt", "add", "pin", "fit"])
def test_every_call_takes_progress_and_cancel(name: str) -> None:
    assert {"progress", "cancel"} <= set(inspect.signature(getattr(modelfetch, name)).parameters)


@pytest.mark.usefixtures("hub")
def test_fit_takes_a_uri_or_a_manifest(manifest: Path) -> None:
    alone = modelfetch.fit("hf://a/b/x.safetensors", usable="24GiB")
    assert [error.code for error in alone.errors] == ["unknown-model"]  # a VAE makes no images by itself
    assert (alone.exit_code, alone.usable) == (1, 24 * 2**30)
    assert modelfetch.fit(manifest=manifest).tier == "t"
    assert modelfetch.fit("hf://a/b/none.safetensors", retries=0).exit_code == 66
    assert modelfetch.fit(manifest=manifest, kv_type="f64").exit_code == 2
    with pytest.raises(TypeError, match="one of"):
        modelfetch.fit("hf://a/b/x.safetensors", manifest=manifest)


def test_an_invalid_manifest_is_reported_with_its_problems(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 3\nmodels: 7\n")
    report = modelfetch.plan(manifest=bad, root=tmp_path / "models")
    (error,) = report.errors
    assert isinstance(error, modelfetch.ManifestError)
    assert [problem.line for problem in error.problems] == [1, 2]
    assert len(report.as_dict()["errors"]) == 2
    with pytest.raises(modelfetch.ManifestError) as raised:
        report.raise_for_error()
    assert len(raised.value.problems) == 2


@pytest.mark.usefixtures("hub")
def test_a_callable_gets_the_events_and_true_shows_them(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[modelfetch.Event] = []
    assert modelfetch.sync(manifest=manifest, root=tmp_path / "one", progress=seen.append).ok
    kinds = {type(event) for event in seen}
    assert {modelfetch.Planned, modelfetch.TransferStarted, modelfetch.TransferFinished, modelfetch.Placed} <= kinds
    assert capsys.readouterr().err == ""
    assert modelfetch.sync(manifest=manifest, root=tmp_path / "two", progress=True).ok
    assert "1 file to download" in capsys.readouterr().err


@pytest.mark.usefixtures("hub")
def test_an_exception_of_a_callback_ends_the_call_and_is_raised(manifest: Path, tmp_path: Path) -> None:
    def broken(event: modelfetch.Event) -> None:
        raise ZeroDivisionError(type(event).__name__)

    with pytest.raises(ZeroDivisionError):
        modelfetch.sync(manifest=manifest, root=tmp_path / "models", progress=broken)
    assert modelfetch.sync(manifest=manifest, root=tmp_path / "models").ok
    with pytest.raises(ZeroDivisionError):
        modelfetch.retrieve("hf://a/b/x.safetensors", progress=broken)


@pytest.mark.usefixtures("hub")
def test_a_finished_call_no_longer_follows_its_flag(manifest: Path, tmp_path: Path) -> None:
    flag, followers = modelfetch.Cancel(), list[Callable[[], object]]()
    register = flag.on_cancel

    def on_cancel(callback: Callable[[], object]) -> Callable[[], None]:
        unregister = register(callback)
        followers.append(callback)

        def leave() -> None:
            followers.remove(callback)
            unregister()

        return leave

    flag.on_cancel = on_cancel  # type: ignore[method-assign]
    assert modelfetch.sync(manifest=manifest, root=tmp_path / "models", cancel=flag).ok
    assert followers == []


def test_a_sync_in_a_thread_is_cancelled_from_another(hub: Hub, manifest: Path, tmp_path: Path) -> None:
    hub.faults.add("*", Stall(seconds=20), origin="cdn")
    cancel = modelfetch.Cancel()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(modelfetch.sync, manifest=manifest, root=tmp_path / "models", cancel=cancel)
        time.sleep(0.6)
        start = time.monotonic()
        cancel.set()
        report = running.result(timeout=10)
    assert time.monotonic() - start < 5
    assert (report.ok, report.exit_code, report.errors[0].code) == (False, 130, "interrupted")
    assert modelfetch.sync(manifest=manifest, root=tmp_path / "models").ok


@pytest.mark.parametrize("call", ["plan", "retrieve", "pin", "fit"])
def test_every_call_that_waits_for_a_server_is_cancelled(call: str, hub: Hub, manifest: Path, tmp_path: Path) -> None:
    hub.faults.add("*", Stall(seconds=20))
    cancel = modelfetch.Cancel()
    calls: dict[str, Callable[[], Any]] = {
        "plan": lambda: modelfetch.plan(manifest=manifest, root=tmp_path / "models", cancel=cancel).exit_code,
        "retrieve": lambda: modelfetch.retrieve(f"{hub.files}x.safetensors", cancel=cancel),
        "pin": lambda: modelfetch.pin(manifest, cancel=cancel).exit_code,
        "fit": lambda: modelfetch.fit(manifest=manifest, root=tmp_path / "models", cancel=cancel).exit_code,
    }
    timer = threading.Timer(0.5, cancel.set)
    timer.start()
    start = time.monotonic()
    try:
        code = calls[call]()
    except modelfetch.InterruptedSync as error:
        code = error.exit_code
    assert code == 130
    assert time.monotonic() - start < 5
