"""The hub and root of the pipeline's tests, and what care's tests do to the files in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.cli.app import run
from tests.pipeline.conftest import Bench, Result
from tests.pipeline.conftest import bench as bench  # noqa: PLC0414 - the fixture

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def care(bench: Bench) -> Callable[..., Result]:
    """Runs a command on the bench's root, without a manifest."""

    def call(*words: str) -> Result:
        bench.capsys.readouterr()
        code = run([*words, "--root", str(bench.root), "--json"])
        out, err = bench.capsys.readouterr()
        return Result(code, out, err, json.loads(out) if out.startswith("{") else {})

    return call


def actions(result: Result) -> dict[str, str]:
    """The action of each placement in a report."""
    report: dict[str, Any] = result.report
    return {path: a["action"] for m in report["models"] for a in m["artifacts"] for path in a["placements"]}
