from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.transfer.world import World

if TYPE_CHECKING:
    from pathlib import Path


settings.register_profile("any machine")  # a busy machine is no failure
settings.load_profile("any machine")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(root=tmp_path)
