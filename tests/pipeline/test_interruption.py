"""The report of a run that is interrupted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import modelfetch
from modelfetch.core.events import Placed, TransferProgress
from modelfetch.demo.faults import Throttle
from modelfetch.pipeline import execute, sync
from tests.pipeline.entries import vae

if TYPE_CHECKING:
    from modelfetch.core.events import Event
    from tests.pipeline.conftest import Bench

WORDS = {130: "interrupted", 143: "terminated"}


@pytest.mark.parametrize("code", WORDS)
def test_the_report_has_what_was_done_until_then(bench: Bench, code: int) -> None:
    bench.world.file("large.dat", bytes(8 * 2**20))
    bench.hub.faults.add("*/large.dat", Throttle(rate=2**20), times=None)
    large = vae(bench, name="large", source=f"{bench.hub.files}large.dat", kind="file", path="large.dat")
    cancel = modelfetch.Cancel()
    placed: set[str] = set()

    def stop(event: Event) -> None:
        if isinstance(event, Placed):
            placed.add(event.consumer)
        if isinstance(event, TransferProgress) and len(placed) == 2:
            cancel.set(code=WORDS[code], exit_code=code)

    file = bench.manifest(vae(bench), large)
    report = modelfetch.sync(manifest=file, root=bench.root, progress=stop, cancel=cancel)
    assert (report.ok, report.exit_code) == (False, code)
    assert [(error.code, error.model) for error in report.errors] == [(WORDS[code], None)]
    assert [(model.name, model.ok, model.artifacts[0].action) for model in report.models] == [
        ("vae", True, "fetched"),
        ("large", False, "skipped"),
    ]
    assert report.requests > 2
    assert report.bytes_fetched > sum(artifact.bytes_fetched for model in report.models for artifact in model.artifacts)
    assert report.tier == "test"


def test_the_report_of_a_run_that_is_interrupted_while_it_plans_has_all_models(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel = modelfetch.Cancel()

    async def stop(*_: object) -> None:
        cancel.set(code="terminated", exit_code=143)
        await asyncio.sleep(60)

    monkeypatch.setattr(sync, "resolve_all", stop)
    report = modelfetch.sync(manifest=bench.manifest(vae(bench)), root=bench.root, cancel=cancel)
    assert (report.exit_code, report.tier, [error.code for error in report.errors]) == (143, "test", ["terminated"])
    assert [(model.name, model.ok, model.artifacts[0].action) for model in report.models] == [("vae", False, "skipped")]


@pytest.mark.parametrize("step", ["check_final_names", "place_model"])
def test_a_blob_that_was_removed_during_a_suspension_is_fetched_by_the_next_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """`prune` waits for a run that adds files, but not for ever for one that is suspended."""
    call = getattr(execute, step)

    def suspended(*arguments: Any) -> Any:
        own = bench.root / ".modelfetch"
        for path in (*own.glob("locks/adding-*.lock"), *own.glob("blobs/sha256/*/*")):
            path.unlink()
        return call(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(execute, step, suspended)
        result = bench.sync(vae(bench))
    assert (result.code, result.codes()) == (75, ["lock-timeout"]), result.err
    assert bench.sync(vae(bench)).code == 0
