from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.pipeline.conftest import bench
from tests.placement.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


__all__ = ["bench"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    root = tmp_path / "root"
    root.mkdir()
    return World(root)


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test cuts the power, and waiting for the disk is most of what these would do."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)


@pytest.fixture(autouse=True)
def _odd_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)
