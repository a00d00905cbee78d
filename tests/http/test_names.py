from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.config.settings import Settings
from modelfetch.errors import InterruptedSync, UnreachableError
from modelfetch.http import Http, names
from modelfetch.manifest.uri import parse_uri
from modelfetch.sources import SourceRequest, Sources
from tests.cases import each

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    names._found.clear()
    yield
    names._found.clear()


def _fail(code: int, said: str) -> Any:
    def look_up(*_args: object, **_named: object) -> None:
        raise socket.gaierror(code, said)

    return look_up


@pytest.mark.parametrize("uri", ["https://h.invalid/x.bin", "hf://ns/repo/x", "civitai://1", "oci://h.invalid/a:b"])
def test_a_name_server_that_is_down_ends_every_source_in_under_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", _fail(socket.EAI_AGAIN, "Temporary failure in name resolution"))
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    http = Http()
    sources = Sources(http=http, settings=Settings(), retries=5, sleep=sleep)
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="can't be resolved: Temporary failure") as caught:
        asyncio.run(sources.resolve(SourceRequest(uri=parse_uri(uri))))
    http.close()
    assert sum(waits) + time.monotonic() - began < 10
    assert "name servers" in str(caught.value.hint)


def test_a_lookup_without_an_answer_is_a_permanent_error(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_n: ended.wait(30))
    with pytest.raises(names.NameLookupError, match=r"no name server answers for h\.invalid") as caught:
        names.check_name("h.invalid", limit=0.2)
    assert caught.value.permanent
    with pytest.raises(InterruptedSync):
        names.check_name("h.invalid", limit=20, stopped=lambda: True)
    ended.set()


def test_a_resolved_name_is_cached_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_n: calls.append(args))
    now = [0.0]
    for at in (0.0, 59.0, 61.0):
        now[0] = at
        names.check_name("h.example", clock=lambda: now[0])
    assert len(calls) == 2


@each("host", ["a" * 300, "x..y", "\udcff"])
def test_an_invalid_host_name_is_a_typed_error(host: str) -> None:
    with pytest.raises(names.NameLookupError):
        names.check_name(host)
