"""A process that is suspended while it removes files, and another one that places them again meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import interpreter
from tests.care.suspending import age_locks, suspended_after
from tests.care.test_kills import Prune, Remove, SyncPrune, contents
from tests.cases import first

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.care.test_kills import Removal
    from tests.pipeline.conftest import Bench, Result

MOMENTS = [(Prune, 20), *((kind, n) for kind in (Prune, Remove, SyncPrune) for n in range(2, 76, 6))]
"""After how many changes of the file system the process is suspended."""


@pytest.mark.parametrize(("kind", "changes"), first(1, MOMENTS))
def test_a_suspended_removal_removes_nothing_that_another_process_has_placed_again(
    kind: Callable[[Bench, Callable[..., Result]], Removal],
    changes: int,
    bench: Bench,
    care: Callable[..., Result],
) -> None:
    scenario = kind(bench, care)
    words = ["sync", str(scenario.large), "--root", str(bench.root), "--json"]
    with suspended_after(changes, scenario.command) as removal:
        assert removal.poll() is None, removal.communicate()
        was_due = contents(bench.root) != scenario.before
        age_locks(bench.root)
        other = interpreter.run("-m", "modelfetch", *words)
        assert other.returncode == 0, other.stderr
    if not was_due:
        return  # the other process had nothing to do, and the removal came after it
    assert removal.returncode in (0, 75), removal.communicate()
    assert contents(bench.root) == scenario.before
    assert bench.run("status", scenario.large).code == 0
    made = {entry["origin"] for entry in care("list").report["entries"] if entry["path"] and entry["model"]}
    assert made == {"made"}
