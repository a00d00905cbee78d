from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from modelfetch.config.settings import Settings
from modelfetch.core.digest import Digest
from modelfetch.manifest.uri import parse_uri
from modelfetch.sources import SourceRequest, known
from tests.sources.contract import Case, Contract

if TYPE_CHECKING:
    from pathlib import Path

    from modelfetch.demo.hub import Hub
    from tests.sources.bench import SourceBench


class TestFile(Contract):
    @pytest.fixture
    def case(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
        (tmp_path / "a model.safetensors").write_bytes(b"12345")
        (tmp_path / "closed.bin").write_bytes(b"1")
        readable = os.access
        # Tests may run as root, to whom modes do not apply.
        monkeypatch.setattr(os, "access", lambda path, mode: "closed" not in str(path) and readable(path, mode))
        return Case(
            good=f"file://{tmp_path}/a%20model.safetensors",
            sizes={"a model.safetensors": 5},
            missing=f"file://{tmp_path}/nothing.bin",
            refused=f"file://{tmp_path}/closed.bin",
        )


def test_a_folder_is_refused_as_a_file(bench: SourceBench, tmp_path: Path) -> None:
    assert bench.refusal(f"file://{tmp_path}").exit_code == 66


def test_a_file_is_read_even_when_offline(bench: SourceBench, tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "x.bin").write_bytes(b"123")
    bench.sources._settings = Settings(offline=True)
    assert bench.resolve(f"file://{tmp_path}/x.bin").artifacts[0].size == 3
    assert hub.log.requests() == []


def test_a_size_that_contradicts_is_65(bench: SourceBench, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"123")
    error = bench.refusal(f"file://{tmp_path}/x.bin", size=4)
    assert (error.exit_code, error.code) == (65, "size-mismatch")


def test_a_pinned_file_is_not_opened_to_resolve_it() -> None:
    digest = Digest("sha256", "1" * 64)
    wanted = SourceRequest(uri=parse_uri("file:///nowhere/x.bin"), digest=digest, size=3)
    found = known(wanted, Settings(), lambda _digest: None)
    assert found is not None
    assert (found.artifacts[0].digest, found.artifacts[0].size) == (digest, 3)
