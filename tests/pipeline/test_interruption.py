"""The report of a run that is interrupted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import modelfetch
from modelfetch.core.events import Placed, TransferProgress
from modelfetch.demo.faults import Throttle
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
