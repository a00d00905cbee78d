"""The HTTP client, against real sockets."""

from __future__ import annotations

import gzip
import socket
import ssl
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from modelfetch.core.cancel import Cancel
from modelfetch.errors import CredentialsError, InterruptedSync, ModelfetchError, SettingError, UnreachableError
from modelfetch.http import Http, Timeouts
from modelfetch.http.connection import Wire, plain_context, tls_context, translate
from tests.cases import each
from tests.transfer.server import Conn, Origin, Request, answering, head, normally, raw

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from modelfetch.http.types import Fetch

DATA = b"model " * 5000


@pytest.fixture
def http() -> object:
    client = Http(timeouts=Timeouts(connect=1.0, headers=0.5, idle=0.5))
    yield client
    client.close()


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


def pump(client: Http, url: str) -> bytes:
    """Read a body from the socket, as the engine does."""
    with client.open("GET", url) as response:
        got = bytearray(next(response.iter_raw()))
        sock = response.socket()
        assert sock is not None
        buffer = bytearray(100_000)
        while left := (response.length or 0) - len(got):
            got += memoryview(buffer)[: sock.recv_into(buffer, min(left, len(buffer)))]
        response.reuse()
    return bytes(got)


LONG = DATA * 20


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


# --- redirects -------------------------------------------------------------------------------------------------


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


# --- errors ----------------------------------------------------------------------------------------------------


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


# --- TLS -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


class TlsServer:
    """Serves one connection after the other, each for any number of requests."""

    def __init__(self, certificate: Path, body: bytes, surplus: bytes = b"") -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._context, self._body, self._surplus = context, body, surplus
        self.connections = 0
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}/x"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(plain, server_side=True) as sock:
                    self.connections += 1
                    while sock.recv(65536):
                        sock.sendall(head(200, {"Content-Length": str(len(self._body))}) + self._body + self._surplus)
            except OSError:
                plain.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


def test_tls_is_checked_and_the_pump_may_read_from_it(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = TlsServer(certificate, bytes(range(256)) * 40_000)
    client = Http()
    with pytest.raises(UnreachableError) as caught:
        client.get(server.url)
    assert (caught.value.code, caught.value.permanent) == ("certificate", True)
    client.close()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    client = Http()
    with client.open("GET", server.url) as response:
        got = bytearray(next(response.iter_raw()))
        sock = response.socket()
        assert isinstance(sock, ssl.SSLSocket)
        buffer = bytearray(100_000)
        while len(got) < 256 * 40_000:
            got += buffer[: sock.recv_into(buffer)]
    assert got == bytes(range(256)) * 40_000
    client.close()
    server.close()


def test_a_pumped_tls_connection_is_used_again(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    server, client = TlsServer(certificate, LONG), Http()
    assert [pump(client, server.url) for _ in range(4)] == [LONG] * 4
    assert client.get(server.url).body == LONG
    assert server.connections == 1
    client.close()
    server.close()


def test_a_pumped_tls_connection_with_surplus_bytes_is_not_reused(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    server, client = TlsServer(certificate, LONG, surplus=b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"), Http()
    assert [pump(client, server.url) for _ in range(3)] == [LONG] * 3
    client.close()
    server.close()


def test_a_cancelled_tls_read_returns_no_encrypted_bytes(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    body = b"A" * 3_000_000
    server = TlsServer(certificate, body)
    client, cancel = Http(), Cancel()
    with client.open("GET", server.url, cancel=cancel) as response:
        next(response.iter_raw())
        sock = response.socket()
        assert sock is not None
        time.sleep(0.1)
        cancel.set()
        left = bytearray()
        buffer = bytearray(70_000)
        try:
            while count := sock.recv_into(buffer):
                left += buffer[:count]
        except OSError:
            pass
        assert set(left) <= {ord("A")}
    client.close()
    server.close()


def test_the_authorities_of_the_web_are_trusted_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    assert tls_context().cert_store_stats()["x509_ca"] > 50


def test_plain_http_on_a_tls_port_is_unreachable(http: Http) -> None:
    with (
        Origin(DATA, default=raw(b"HTTP/1.1 400 Bad\r\n\r\n")) as origin,
        pytest.raises(UnreachableError) as caught,
    ):
        http.get(origin.url.replace("http:", "https:"))
    assert caught.value.code != "certificate"


def test_an_invalid_certificate_file_is_a_setting_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    client = Http()
    with pytest.raises(SettingError):
        client.get("https://127.0.0.1:9/")
    client.close()


# --- cancelling ------------------------------------------------------------------------------------------------


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
