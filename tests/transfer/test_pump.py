"""When the pump passes buffers on."""

from __future__ import annotations

import socket
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from modelfetch.core.cancel import Cancel
from modelfetch.errors import UnreachableError
from modelfetch.http import Timeouts
from modelfetch.transfer.pump import Flow, Pump
from modelfetch.transfer.rate import Floor, Limiter

if TYPE_CHECKING:
    from modelfetch.http import Response
    from modelfetch.transfer.types import Context


def pump(sock: socket.socket, *, idle: float) -> Pump:
    context = SimpleNamespace(
        tuning=SimpleNamespace(clock=time.monotonic),
        limiter=Limiter(None),
        http=SimpleNamespace(timeouts=Timeouts(idle=idle)),
    )
    return Pump(
        cast("Context", context),
        cast("Response", SimpleNamespace(url="https://host.example/file")),
        sock,
        flow=Flow(),
        floor=Floor(0, 60, 0.0),
        cancel=Cancel(),
        progress=lambda count: None,
    )


def test_what_arrived_before_a_stall_is_handed_on_while_it_lasts() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader, memory = pump(ours, idle=60), memoryview(bytearray(4096))
        for _ in range(2):
            theirs.sendall(b"x" * 1000)
            began = time.monotonic()
            assert reader.fill(memory) == 1000
            assert time.monotonic() - began < 30


def test_a_connection_that_stays_silent_fails_only_after_the_idle_time() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader, memory = pump(ours, idle=0.3), memoryview(bytearray(4096))
        theirs.sendall(b"x" * 1000)
        assert reader.fill(memory) == 1000
        began = time.monotonic()
        with pytest.raises(UnreachableError, match=r"sent nothing for 0\.3 s"):
            reader.fill(memory)
        assert time.monotonic() - began >= 0.3
