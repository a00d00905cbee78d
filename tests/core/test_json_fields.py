"""A file of modelfetch's own with more values than any real one has counts as damaged: parsing it takes gigabytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.core import directories, json_fields
from modelfetch.core.json_fields import parse
from modelfetch.pipeline.local_files import in_place_list, read_in_place
from modelfetch.placement import journal
from modelfetch.placement.journal import Claim
from modelfetch.placement.receipts import read_receipt, receipt_path
from modelfetch.store.checks import read_checks
from tests.cases import each

if TYPE_CHECKING:
    from pathlib import Path

SOME = 100


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer values are allowed, so that the test takes no time."""
    monkeypatch.setattr(json_fields, "MAX_VALUES", SOME)


def with_values(document: dict[str, Any], count: int) -> bytes:
    return json.dumps({**document, "more": [[]] * count}).encode()


@pytest.mark.usefixtures("few")
def test_files_with_too_many_values_count_as_damaged(tmp_path: Path) -> None:
    entry = {"size": 1, "mtime_ns": 2, "how": "copy", "made": True, "model": "m"}
    receipt = {"version": 1, "placements": {"comfyui/a": entry}, "resolved": {}}
    checks = {"version": 1, "checked": {"comfyui/a": [1, 2, 3, True]}}
    in_place = {"version": 1, "files": {"sha256:x": [{"path": "/a"}]}}
    own = directories.own_folder(tmp_path)
    for count, is_read in ((1, True), (SOME, False)):
        for path, document in (
            (receipt_path(tmp_path, "comfyui"), receipt),
            (own / "checks.json", checks),
            (in_place_list(tmp_path), in_place),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(with_values(document, count))
        found = read_receipt(tmp_path, "comfyui").entries, read_checks(own), read_in_place(tmp_path)
        assert [bool(one) for one in found] == [is_read] * 3


def test_a_line_of_a_journal_that_no_claim_can_have_is_ignored(tmp_path: Path) -> None:
    journal.append(tmp_path, "comfyui", {"a": Claim(digest=None, target="x" * 2**20), "b": Claim(digest=None)})
    assert list(journal.read(tmp_path, "comfyui")) == ["b"]


@each("content", [b"", b"[", b"\xff", b'"\xff"', b"[" * 200_000, b'{"a":' * 100_000, b"9" * 5000])
def test_anything_else_is_a_value_error_or_nested_too_deeply(content: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        parse(content)
