"""SIGKILL in the middle of a file, then the same command again, against the embedded hub and against real nginx."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.demo import Hub, PatternBody
from modelfetch.demo.body import read_all
from modelfetch.demo.faults import Throttle
from tests.e2e.manifests import write_manifest
from tests.e2e.servers import nginx_log, serve_nginx
from tests.e2e.tree import assert_store_is_whole, sha256

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.e2e.program import Modelfetch

WEIGHTS = PatternBody(48_000_000)
SMALL = PatternBody(12_000_000)  # less than one of the journal's chunks
PLACED = "comfyui/models/checkpoints/big.safetensors"


def one_file(folder: Path, url: str, body: PatternBody = WEIGHTS) -> tuple[str, str]:
    """The options that request a body from this URL."""
    model: dict[str, Any] = {"name": "big", "kind": "checkpoint", "source": url, "for": ["comfyui"]}
    model |= {"size": body.size, "digest": f"sha256:{body.sha256}"}
    return "--manifest", str(write_manifest(folder / "one.yaml", model))


def kill_when(program: Modelfetch, arguments: tuple[str, ...], reached: Callable[[], bool]) -> None:
    """Run a sync, and kill it without warning as soon as ``reached`` returns true."""
    with (program.cwd / "killed.log").open("w") as log:
        process = program.start("sync", *arguments, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not reached():
            assert process.poll() is None, (program.cwd / "killed.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        assert process.wait(10) == -signal.SIGKILL


def assert_finished(program: Modelfetch, report: dict[str, Any], body: PatternBody = WEIGHTS) -> None:
    """The file is in place and right, and nothing partial is left."""
    (artifact,) = report["models"][0]["artifacts"]
    assert artifact["action"] == "resumed"
    assert artifact["placements"] == [PLACED]
    assert sha256(program.root / PLACED) == body.sha256
    assert_store_is_whole(program.root)
    assert list((program.root / ".modelfetch" / "ingest").glob("*.part")) == []


@pytest.mark.parametrize("connections", ["1", "4"])
@pytest.mark.parametrize(
    ("body", "killed_at"),
    [(WEIGHTS, WEIGHTS.size * 2 // 3), (WEIGHTS, 8_000_000), (SMALL, 8_000_000)],
    ids=["late", "early", "small-file"],
)
def test_the_hub_sends_less_than_the_whole_file_again(
    modelfetch: Modelfetch, workplace: Path, body: PatternBody, killed_at: int, connections: str
) -> None:
    with Hub() as hub:
        hub.world.file("big.safetensors", body)
        hub.faults.add("*big.safetensors", Throttle(rate=10_000_000), times=None)
        arguments = (*one_file(workplace, hub.files + "big.safetensors", body), "--connections", connections)
        kill_when(modelfetch, arguments, lambda: hub.log.sent() > killed_at)
        assert not (modelfetch.root / PLACED).exists()
        hub.log.wait_idle()
        hub.log.clear()
        hub.faults.clear()
        report = modelfetch.report("sync", *arguments)
        again = hub.log.sent()
        probes = sum(request.sent for request in hub.log.requests() if request.range == "bytes=0-0")  # no content
    assert 0 < again < body.size
    assert report["bytes_fetched"] == again - probes
    assert_finished(modelfetch, report, body)


def test_nginx_sends_less_than_the_whole_file_again(modelfetch: Modelfetch, workplace: Path) -> None:
    (workplace / "served").mkdir()
    (workplace / "served" / "big.safetensors").write_bytes(read_all(WEIGHTS))
    log = workplace / "nginx"
    with serve_nginx(workplace / "served", log, rate="8000000") as base:
        arguments = (*one_file(workplace, f"{base}/big.safetensors"), "--connections", "1")
        started = time.monotonic()
        kill_when(modelfetch, arguments, lambda: time.monotonic() > started + 4)
        assert not (modelfetch.root / PLACED).exists()
        report = modelfetch.report("sync", *arguments)
    requests = nginx_log(log)
    assert_finished(modelfetch, report)
    assert 0 < report["bytes_fetched"] < WEIGHTS.size
    assert all(request["range"] for request in requests[-report["requests"] :])
    assert sum(request["sent"] for request in requests) < 2 * WEIGHTS.size
