"""Each failure of a request is a typed error that names the setting to check."""

from __future__ import annotations

import socket
import time

import httpx
import pytest

from modelfetch.errors import CredentialsError, ModelfetchError, UnreachableError
from modelfetch.http import Http, Timeouts
from modelfetch.http.connection import translate
from tests.cases import each
from tests.transfer.server import Origin, answering


def every_httpx_error() -> list[type[Exception]]:
    found: list[type[Exception]] = []
    queue: list[type[Exception]] = [httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict, httpx.StreamError]
    while queue:
        kind = queue.pop()
        found.append(kind)
        queue += kind.__subclasses__()
    return found


@each("kind", every_httpx_error())
def test_every_error_of_httpx_is_translated(kind: type[Exception]) -> None:
    try:
        error = kind("what it says")
    except TypeError:
        error = kind.__new__(kind)
    found = translate(error, "https://user:word@host/path?token=secret")
    assert isinstance(found, ModelfetchError)
    assert found.exit_code in (69, 77)
    assert "secret" not in found.message
    assert "word@" not in found.message


@pytest.mark.parametrize(
    ("error", "code", "hint"),
    [
        (httpx.ProxyError("407 Proxy Authentication Required"), "proxy-credentials", "//USER:PASSWORD@HOST:PORT"),
        (
            httpx.RemoteProtocolError("illegal status line: bytearray(b'x')"),
            "bad-response",
            "another service, or a proxy",
        ),
    ],
)
def test_the_hint_names_the_setting_to_check(error: Exception, code: str, hint: str) -> None:
    found = translate(error, "https://host/")
    assert found.code == code
    assert hint in (found.hint or "")


def test_a_closed_port_is_unreachable(http: Http) -> None:
    with pytest.raises(UnreachableError) as caught:
        http.get("http://127.0.0.1:9/")
    assert (caught.value.code, caught.value.permanent) == ("unreachable", False)


def test_an_unknown_host_name_is_unreachable(http: Http) -> None:
    with pytest.raises(UnreachableError) as caught:
        http.get("https://nowhere.invalid/")
    assert caught.value.code == "unreachable"


def test_a_host_that_never_accepts_is_a_time_out() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
    client = Http(timeouts=Timeouts(connect=0.3))
    start = time.monotonic()
    with pytest.raises(UnreachableError) as caught:
        client.get(f"http://127.0.0.1:{listener.getsockname()[1]}/")
    assert caught.value.code == "timeout"
    assert time.monotonic() - start < 2
    client.close()
    for sock in (listener, *fillers):
        sock.close()


@pytest.mark.parametrize("url", ["nonsense", "http:///x", "https://", "ftp://a/b", "https://a b/", "https://[::1/"])
def test_an_invalid_url_is_a_typed_error(http: Http, url: str) -> None:
    with pytest.raises(ModelfetchError):
        http.get(url)


def test_a_proxy_that_requires_credentials_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with Origin(b"", default=answering(407)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        client = Http()
        with pytest.raises(CredentialsError) as caught:
            client.get("https://hub.example/x")
        assert (caught.value.code, caught.value.exit_code) == ("proxy-credentials", 77)
        assert proxy.requests[0].method == "CONNECT"
        client.close()


def test_a_proxy_is_used_for_plain_http_too_and_no_proxy_exempts(monkeypatch: pytest.MonkeyPatch) -> None:
    with Origin(b"by proxy") as proxy, Origin(b"direct") as origin:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        client = Http(allow_http=lambda _h, _p: True)
        assert client.get("http://hub.example/x").body == b"by proxy"
        client.close()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        client = Http()
        assert client.get(origin.url).body == b"direct"
        client.close()
