from __future__ import annotations

from pathlib import Path

import pytest

from tests.transfer.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(root=tmp_path)
