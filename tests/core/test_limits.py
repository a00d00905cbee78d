"""Failures for lack of threads or memory are recognised, and the error names the limit of this process's own group."""

from __future__ import annotations

import errno
import gc
import os
import resource
import socket
import ssl
import threading
from typing import TYPE_CHECKING

import httpx
import pytest

from modelfetch.care.collections import find_candidates, kind_of
from modelfetch.cli.app import run
from modelfetch.core import fs, libc, limits
from modelfetch.core.limits import limit_error
from modelfetch.core.threads import run_anywhere
from modelfetch.errors import RetryLaterError
from modelfetch.http.auth import stores
from modelfetch.http.connection import translate
from modelfetch.manifest.load import load_manifest
from modelfetch.placement.consumer_dirs import read_consumer_dirs
from modelfetch.placement.receipts import read_receipt
from modelfetch.placement.root_tree import RootTree
from modelfetch.tiers import discovery, gpu
from tests.cases import each

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NO_THREAD = RuntimeError("can't start new thread")


def after(error: Exception, first: Exception) -> Exception:
    error.__context__ = first
    return error


@each(
    "error",
    [
        NO_THREAD,
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENFILE, "Too many open files in system"),
        ssl.SSLError(1, "[CRYPTO] malloc failure (_ssl.c:3098)"),
        ImportError("libz.so.1: failed to map segment from shared object"),
        after(SystemError("error return without exception set"), MemoryError()),
        after(ImportError("cannot import name 'Text'"), MemoryError()),
    ],
)
def test_a_lack_of_threads_memory_or_files_is_recognised(error: Exception) -> None:
    found = limit_error(error)
    assert found is not None
    assert (found.exit_code, found.code) == (75, "no-resources")


@each(
    "error",
    [
        after(httpx.ConnectError("Too many open files"), OSError(errno.EMFILE, "Too many open files")),
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    ],
)
def test_a_lack_of_files_behind_a_failed_request_is_recognised(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", full)
    found = translate(error, "https://hub.example/x")
    assert (found.exit_code, found.code, found.permanent) == (75, "no-resources", False)
    monkeypatch.undo()
    assert translate(socket.gaierror(socket.EAI_NONAME, "no"), "https://hub.example/x").exit_code == 69


@each("error", [RuntimeError("no"), OSError(errno.ENOENT, "no"), SystemError(), after(ValueError(), MemoryError())])
def test_another_error_is_not_taken_for_one(error: Exception) -> None:
    assert limit_error(error) is None


@pytest.mark.parametrize(
    ("own", "file"),
    [
        ("0::/\n", "pids.max"),
        ("0::/a/b\n", "a/b/pids.max"),
        ("9:cpu:/\n8:pids:/\n0::/\n", "pids/pids.max"),
        ("8:pids,rdma:/a\n0::/\n", "pids/a/pids.max"),
        ("8:pids:/docker/a\n0::/\n", "pids/pids.max"),
        ("not a line\n", "pids.max"),
    ],
)
def test_the_limit_of_a_group_of_either_version_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, file: str
) -> None:
    (tmp_path / "own").write_text(own)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("12\n")
    monkeypatch.setattr(limits, "_CGROUPS", tmp_path)
    monkeypatch.setattr(limits, "_OWN_CGROUP", tmp_path / "own")
    assert "the container's pids.max is 12" in str(limit_error(NO_THREAD))


def test_no_limit_of_version_1_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    monkeypatch.setattr(limits, "_CGROUPS", tmp_path)
    assert "container" not in str(limit_error(MemoryError()))


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_limit_met_while_a_file_is_opened_is_no_fact_about_the_file(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_text("x")
    tree = RootTree(tmp_path)
    monkeypatch.setattr(os, "open", lambda *_, **__: raise_error(code))
    for attempt in (
        lambda: fs.open_regular(tmp_path / "a/file"),
        lambda: fs.read_small(tmp_path / "a/file", 10),
        lambda: tree.lstat("a/file"),
        lambda: tree.open("a/file"),
        lambda: load_manifest(tmp_path / "a/file"),
        lambda: read_receipt(tmp_path, "ollama"),
    ):
        with pytest.raises(RetryLaterError) as caught:
            attempt()
        assert (caught.value.code, caught.value.exit_code) == ("no-resources", 75)
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError):
        fs.open_regular(tmp_path / "b")


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
@pytest.mark.parametrize(
    ("function", "attempt"),
    [
        ("os.listdir", kind_of),
        ("os.listdir", lambda folder: list(read_consumer_dirs(folder))),
        ("os.listdir", gpu._amd),
        ("os.scandir", lambda folder: list(find_candidates(folder))),
        ("os.scandir", discovery.list_tiers),
        ("os.stat", discovery._is_file),
        ("os.stat", lambda folder: load_manifest(folder / "16g.yaml")),
        ("builtins.open", lambda folder: stores._read_netrc(folder / "16g.yaml")),
        ("io.open", gpu._amd),
    ],
)
def test_a_limit_met_while_something_is_looked_for_does_not_mean_that_it_is_not_there(
    code: int,
    function: str,
    attempt: Callable[[Path], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "16g.yaml").write_text("version: 1\n")
    (tmp_path / "card0/device").mkdir(parents=True)
    (tmp_path / "card0/device/mem_info_vram_total").write_text("1")
    monkeypatch.setattr(function, lambda *_, **__: raise_error(code))
    with pytest.raises(RetryLaterError) as caught:
        attempt(tmp_path)
    monkeypatch.undo()
    assert caught.value.code == "no-resources"


def raise_error(code: int) -> int:
    raise OSError(code, os.strerror(code))


@pytest.mark.parametrize(
    ("limit", "value", "needed"),
    [
        ("RLIMIT_AS", 60_000 * 1024, "128.0 MiB"),
        ("RLIMIT_AS", 0, "128.0 MiB"),
        ("RLIMIT_DATA", 40 * 2**20, "64.0 MiB"),
        ("RLIMIT_NOFILE", 6, "32"),
    ],
)
def test_less_than_any_command_needs_is_refused_at_once(
    limit: str, value: int, needed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    number, real = getattr(resource, limit), resource.getrlimit
    monkeypatch.setattr(resource, "getrlimit", lambda one: (value, value) if one == number else real(one))
    for words in (["sync", "m.yaml"], ["status"], ["fit", "x"]):
        assert run(words) == 75
        out, err = capsys.readouterr()
        assert limit in err
        assert f"at least {needed}" in err
        assert out == ""


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA", None])
def test_threads_take_less_memory_if_it_is_limited(limit: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    number = limit and getattr(resource, limit)
    value = (2**30, 2**30)
    infinite = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda one: value if one == number else infinite)
    monkeypatch.setattr(threading.Thread, "start", threading.Thread.start)
    monkeypatch.setattr(libc, "function", lambda *_: None)  # what it sets can't be undone
    sizes: list[int] = []
    monkeypatch.setattr(threading, "stack_size", sizes.append)
    limits.save_address_space()
    assert sizes == ([2**20] if limit else [])


def test_an_event_loop_that_can_not_be_made_is_a_typed_error_and_prints_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def work() -> int:
        return 1

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    for left in range(3):
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + left, hard))
        try:
            with pytest.raises(RetryLaterError) as caught:
                run_anywhere(work)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert caught.value.code == "no-resources"
    gc.collect()
    assert capsys.readouterr().err == ""
    assert run_anywhere(work) == 1


class Lost(threading.Thread):
    """A thread whose first step finds no memory."""

    def _bootstrap(self) -> None:
        pass


def test_a_thread_that_never_starts_is_an_error_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_START_SECONDS", 0.02)
    with pytest.raises(RuntimeError) as caught:
        limits._start(Lost(daemon=True))
    assert limit_error(caught.value) is not None


def test_a_thread_starts_within_the_limits() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.set)
    limits._start(thread)
    thread.join()
    assert done.is_set()
    with pytest.raises(RuntimeError, match="only be started once"):
        limits._start(thread)
