from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.transfer.bodies import DATA
from tests.transfer.world import World

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(root=tmp_path)


@pytest.fixture(params=["digest", "no digest"])
def known(request: pytest.FixtureRequest) -> bytes | None:
    """The data where the digest is known beforehand, None where it isn't."""
    return DATA if request.param == "digest" else None
