"""Adding and removing exclude each other, in whichever order they start."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from modelfetch.core.cancel import Cancel
from modelfetch.errors import RetryLaterError
from modelfetch.store.locks import gate
from modelfetch.store.locks.gate import adding, removing
from modelfetch.store.locks.lock import lock
from tests.interpreter import Process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_several_processes_add_at_the_same_time(tmp_path: Path) -> None:
    with adding(tmp_path, timeout=0.0), adding(tmp_path, timeout=0.0):
        pass
    assert list(tmp_path.iterdir()) == []


def test_removal_waits_while_files_are_added(tmp_path: Path) -> None:
    with (
        adding(tmp_path),
        pytest.raises(RetryLaterError, match=r"after 0\.\ds; nothing was removed"),
        removing([tmp_path], timeout=0.0, cancel=Cancel()),
    ):
        raise AssertionError


def test_nothing_is_removed_while_any_other_lock_is_held(tmp_path: Path) -> None:
    with (
        lock(tmp_path / "consumer-ollama.lock", label="x"),
        pytest.raises(RetryLaterError),
        removing([tmp_path], timeout=0.0, cancel=Cancel()),
    ):
        raise AssertionError


def test_adding_waits_for_removal(tmp_path: Path) -> None:
    order: list[str] = []
    inside = threading.Event()

    def remove() -> None:
        with removing([tmp_path], cancel=Cancel()):
            inside.set()
            time.sleep(0.5)
            order.append("removed")

    thread = threading.Thread(target=remove)
    thread.start()
    assert inside.wait(5)
    with adding(tmp_path):
        order.append("added")
    thread.join()
    assert order == ["removed", "added"]


def test_removal_continues_after_the_last_addition(tmp_path: Path) -> None:
    done = threading.Event()

    def remove() -> None:
        with removing([tmp_path], cancel=Cancel()):
            done.set()

    with adding(tmp_path):
        thread = threading.Thread(target=remove)
        thread.start()
        assert not done.wait(0.5)
    assert done.wait(5)
    thread.join()


def test_the_lock_of_a_killed_process_does_not_block(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib\nfrom modelfetch.store.locks.gate import adding\n"
        "with adding(pathlib.Path(sys.argv[1])):\n    print('in', flush=True)\n    time.sleep(60)\n"
    )
    read, write = os.pipe()
    with os.fdopen(read) as out, Process("-c", code, str(tmp_path), stdout=write):
        os.close(write)
        assert out.readline() == "in\n"
    with removing([tmp_path], timeout=5.0, cancel=Cancel()):
        pass


def test_removal_waits_for_the_locks_of_several_folders_no_longer_than_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, waits = [100.0], []

    @contextlib.contextmanager
    def slow(_path: Path, *, timeout: float | None, **_: object) -> Iterator[None]:
        waits.append(timeout)
        now[0] += 3.0
        yield

    monkeypatch.setattr(gate, "lock", slow)
    monkeypatch.setattr(gate, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with removing([tmp_path / "a", tmp_path / "b", tmp_path / "c"], timeout=5.0, cancel=Cancel()):
        pass
    assert waits == [5.0, 2.0, 0.0]
    waits.clear()
    with removing([tmp_path / "a", tmp_path / "b"], cancel=Cancel()):
        pass
    assert waits == [None, None]
