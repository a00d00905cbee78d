from __future__ import annotations

import asyncio
import threading

import pytest

from modelfetch.errors import UnreachableError
from modelfetch.sources import resolver


def test_an_attempt_that_takes_too_long_is_a_timeout_that_may_be_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "ATTEMPT_LIMIT", 0.05)
    blocked = threading.Event()
    with pytest.raises(UnreachableError) as caught:
        asyncio.run(resolver._within_limit(lambda: blocked.wait(30)))
    assert (caught.value.code, caught.value.permanent) == ("timeout", False)
    blocked.set()
