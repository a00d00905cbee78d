from __future__ import annotations

import pytest

from modelfetch.http import Http, Timeouts


@pytest.fixture
def http() -> object:
    client = Http(timeouts=Timeouts(connect=1.0, headers=0.5, idle=0.5))
    yield client
    client.close()
