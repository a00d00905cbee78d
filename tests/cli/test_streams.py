"""The exit code is right with closed or full streams, and when a signal arrives."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modelfetch.cli import main
from modelfetch.cli.app import run
from tests import interpreter
from tests.cases import each, first

PROGRAM = [sys.executable, "-c", "from modelfetch.cli import main; main()"]


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.json").write_text("{}")
    entry = {"name": "modèle", "kind": "file", "path": "x.json", "source": f"file://{tmp_path}/x.json"}
    path = tmp_path / "m.yaml"
    path.write_text(json.dumps({"version": 1, "models": [{**entry, "for": ["comfyui"]}]}))
    return path


def program(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **options.pop("env", {})}
    return subprocess.run([*PROGRAM, *words], text=True, env=environ, timeout=60, **options)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_during_startup_ends_the_program(number: signal.Signals, code: int) -> None:
    began = "from modelfetch.cli import _prepare; _prepare(); print('began', flush=True); import time; time.sleep(30)"
    with subprocess.Popen([sys.executable, "-c", began], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(5) == code


@pytest.mark.parametrize("words", [("sync", "--json"), ("schema",), ("--help",), ("sync", "--help")])
def test_a_closed_pipe_does_not_change_the_exit_code(manifest: Path, words: tuple[str, ...]) -> None:
    there = ("--manifest", str(manifest)) if words == ("sync", "--json") else ()
    read, write = os.pipe()
    os.close(read)
    done = interpreter.run("-m", "modelfetch", *words, *there, stdout=write)
    os.close(write)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_a_failure_keeps_its_exit_code_when_stderr_is_closed(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = interpreter.run("-m", "modelfetch", "sync", "--manifest", str(tmp_path / "none.yaml"), stderr=write)
    os.close(write)
    assert done.returncode == 78


def test_a_full_disk_behind_stdout_is_74(manifest: Path) -> None:
    with Path("/dev/full").open("w") as full:
        words = ("-m", "modelfetch", "sync", "--json", "--manifest", str(manifest))
        done = interpreter.run(*words, stdout=full.fileno())
    assert done.returncode == 74
    assert "error: can't write to stdout: No space left on device\nhint: make room where" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_file_gets_the_descriptor_of_a_closed_standard_stream(manifest: Path) -> None:
    script = f'exec "$@" --manifest {manifest} -v >&- 2>&-'
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(["sh", "-c", script, "sh", *PROGRAM, "sync"], env=environ, timeout=60)
    assert done.returncode == 0
    assert Path("files/ai-models/comfyui/x.json").read_text() == "{}"


def test_a_command_that_may_ask_works_without_a_stdin(tmp_path: Path) -> None:
    words = ("add", (tmp_path / "none.safetensors").as_uri(), "--manifest", str(tmp_path / "new.yaml"))
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *PROGRAM, *words], env=environ, timeout=60)
    assert done.returncode == 66


def test_a_terminal_without_unicode_works(manifest: Path) -> None:
    done = program("status", "--manifest", str(manifest), env={"PYTHONIOENCODING": "ascii"}, stdout=subprocess.PIPE)
    assert done.returncode == 1
    assert "mod\\xe8le" in done.stdout


@pytest.mark.parametrize(
    ("words", "environ", "code"),
    [
        (["sync", "--tier", "8g", "--manifest", "m.yaml"], {}, 2),
        (["sync", "--tier", "8g", "--jobs", "0"], {}, 2),
        (["plan", "--tier", "8g"], {"MODELFETCH_JOBS": "many"}, 78),
        (["status", "--tier", "8g"], {"PUID": "me"}, 78),
        (["fetch"], {}, 2),
    ],
)
def test_an_early_failure_is_reported_as_json_too(
    words: list[str],
    environ: dict[str, str],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert run([*words, "--json", "--root", "there"] if words[0] != "fetch" else [*words, "--json"]) == code
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert (report["ok"], report["exit_code"], report["models"], report["tier"]) == (
        False,
        code,
        [],
        "8g" if "PUID" in environ else None,  # known once the command line and its options are read
    )
    assert report["root"] == ("there" if words[0] != "fetch" else "files/ai-models")
    assert report["errors"][0]["exit_code"] == code
    assert err.startswith("error: ")


@pytest.mark.parametrize(
    ("words", "environ"),
    [
        (["sync", "--nope"], {"MODELFETCH_JSON": "1"}),
        (["plan", "--jobs", "0"], {"MODELFETCH_PLAN_JSON": "TRUE"}),
        (["ls", "--nope"], {"MODELFETCH_LIST_JSON": "on"}),
        (["pin", "--nope"], {"MODELFETCH_JSON": "yes"}),
        (["add", "--nope"], {"MODELFETCH_JSON": "1"}),
        (["fit", "--nope", "--json"], {}),
        (["status", "--format", "json", "--nope"], {}),
        (["status", "--nope"], {"MODELFETCH_STATUS_FORMAT": "json"}),
    ],
)
def test_an_early_failure_is_reported_as_json_however_json_was_chosen(
    words: list[str], environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert run(words) == 2
    assert [error["code"] for error in json.loads(capsys.readouterr().out)["errors"]] == ["usage"]


@pytest.mark.parametrize(
    "environ", [{}, {"MODELFETCH_JSON": "0"}, {"MODELFETCH_SYNC_JSON": "0", "MODELFETCH_JSON": "1"}]
)
def test_an_early_failure_is_plain_text_if_json_was_not_chosen(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert run(["sync", "--nope"]) == 2
    assert capsys.readouterr().out == ""


@each("words", [["adopt", "nowhere"], ["fit", "hf://a/b?c"], ["add", "x", "y", "--name", "z"], ["remove"]])
def test_the_hint_of_a_report_names_the_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--json"]) == 2
    out, err = capsys.readouterr()
    hint = json.loads(out)["errors"][0]["hint"]
    assert "COMMAND" not in hint
    assert f"hint: {hint}\n" in err


def test_a_closed_stderr_does_not_change_the_exit_code(manifest: Path) -> None:
    script = f'"$@" --manifest {manifest} 2>&-'
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in ("first", "again"):
        done = subprocess.run(["bash", "-c", script, "bash", *PROGRAM, "sync"], env=environ, timeout=60)
        assert done.returncode == 0
    assert Path("files/ai-models/comfyui/x.json").read_text() == "{}"


@pytest.mark.parametrize("kind", ["full disk", "pipe without a reader"])
def test_a_stderr_that_can_not_be_written_does_not_change_the_exit_code(manifest: Path, kind: str) -> None:
    if kind == "full disk":
        write = os.open("/dev/full", os.O_WRONLY)
    else:
        read, write = os.pipe()
        os.close(read)
    for _ in ("first", "again"):
        done = interpreter.run("-m", "modelfetch", "sync", "--manifest", str(manifest), stderr=write)
        assert done.returncode == 0
    os.close(write)
    assert Path("files/ai-models/comfyui/x.json").read_text() == "{}"


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["sync", "--help"],
        ["schema"],
        ["tiers"],
        ["env", "--tier", "8g"],
        ["list", "--root", "."],
    ],
)
def test_a_full_stdout_is_74_for_every_command(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended:
            main(words)
    assert ended.value.code == 74


@pytest.mark.parametrize(
    ("words", "code", "shown"),
    [
        (["sync", "none.yaml", "--json"], 78, "none.yaml: no such file"),
        (["status", "m.yaml", "--format", "json"], 74, ""),
        (["validate", "m.yaml", "none.yaml"], 78, "none.yaml: no such file"),
        (["add", "file:///nowhere/a.safetensors", "--json"], 74, "/nowhere/a.safetensors does not exist"),
        (["list", "--sort", "x", "--json"], 74, "sort"),
    ],
)
def test_a_full_stdout_hides_no_error_and_changes_no_more_serious_exit_code(
    words: list[str],
    code: int,
    shown: str,
    manifest: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run(words) == code
    err = capsys.readouterr().err
    assert shown in err
    assert err.count("error: can't write to stdout: No space left on device\n") == 1


@pytest.mark.parametrize("words", first(1, [(["schema"],), (["sync", "--help"],), (["tiers", "--json"],)]))
def test_a_non_blocking_pipe_gets_everything(words: list[str]) -> None:
    whole = interpreter.run("-m", "modelfetch", *words).stdout
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(write, False)
    os.write(write, b"-" * 4096)
    with interpreter.Process("-m", "modelfetch", *words, stdout=write) as process:
        os.close(write)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        with os.fdopen(read) as pipe:
            assert pipe.read().lstrip("-") == whole
        assert process.wait() == 0


@pytest.mark.parametrize("stderr", ["captured", "full"])
def test_the_traceback_of_a_bug_shows_no_secret_and_changes_no_exit_code(
    stderr: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops") from ValueError("https://me:planted-secret@a.example/x?token=planted-secret")

    def full(_: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("modelfetch.pipeline.status.select", broken)
    if stderr == "full":
        monkeypatch.setattr(sys.stderr, "write", full)
    assert run(["status", "--tier", "8g", "-v"]) == 70
    err = capsys.readouterr().err
    assert "planted-secret" not in err
    assert ("ValueError: https://a.example/x?token=redacted" in err) is (stderr == "captured")


def test_a_full_stdout_is_74_for_a_sync_with_nothing_to_do(manifest: Path) -> None:
    words = ("-m", "modelfetch", "sync", "--json", "--manifest", str(manifest))
    assert interpreter.run(*words).returncode == 0
    with Path("/dev/full").open("w") as full:
        for _ in range(2):
            done = interpreter.run(*words, stdout=full.fileno())
            assert done.returncode == 74, done.stderr
