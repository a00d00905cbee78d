from __future__ import annotations

import httpx
import pytest
import respx

from modelfetch.errors import CredentialsError, UnreachableError
from modelfetch.http import Http
from modelfetch.http.transport import ConnectionTransport


@respx.mock
@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (httpx.ConnectError("no"), "unreachable"),
        (httpx.ReadTimeout("late"), "timeout"),
        (httpx.RemoteProtocolError("odd"), "bad-response"),
        (httpx.ProxyError("502 Bad Gateway"), "unreachable"),
        (httpx.LocalProtocolError("Illegal header value b'Bearer SECRET\\n'"), "bad-response"),
    ],
)
def test_each_failure_of_httpx_is_typed(failure: Exception, code: str) -> None:
    respx.get("https://h.example/x").mock(side_effect=failure)
    client = Http()
    with pytest.raises(UnreachableError) as caught:
        client.get("https://h.example/x?token=SECRET")
    client.close()
    assert caught.value.code == code
    assert "SECRET" not in str(caught.value)


@respx.mock
def test_a_proxy_that_requires_a_password_has_its_own_error() -> None:
    respx.get("https://h.example/x").mock(side_effect=httpx.ProxyError("407 Proxy Authentication Required"))
    client = Http()
    with pytest.raises(CredentialsError) as caught:
        client.get("https://h.example/x")
    client.close()
    assert caught.value.code == "proxy-credentials"


def test_what_the_socks_library_raises_is_an_error_of_the_proxy() -> None:
    class ProtocolError(Exception):
        """As in the optional package socksio."""

    ProtocolError.__module__ = "socksio.exceptions"

    class Connections:
        def handle_request(self, _request: object) -> None:
            raise ProtocolError("Malformed reply")

    transport = ConnectionTransport(Connections())  # type: ignore[arg-type]
    with pytest.raises(httpx.ProxyError, match="Malformed reply"):
        transport.handle_request(httpx.Request("GET", "http://h.example/"))
