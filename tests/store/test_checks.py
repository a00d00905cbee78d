"""Damaged files of the store count as lost."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, example, given, settings

from modelfetch.store.checks import Check, now, read_checks, write_checks
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
