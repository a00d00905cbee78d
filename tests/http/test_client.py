"""The HTTP client, against real sockets: requests, connections, redirects, credentials and cancelling."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from modelfetch.core.cancel import Cancel
from modelfetch.errors import InterruptedSync, SettingError, UnreachableError
from modelfetch.http import Http, Timeouts
from modelfetch.http.connection import Wire, plain_context
from tests.cases import each
from tests.transfer.server import Conn, Origin, Request, answering, head, normally

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelfetch.http.types import Fetch
from tests.http.client import DATA, LONG, pump


class Keys:
    """Credentials for one host; records the requests for them."""

    def __init__(self, host: str, *, renew: bool = False) -> None:
        self.host, self.renew = host, renew
        self.token = "old"
        self.challenges: list[str] = []

    def headers(self, url: str) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if f"//{self.host}" in url else {}

    def rejected(self, url: str) -> bool:
        return bool(self.headers(url))

    def challenged(self, url: str, status: int, headers: Mapping[str, str], fetch: Fetch) -> bool:
        self.challenges.append(f"{status} {url}")
        self.token = "new"
        return self.renew


def test_a_response_of_any_status_is_returned(http: Http) -> None:
    with Origin(DATA, scripts=[answering(404, {"X-Why": "gone"}, b"no")]) as origin:
        reply = http.get(origin.url)
        assert (reply.status, reply.headers["x-why"], reply.headers["X-WHY"], reply.body) == (
            404,
            "gone",
            "gone",
            b"no",
        )
        assert http.get(origin.url).body == DATA
        assert http.requests == 2


def test_a_connection_is_used_again(http: Http) -> None:
    with Origin(DATA) as origin:
        for _ in range(20):
            assert http.get(origin.url).body == DATA
        assert origin.connections == 1


def test_as_many_connections_as_requests_at_once(http: Http) -> None:
    with Origin(DATA) as origin:
        with http.open("GET", origin.url) as first, http.open("GET", origin.url) as second:
            assert b"".join(second.iter_raw()) == b"".join(first.iter_raw()) == DATA
        assert origin.connections == 2


def test_a_stale_connection_is_replaced_without_an_error(http: Http) -> None:
    def closing_later(conn: Conn, request: Request, origin: Origin) -> None:
        normally(conn, request, origin)
        assert conn.read_request() is not None  # the next request is read but gets no response
        conn.close()

    with Origin(DATA, scripts=[closing_later]) as origin:
        assert http.get(origin.url).body == DATA
        assert http.get(origin.url).body == DATA
        assert origin.connections == 2


def test_a_connection_whose_body_was_pumped_is_used_again(http: Http) -> None:
    with Origin(LONG) as origin:
        for _ in range(5):
            assert pump(http, origin.url) == LONG
        assert http.get(origin.url).body == LONG
        assert origin.connections == 1


def test_a_pumped_connection_that_the_server_closes_is_replaced(http: Http) -> None:
    def once(conn: Conn, request: Request, origin: Origin) -> None:
        normally(conn, request, origin)
        conn.close()

    with Origin(LONG, scripts=[once, once]) as origin:
        assert [pump(http, origin.url) for _ in range(3)] == [LONG] * 3
        assert origin.connections == 3


def test_a_pumped_connection_with_surplus_bytes_is_not_reused(http: Http) -> None:
    def more(conn: Conn, request: Request, origin: Origin) -> None:
        normally(conn, request, origin)
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    with Origin(LONG, scripts=[more]) as origin:
        assert pump(http, origin.url) == LONG
        time.sleep(0.1)
        assert http.get(origin.url).body == LONG
        assert origin.connections == 2


def test_a_pumped_connection_that_is_reset_when_it_is_used_again_is_replaced(http: Http) -> None:
    def reset_later(conn: Conn, request: Request, origin: Origin) -> None:
        normally(conn, request, origin)
        assert conn.read_request() is not None
        conn.reset()

    with Origin(LONG, scripts=[reset_later]) as origin:
        assert pump(http, origin.url) == pump(http, origin.url) == LONG
        assert origin.connections == 2


def test_a_pumped_connection_that_was_idle_for_long_is_not_used_again(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelfetch.http.connection.KEEPALIVE", 0.1)
    with Origin(LONG) as origin:
        assert pump(http, origin.url) == LONG
        time.sleep(0.15)
        assert pump(http, origin.url) == LONG
        assert origin.connections == 2


def test_a_redirect_whose_body_trickles_is_followed_at_once(http: Http) -> None:
    def trickle(conn: Conn, _request: Request, origin: Origin) -> None:
        conn.send(head(302, {"Location": "/there", "Content-Length": "60000"}))
        while not origin.stop.wait(0.1):
            conn.send(b"x")

    start = time.monotonic()
    with Origin(DATA, scripts=[trickle]) as origin:
        assert http.get(origin.url).body == DATA
    assert time.monotonic() - start < 5


def test_an_answer_that_trickles_is_below_the_floor(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    def trickle(conn: Conn, _request: Request, origin: Origin) -> None:
        conn.send(head(200, {"Content-Length": "60000"}))
        while not origin.stop.wait(0.1):
            conn.send(b"x")

    monkeypatch.setattr("modelfetch.http.response.FLOOR_SECONDS", 0.5)
    start = time.monotonic()
    with Origin(DATA, scripts=[trickle]) as origin, pytest.raises(UnreachableError) as caught:
        http.get(origin.url)
    assert caught.value.code == "timeout"
    assert time.monotonic() - start < 5


def test_connection_close_is_honoured(http: Http) -> None:
    def closing(conn: Conn, request: Request, origin: Origin) -> None:
        conn.answer(200, {"Connection": "close"}, LONG)

    with Origin(LONG, scripts=[closing]) as origin:
        assert pump(http, origin.url) == http.get(origin.url).body == LONG
        assert origin.connections == 2


def test_behind_a_proxy_no_pumped_connection_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with Origin(LONG) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        client = Http(allow_http=lambda _h, _p: True)
        assert pump(client, "http://one.example/x") == pump(client, "http://two.example/x") == LONG
        assert proxy.connections == 2
        client.close()


def test_a_body_beyond_the_limit_is_a_bad_answer(http: Http) -> None:
    with Origin(DATA) as origin, pytest.raises(UnreachableError) as caught:
        http.get(origin.url, limit=100)
    assert caught.value.code == "bad-response"
    bomb = gzip.compress(bytes(50_000_000))
    with (
        Origin(DATA, default=answering(200, {"Content-Encoding": "gzip"}, bomb)) as origin,
        pytest.raises(UnreachableError),
    ):
        http.get(origin.url, limit=1_000_000)


def test_data_is_posted(http: Http) -> None:
    with Origin(DATA) as origin:
        http.get(origin.url, method="POST", data=b"a=1", headers={"Content-Type": "x/y"})
        assert origin.requests[0].method == "POST"
        assert origin.requests[0].headers["content-length"] == "3"


def test_redirects_are_followed_and_counted(http: Http) -> None:
    with Origin(DATA) as cdn:
        hop = [
            answering(307, {"Location": "/again"}),
            answering(302, {"Location": f"http://localhost:{cdn.port}/b?sig=1"}),
        ]
        with Origin(b"", scripts=[*hop]) as hub:
            reply = http.get(hub.url)
            assert reply.body == DATA
            assert reply.url == f"http://localhost:{cdn.port}/b?sig=1"
            assert http.requests == 3
            assert hub.connections == 1, "a redirect's body is read, so that its connection lives on"


def test_a_redirect_loop_ends(http: Http) -> None:
    with Origin(b"", default=answering(302, {"Location": "/"})) as hub, pytest.raises(UnreachableError) as caught:
        http.get(hub.url)
    assert (caught.value.code, caught.value.permanent) == ("too-many-redirects", True)
    assert len(hub.requests) == 11


@pytest.mark.parametrize("where", ["http://example.org/x", "http://8.8.8.8/x", "//example.org/x"])
def test_a_redirect_to_plain_http_is_not_followed(http: Http, where: str) -> None:
    with Origin(b"", default=answering(302, {"Location": where})) as hub, pytest.raises(UnreachableError) as caught:
        http.get(hub.url)
    assert (caught.value.code, caught.value.exit_code) == ("insecure-redirect", 69)


@pytest.mark.parametrize("where", ["file:///etc/passwd", "ftp://example.org/x", "https://[::1", "javascript:1"])
def test_a_redirect_to_a_url_that_is_not_http_is_a_bad_response(http: Http, where: str) -> None:
    with Origin(b"", default=answering(302, {"Location": where})) as hub, pytest.raises(UnreachableError) as caught:
        http.get(hub.url)
    assert caught.value.code == "bad-response"


def test_plain_http_is_used_only_where_it_is_allowed() -> None:
    asked = []

    def allow(host: str, port: int) -> bool:
        asked.append((host, port))
        return False

    client = Http(allow_http=allow)
    with pytest.raises(SettingError) as caught:
        client.get("http://example.org:8080/x?token=secret")
    assert (caught.value.code, caught.value.exit_code) == ("insecure-http", 78)
    assert "secret" not in caught.value.message
    assert asked == [("example.org", 8080)]
    client.close()


def test_credentials_are_sent_only_to_their_own_host() -> None:
    with (
        Origin(DATA) as cdn,
        Origin(b"", default=answering(302, {"Location": f"http://localhost:{cdn.port}/b"})) as hub,
    ):
        client = Http(auth=Keys("127.0.0.1"))
        client.get(hub.url, headers={"Authorization": "Basic mine", "X-Other": "stays", "Cookie": "a=b"})
        client.get(hub.url)
        client.close()
    assert [r.headers.get("authorization") for r in hub.requests] == ["Basic mine", "Bearer old"]
    assert [r.headers.get("authorization") for r in cdn.requests] == [None, None]
    assert "cookie" not in cdn.requests[0].headers
    assert cdn.requests[0].headers["x-other"] == "stays"


def test_a_cookie_that_a_host_sets_is_not_sent() -> None:
    client = Http()
    with Origin(DATA, scripts=[answering(200, {"Set-Cookie": "id=1"})]) as origin:
        client.get(origin.url)
        client.get(origin.url)
        assert "cookie" not in origin.requests[1].headers
    client.close()


def test_a_challenge_is_answered_once() -> None:
    for renew, requests in ((True, 2), (False, 1)):
        keys = Keys("127.0.0.1", renew=renew)
        client = Http(auth=keys)
        with Origin(DATA, default=answering(401)) as origin:
            assert client.get(origin.url).status == 401
            assert len(origin.requests) == requests
            assert keys.challenges[0] == f"401 {origin.url}"
            if renew:
                assert origin.requests[1].headers["authorization"] == "Bearer new"
        client.close()


def test_mirrors_rewrite_the_longest_prefix_at_a_boundary() -> None:
    with Origin(DATA) as origin:
        here = f"http://127.0.0.1:{origin.port}"
        client = Http(rewrites=[("https://hub.example", f"{here}/short"), ("https://hub.example/a/", f"{here}/long/")])
        assert client.get("https://hub.example/a/file").body == DATA
        assert client.get("https://hub.example/b").body == DATA
        assert [r.target for r in origin.requests] == ["/long/file", "/short/b"]
        with pytest.raises(UnreachableError):
            client.get("https://hub.example.invalid/x")
        client.close()


@each("where", ["headers", "body", "connect"])
def test_a_cancelled_request_ends_at_once(where: str) -> None:
    def hang(conn: Conn, request: Request, origin: Origin) -> None:
        if where == "body":
            conn.send(head(200, {"Content-Length": "100"}) + b"x")
        origin.stop.wait(20)

    with Origin(DATA, default=hang) as origin:
        client, cancel = Http(), Cancel()
        url = origin.url
        full = socket.create_server(("127.0.0.1", 0), backlog=0)
        fillers = [socket.socket() for _ in range(4)]
        if where == "connect":
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            url = f"http://127.0.0.1:{full.getsockname()[1]}/"
        threading.Timer(0.2, lambda: cancel.set(code="terminated", exit_code=143)).start()
        start = time.monotonic()
        with pytest.raises(InterruptedSync) as caught:
            client.get(url, cancel=cancel)
        assert time.monotonic() - start < 1.0
        assert caught.value.exit_code == 143
        client.close()
        for sock in (full, *fillers):
            sock.close()


def test_a_cancelled_client_sends_nothing_more(http: Http) -> None:
    cancel = Cancel()
    cancel.set()
    with Origin(DATA) as origin:
        with pytest.raises(InterruptedSync):
            http.get(origin.url, cancel=cancel)
        assert http.requests == 0
        assert not origin.requests


def test_every_connection_is_made_by_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    for proxied in (False, True):
        with Origin(b"body") as origin:
            if proxied:
                monkeypatch.setenv("HTTP_PROXY", origin.url.rpartition("/")[0])
            wire = Wire("http", plain_context(), Timeouts(), "test")
            url = "http://hub.example/x" if proxied else origin.url
            assert wire.send("GET", url, {}, None).read() == b"body"
            assert (wire._backend.connected, wire._backend.parks) == (1, not proxied)
            wire.close()
