"""The engine over minutes: 200 kills, a thousand sequences of faults."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from modelfetch.core.digest import Digest
from modelfetch.store import Store
from modelfetch.store.chunks import CHUNK
from tests.interpreter import ROOT
from tests.transfer.processes import finish, start, wait_for
from tests.transfer.server import Origin, paced
from tests.transfer.world import payload

if TYPE_CHECKING:
    from pathlib import Path

KILLS = 200
CONNECTIONS = 3
DATA = payload(4 * CHUNK + 1_234_567, seed=77)
IN_FLIGHT = 8_000_000
"""Bytes that a killed process's sockets may hold: sent, but never received."""


pace = paced(200_000, 0.002)
"""About 100 MB per second for each connection."""


@pytest.mark.timeout(1800)
def test_two_hundred_kills_leave_no_wrong_byte(tmp_path: Path) -> None:
    """The moments are spread over the whole life of a process, from its start to the rename and the record."""
    random_ = random.Random(2)
    store = Store(tmp_path / "store")
    kills = finished = sent_again = 0
    with Origin(DATA, default=pace) as origin:
        before = 0
        while kills < KILLS:
            process = start(store.path, origin.url, DATA, f"connections={CONNECTIONS}", "stale=5")
            if random_.random() < 0.5:
                goal = origin.sent + random_.randrange(0, len(DATA) // 3)
                wait_for(lambda goal=goal, process=process: origin.sent >= goal or process.poll() is not None)  # type: ignore[misc]
            try:
                process.wait(random_.uniform(0, 0.15))
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
            process.communicate()
            for blob in store.blobs():
                assert Digest.sha256(blob.path.read_bytes()) == blob.digest
                finished += 1
                sent_again += max(0, origin.sent - before - len(DATA))
                before = origin.sent
                store.remove(blob.digest)
        code, _ = finish(start(store.path, origin.url, DATA, "stale=5"))
        assert code == 0
        assert store.blob_path(Digest.sha256(DATA)).read_bytes() == DATA
        sent_again += max(0, origin.sent - before - len(DATA))
    assert finished > 0, "some of them came to the end between two kills"
    assert sent_again <= kills * (CONNECTIONS * CHUNK + IN_FLIGHT)


@pytest.mark.timeout(1800)
def test_a_thousand_sequences_of_faults_kills_and_damage_end_in_the_right_file() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--timeout=1700", "tests/transfer/test_state.py"],
        cwd=ROOT,
        env={**os.environ, "EXAMPLES": "25"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
