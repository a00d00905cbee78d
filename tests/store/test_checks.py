"""Damaged files of the store count as lost."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings

from modelfetch.errors import RetryLaterError
from modelfetch.store import checks as checks_module
from modelfetch.store.checks import Check, add_checks, now, read_checks, write_checks
from modelfetch.store.locks.owner import Owner
from modelfetch.store.record import BlobRecord
from tests.damage import odd_documents
from tests.examples import examples

if TYPE_CHECKING:
    from pathlib import Path

FEW = settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
RECORD = {"size": 1, "mtime_ns": 2, "chunks": ["0" * 16], "digests": {"blake3": "0" * 64}}


def test_checks_are_read_as_they_were_written(tmp_path: Path) -> None:
    checks = {"comfyui/a": Check(size=1, mtime_ns=2, at=now(), ok=True)}
    write_checks(tmp_path, checks)
    assert read_checks(tmp_path) == checks


@pytest.mark.parametrize("times", [1, 9])
def test_checks_of_a_process_that_took_over_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """As after a suspension between reading and writing them."""
    mine, others = (Check(size=1, mtime_ns=2, at=now(), ok=ok) for ok in (True, False))
    left = [times]

    def taken_over(folder: Path) -> dict[str, Check]:
        found = read_checks(folder)
        if left[0]:
            left[0] -= 1
            (folder / "locks/checks.lock").unlink()
            write_checks(folder, {"other": others})
        return found

    monkeypatch.setattr(checks_module, "read_checks", taken_over)
    with pytest.raises(RetryLaterError) if times > 1 else contextlib.nullcontext():
        add_checks(tmp_path, {"mine": mine}, timeout=None)
    assert read_checks(tmp_path) == {"other": others, **({"mine": mine} if times == 1 else {})}


@FEW
@example(document={"version": 1, "checked": {"a": [1, 2, 10**20, True]}})
@example(document={"version": 1, "checked": {"a": [1, float("inf"), 3, True]}})
@given(document=odd_documents({"version": 1, "checked": {"a": [1, 2, 3, True]}}))
def test_damaged_checks_are_ignored(tmp_path: Path, document: Any) -> None:
    (tmp_path / "checks.json").write_text(json.dumps(document))
    assert all(isinstance(check.at, datetime) for check in read_checks(tmp_path).values())


@FEW
@given(document=odd_documents(RECORD))
def test_a_damaged_record_is_ignored(document: Any) -> None:
    record = BlobRecord.parse(json.dumps(document).encode())
    assert record is None or BlobRecord.parse(record.dump()) == record


@FEW
@given(document=odd_documents(asdict(Owner.me())))
def test_a_damaged_owner_record_is_ignored(document: Any) -> None:
    owner = Owner.parse(json.dumps(document).encode())
    assert owner is None or owner.is_dead() in (True, False)
