"""Any sequence of faults, kills and damage ends in the right file or in a typed error."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelfetch.config.options import Options
from modelfetch.core.cancel import Cancel
from modelfetch.core.digest import Digest
from modelfetch.errors import ModelfetchError
from modelfetch.http import Timeouts
from modelfetch.transfer.concurrency import ConcurrencyController
from tests.examples import examples
from tests.transfer.server import Conn, Origin, Request, Script, answering, drop_after, head, normally, raw
from tests.transfer.world import World, payload, quick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZE = 300_000
DATA = payload(SIZE, seed=31)
OTHER = payload(SIZE, seed=32)
K = 1024


@pytest.fixture(autouse=True, scope="module")
def _tiny() -> Iterator[None]:
    """Chunks, ranges and buffers are a hundred times smaller, and a second connection is opened whenever possible."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("store.chunks", "transfer.partial", "transfer.writer", "transfer.journal", "transfer.scheduler"):
            patch.setattr(f"modelfetch.{module}.CHUNK", 64 * K)
        patch.setattr("modelfetch.transfer.writer._STEP", 16 * K)
        patch.setattr("modelfetch.transfer.scheduler._ALIGN", 4 * K)
        patch.setattr(
            ConcurrencyController, "step", lambda self, _n, _t, *, active, left, behind: int(active < self.most)
        )
        yield


def hold(conn: Conn, request: Request, origin: Origin) -> None:
    """So slow that further connections are opened."""
    status, fields, start, end = origin.fields(request)
    conn.send(head(status, fields))
    for at in range(start, end, 30_000):
        conn.send(origin.data[at : min(at + 30_000, end)])
        origin.stop.wait(0.004)


def wrong_bytes(conn: Conn, request: Request, origin: Origin) -> None:
    """The right headers, another file's bytes."""
    status, fields, start, end = origin.fields(request)
    conn.send(head(status, fields) + OTHER[start:end])


def whole(conn: Conn, request: Request, origin: Origin) -> None:
    normally(conn, Request(method="GET", target=request.target, headers={}), origin)


def shifted(conn: Conn, request: Request, origin: Origin) -> None:
    """A part that begins one byte later than declared."""
    status, fields, start, end = origin.fields(request)
    conn.send(head(status, fields) + origin.data[start + 1 : end] + b"x")


FAULTS: dict[str, Script] = {
    "hold": hold,
    "wrong bytes": wrong_bytes,
    "whole": whole,
    "shifted": shifted,
    "500": answering(500),
    "404": answering(404),
    "416": answering(416),
    "429": answering(429),
    "page": answering(200, {"Content-Type": "text/html"}, b"<html>no</html>"),
    "nonsense": raw(b"nonsense\r\n\r\n"),
    "close": lambda conn, _request, _origin: conn.close(),
    "reset": lambda conn, _request, _origin: conn.reset(),
}
faults = st.sampled_from(sorted(FAULTS)) | st.integers(0, SIZE)
damages = st.none() | st.tuples(
    st.sampled_from(["part", "journal", "lock"]), st.floats(0, 1), st.sampled_from(["flip", "cut", "drop"])
)
runs = st.fixed_dictionaries(
    {
        "faults": st.lists(faults, max_size=6),
        "slow": st.booleans(),
        "kill_after": st.none() | st.integers(0, SIZE),
        "damage": damages,
        "stop_after": st.none() | st.integers(0, SIZE),
    }
)


@settings(
    max_examples=examples(40),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(plan=st.lists(runs, min_size=1, max_size=4), has_digest=st.booleans())
def test_any_sequence_of_faults_kills_and_damage_ends_in_the_right_file(
    plan: list[dict[str, Any]], has_digest: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder, Origin(DATA) as origin:
        root = Path(folder)
        for run in plan:
            _run(root, origin, run, has_digest=has_digest)
        origin.scripts, origin.default = [], None
        fetched = _world(root).fetch(origin, data=DATA)
        assert fetched.blob.path.read_bytes() == DATA
        assert not list((root / "store" / "ingest").glob(f"{fetched.blob.digest.hex}*"))


def _world(root: Path, cancel: Cancel | None = None) -> World:
    return World(
        root=root,
        options=Options(connections=3),
        tuning=quick(
            ring_bytes=16 * K,
            single_bytes=8 * K,
            split_from=64 * K,
            min_piece=16 * K,
            max_piece=40 * K,
            pump_from=24 * K,
            threads_from=100 * K,
            backoff_first=0.0,
            source_seconds=2.0,
        ),
        timeouts=Timeouts(connect=30.0, headers=30.0, idle=30.0),  # no fault is a stall: only a busy machine is slow
        cancel=cancel or Cancel(),
    )


def _run(root: Path, origin: Origin, run: dict[str, Any], *, has_digest: bool) -> None:
    """One run of a process; a kill is simulated by restoring the disk as it was at some moment."""
    origin.scripts = [drop_after(f) if isinstance(f, int) else FAULTS[f] for f in run["faults"]]
    origin.default = hold if run["slow"] else normally
    store, snapshot = root / "store", root / "snapshot"
    cancel = Cancel()
    goal_kill, goal_stop = run["kill_after"], run["stop_after"]
    before, done = origin.sent, threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            if goal_kill is not None and origin.sent - before >= goal_kill and not snapshot.exists() and store.exists():
                shutil.copytree(store, snapshot, ignore_dangling_symlinks=True)
            if goal_stop is not None and origin.sent - before >= goal_stop:
                cancel.set()

    watcher = threading.Thread(target=lambda: _quietly(watch), daemon=True)
    watcher.start()
    try:
        fetched = _world(root, cancel).fetch(origin, data=DATA if has_digest else None)
        if has_digest:
            assert fetched.blob.path.read_bytes() == DATA
    except ModelfetchError:
        pass
    finally:
        done.set()
        watcher.join()
    for blob in _world(root).store.blobs():
        assert Digest.sha256(blob.path.read_bytes()) == blob.digest
        assert not has_digest or blob.path.read_bytes() == DATA
    if snapshot.exists():
        shutil.rmtree(store, ignore_errors=True)
        snapshot.rename(store)
        shutil.rmtree(store / "blobs", ignore_errors=True)
    _damage(store, run["damage"])


def _quietly(work: Callable[[], None]) -> None:
    with contextlib.suppress(OSError, shutil.Error):  # a file went away while it was copied: no kill this time
        work()


def _damage(store: Path, damage: tuple[str, float, str] | None) -> None:
    if damage is None:
        return
    what, where, how = damage
    pattern = {"part": "ingest/*.part", "journal": "ingest/*.json", "lock": "locks/*.lock"}[what]
    for path in store.glob(pattern):
        data = bytearray(path.read_bytes())
        at = int(where * (len(data) - 1)) if data else 0
        if how == "drop":
            path.unlink()
        elif how == "cut" or not data:
            path.write_bytes(data[:at])
        else:
            data[at] ^= 0x10
            path.write_bytes(data)
