"""Unusual refusals of the system end in typed errors."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.care import adopt
from modelfetch.cli import main
from modelfetch.core import directories
from modelfetch.pipeline.output import Output
from modelfetch.store import Store
from modelfetch.transfer import Engine
from tests.cases import first
from tests.examples import examples

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Call = Callable[[list[str]], tuple[int, str]]

PROGRAM = [sys.executable, "-m", "modelfetch"]
COMMANDS = [
    ["sync", "--tier", "8g"],
    ["sync", "m.yaml"],
    ["plan", "--tier", "8g", "--offline"],
    ["status", "--tier", "8g"],
    ["status"],
    ["pin", "m.yaml"],
    ["fetch", "file:///x.json"],
    ["fetch", "file:///x.json", "-o", "y.json"],
    ["fit", "x.gguf"],
    ["env", "--tier", "8g", "--update", ".env"],
    ["tiers"],
    ["list"],
    ["verify"],
]


def run(words: list[str], cwd: Path, script: str = '"$@"', **environ: str) -> tuple[int, str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environ}
    done = subprocess.run(
        ["bash", "-c", script, "bash", *PROGRAM, *words], cwd=cwd, env=env, capture_output=True, timeout=60
    )
    return done.returncode, done.stderr.decode(errors="replace")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the program in this process; its exit code and stderr."""
    monkeypatch.chdir(tmp_path)

    def result(words: list[str]) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert isinstance(ended.value.code, int)
        return ended.value.code, capsys.readouterr().err

    return result


@pytest.mark.parametrize("words", first(5, COMMANDS), ids=" ".join)
def test_a_deleted_working_directory_is_a_typed_error(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # the tiers name real hosts
    monkeypatch.chdir(gone)
    gone.rmdir()
    code, err = call(words)
    assert code not in (70, 120), err
    assert "a bug in modelfetch" not in err


@pytest.mark.parametrize("words", [["validate", "m.yaml"], ["sync", "m.yaml"], ["pin", "m.yaml"]], ids=" ".join)
def test_a_manifest_in_a_deleted_working_directory_does_not_exist(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code, err = call(words)
    assert (code, err.splitlines()[0]) == (78, "error: m.yaml: no such file")
    assert "the current folder was deleted" in err


def test_a_program_starts_in_a_deleted_working_directory(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code, err = run(["sync", "m.yaml"], gone, 'rmdir "$PWD"; exec "$@"')
    assert code not in (70, 120), err
    assert "Traceback" not in err


@pytest.fixture
def accented(tmp_path: Path) -> Path:
    """A folder with a manifest of a file whose name is not ASCII."""
    source = tmp_path / "x.json"
    source.write_text("{}")
    entry = {"name": "m", "kind": "file", "path": "modèle.json", "source": source.as_uri(), "for": ["comfyui"]}
    (tmp_path / "m.yaml").write_text(json.dumps({"version": 1, "models": [entry]}))
    return tmp_path


@pytest.mark.parametrize("command", first(1, ["sync", "plan"]))
def test_a_name_that_the_locale_cannot_express_is_73_with_a_hint(command: str, accented: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code, err = run([command, "m.yaml"], accented, **ascii_only)
    assert code == 73, err
    assert "hint: set LC_ALL=C.UTF-8" in err


def test_the_locale_of_the_hint_can_express_such_a_name(accented: Path) -> None:
    code, err = run(["sync", "m.yaml"], accented, LC_ALL="C.UTF-8")
    assert code == 0, err


def test_fetch_into_a_folder_that_must_not_be_written_is_73(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o555)
    (tmp_path / "x.json").write_text("{}")
    obey_modes = 'exec setpriv --bounding-set=-dac_override,-dac_read_search "$@"'  # root may write everywhere
    script = obey_modes if os.geteuid() == 0 else '"$@"'
    code, err = run(["fetch", (tmp_path / "x.json").as_uri(), "-o", "theirs/y.json"], tmp_path, script)
    assert code == 73, err
    assert "theirs" in err
    assert "hint: it must be writable for uid" in err
    assert not any(folder.iterdir())


def test_fetch_below_a_file_is_73(tmp_path: Path, call: Call) -> None:
    (tmp_path / "x.json").write_text("{}")
    (tmp_path / "file").write_text("")
    code, err = call(["fetch", (tmp_path / "x.json").as_uri(), "-o", "file/y.json"])
    assert code == 73, err


def test_fetch_leaves_another_file_alone_unless_forced(tmp_path: Path, call: Call) -> None:
    (tmp_path / "x.json").write_text('{"a": 1}')
    target = tmp_path / "y.json"
    target.write_text("mine")
    words = ["fetch", (tmp_path / "x.json").as_uri(), "-o", "y.json"]
    code, err = call(words)
    assert (code, target.read_text()) == (73, "mine"), err
    assert "--force" in err
    code, err = call([*words, "--force"])
    assert (code, target.read_text()) == (0, '{"a": 1}'), err
    before = target.stat()
    code, err = call(words)
    assert (code, target.stat().st_ino) == (0, before.st_ino), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "y.json"]


@pytest.mark.parametrize("kind", ["file", "link", "dangling", "loop"])
def test_fetch_refuses_another_file_before_it_downloads(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    (tmp_path / "x.json").write_text('{"a": 1}')
    (tmp_path / "mine").write_text("mine")
    target = tmp_path / "y.json"
    if kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to({"link": "mine", "dangling": "nowhere", "loop": "y.json"}[kind])
    words = ["fetch", (tmp_path / "x.json").as_uri(), "-o", "y.json"]
    with monkeypatch.context() as patched:
        patched.setattr(Engine, "fetch", None)
        code, err = call(words)
    assert (code, "--force" in err) == (73, True), err
    assert call([*words, "--force"])[0] == 0
    assert (target.is_symlink(), target.read_text(), (tmp_path / "mine").read_text()) == (False, '{"a": 1}', "mine")


@pytest.mark.parametrize("store", [[], ["--store", "store"]], ids=["alone", "store"])
def test_fetch_replaces_no_file_that_appeared_meanwhile(
    store: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    (tmp_path / "x.json").write_text("{}")
    target = tmp_path / "y.json"
    deliver = Output.deliver

    def late(*args: Any) -> None:
        target.write_text("mine")
        deliver(*args)

    monkeypatch.setattr(Output, "deliver", late)
    code, err = call(["fetch", (tmp_path / "x.json").as_uri(), "-o", "y.json", *store])
    assert (code, target.read_text()) == (73, "mine"), err


def test_a_fetch_that_failed_leaves_no_empty_folder(tmp_path: Path, call: Call) -> None:
    (tmp_path / "x.json").write_text("{}")
    for words in (["file:///none.json"], [(tmp_path / "x.json").as_uri(), "--digest", "sha256:" + "a" * 64]):
        assert call(["fetch", *words, "-o", "y.json"])[0] in (65, 66)
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_an_empty_output_path_and_a_hyphen_are_2(call: Call) -> None:
    assert call(["fetch", "file:///x.json", "-o", ""])[0] == 2
    code, err = call(["fetch", "file:///x.json", "-o", "-"])
    assert code == 2
    assert 'cat "$(modelfetch fetch URI)"' in err


@pytest.mark.parametrize("words", [["fetch", "file:///x.json", "-o"], ["report", "--html"], ["env", "--update"]])
def test_an_output_path_that_ends_in_a_slash_is_2(tmp_path: Path, call: Call, words: list[str]) -> None:
    code, err = call([*words, "out/"])
    assert code == 2
    assert "expected the path of a file, found 'out/'" in err
    assert list(tmp_path.iterdir()) == []


def test_fetch_writes_no_file_into_the_folders_of_modelfetch(tmp_path: Path, call: Call) -> None:
    (tmp_path / "x.json").write_text("{}")
    Store(tmp_path / "root/.modelfetch").folder("receipts")
    receipt = tmp_path / "root/.modelfetch/receipts/ollama.json"
    receipt.write_text("mine")
    (tmp_path / "link").symlink_to("root/.modelfetch")
    for target in ("root/.modelfetch/receipts/ollama.json", "root/.modelfetch/new/x", "link/x"):
        code, err = call(["fetch", (tmp_path / "x.json").as_uri(), "-o", target, "--force"])
        assert code == 73, target
        assert "holds modelfetch's own files" in err
    assert receipt.read_text() == "mine"
    assert call(["fetch", (tmp_path / "x.json").as_uri(), "-o", "root/x"])[0] == 0


def test_fetch_to_a_fifo_is_73(tmp_path: Path, call: Call) -> None:
    (tmp_path / "x.json").write_text("{}")
    os.mkfifo(tmp_path / "pipe")
    assert call(["fetch", (tmp_path / "x.json").as_uri(), "-o", "pipe", "--force"])[0] == 73


@pytest.mark.parametrize("kind", ["folder", "fifo", "link", "dangling"])
def test_only_a_file_in_the_cache_is_replaced(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("MODELFETCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "x.json").write_text("{}")
    (tmp_path / "mine").write_text("mine")
    words = ["fetch", (tmp_path / "x.json").as_uri()]
    assert call(words)[0] == 0
    (path,) = (tmp_path / "cache/files").glob("*/x.json")
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / ("mine" if kind == "link" else "nowhere"))
    code, err = call(words)
    assert (code, str(path) in err) == (73, True)
    assert (tmp_path / "mine").read_text() == "mine"


class FailingOpen:
    """Makes the n-th call that opens a file or lists a folder fail; none if ``at`` is 0. ``count`` counts the calls."""

    def __init__(self, at: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.code, self.count = at, code, 0
        for module, name in ((os, "open"), (os, "listdir"), (os, "scandir"), (io, "open"), (builtins, "open")):
            monkeypatch.setattr(module, name, self._failing(getattr(module, name)))
        monkeypatch.setattr(directories, "open_folder_beneath", self._failing(directories.open_folder_beneath))

    def _failing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        beneath = directories.open_folder_beneath

        def failing(path: Any = ".", *args: Any, **options: Any) -> Any:
            if not isinstance(path, int) or call is beneath:  # a file object of an open descriptor opens nothing
                self.count += 1
                if self.count == self.at:
                    raise OSError(self.code, os.strerror(self.code))
            return call(path, *args, **options)

        return failing


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.is_symlink()}


@pytest.fixture
def placed(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with a model that its manifest asks for, one that no manifest asks for any more, and one to adopt."""
    monkeypatch.setattr(adopt, "all_tiers", lambda _: [])  # reading them takes a second
    entries = {}
    for name in ("kept", "old"):
        source = tmp_path / f"{name}.json"
        source.write_text(f'{{"name": "{name}"}}')
        entry = {"name": name, "kind": "file", "path": source.name, "source": source.as_uri(), "for": ["comfyui"]}
        entries[name] = {**entry, "size": source.stat().st_size}
    for file, names in (("old.yaml", ("kept", "old")), ("m.yaml", ("kept",))):
        (tmp_path / file).write_text(json.dumps({"version": 1, "tier": "t", "models": [entries[n] for n in names]}))
        assert call(["sync", file, "--root", "r"])[0] == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.gguf").write_bytes(b"GGUF" + bytes(range(256)) * 64)
    shutil.rmtree(tmp_path / "r/.modelfetch/noop")
    return tmp_path


@pytest.mark.parametrize("code", first(1, [errno.EMFILE, errno.ENOMEM]))
@pytest.mark.parametrize(
    "words",
    first(
        4,
        [
            ["status", "m.yaml"],
            ["sync", "m.yaml"],
            ["prune", "m.yaml"],
            ["adopt", "mine"],
            ["verify"],
            ["list"],
            ["remove", "old"],
        ],
    ),
    ids=lambda words: words[0],
)
def test_a_limit_met_at_any_open_is_75_and_makes_no_file_missing_or_removable(
    words: list[str], code: int, placed: Path, call: Call
) -> None:
    words = [*words, "--root", "r"]
    shutil.copytree(placed / "r", placed / "before", symlinks=True)

    def attempt(at: int) -> tuple[int, str, int]:
        shutil.rmtree(placed / "r")
        shutil.copytree(placed / "before", placed / "r", symlinks=True)
        with pytest.MonkeyPatch.context() as patched:
            failing = FailingOpen(at, code, patched)
            result, err = call(words)
        return result, err, failing.count

    result, _, count = attempt(0)
    expected = contents(placed / "r/comfyui")
    for at in range(1, count + 1, max(1, count // examples(40))):
        found, err, _ = attempt(at)
        if found == 75:
            assert "no further file can be opened" in err or "not enough memory" in err, (at, err)
        else:
            assert (found, contents(placed / "r/comfyui")) == (result, expected), (at, err)
        assert (placed / "r/comfyui/kept.json").is_file()
        assert (placed / "mine/a.gguf").is_file()
    assert call(["status", "m.yaml", "--root", "r"])[0] == 0
