from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from urllib.parse import urlsplit

import pytest

from modelfetch.demo import Hub, ZeroBody
from modelfetch.demo.faults import Throttle
from tests.demo.conftest import ask
from tests.faults import Stall


def _received(sock: socket.socket) -> bytes:
    """Return all bytes until the connection ends, also with a reset (which happens if data was left unread)."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(1000):
            received += piece
    return received


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("demo-")]


def test_every_origin_has_its_own_port_and_the_cdn_its_own_name(hub: Hub) -> None:
    bases = [hub.endpoint, hub.ollama, hub.civitai, hub.files, hub.cdn]
    assert len({urlsplit(base).port for base in bases}) == 5
    assert {urlsplit(base).hostname for base in bases[:4]} == {"127.0.0.1"}
    assert urlsplit(hub.cdn).hostname == "localhost"


def test_closing_the_hub_stops_its_listeners_and_threads() -> None:
    with Hub() as hub:
        hub.world.file("a", b"a")
        url = hub.files + "a"
        assert ask(url).body == b"a"
        assert threads()
    assert threads() == []
    with pytest.raises(ConnectionRefusedError):
        ask(url)
    hub.stop()


def test_a_hub_starts_again_on_the_same_ports() -> None:
    hub = Hub()
    hub.world.file("a", b"a")
    for _ in range(2):
        with hub:
            url = hub.files + "a"
            assert ask(url).body == b"a"
    assert url == hub.files + "a"


def test_without_further_threads_requests_are_answered_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Hub() as hub:
        hub.world.file("a", b"a")
        monkeypatch.setattr(threading.Thread, "start", start)
        replies = [ask(hub.files + "a") for _ in range(3)]
        assert [reply.body for reply in replies] == [b"a"] * 3
        port = urlsplit(hub.files).port
        with socket.create_connection(("127.0.0.1", port)):  # sends nothing
            hub.stop()
    assert threads() == []


@pytest.mark.parametrize("fault", [Stall(seconds=60), Throttle(rate=100)])
def test_closing_the_hub_does_not_wait_for_a_slow_answer(fault: Stall | Throttle) -> None:
    with Hub() as hub:
        hub.world.file("zero", ZeroBody(1 << 20))
        hub.faults.add("*", fault)
        parts = urlsplit(hub.files)
        client = socket.create_connection(("127.0.0.1", parts.port or 0), timeout=10)
        client.sendall(b"GET /files/zero HTTP/1.1\r\nHost: x\r\n\r\n")
        while not hub.log.requests():
            time.sleep(0.01)
        started = time.monotonic()
    client.close()
    assert time.monotonic() - started < 30  # the answer takes twice that, or hours
    assert threads() == []


def test_a_client_that_disconnects_does_not_disturb_others(hub: Hub) -> None:
    hub.world.file("zero", ZeroBody(64 << 20))
    parts = urlsplit(hub.files)
    with socket.create_connection(("127.0.0.1", parts.port or 0), timeout=10) as client:
        client.sendall(b"GET /files/zero HTTP/1.1\r\nHost: x\r\n\r\n")
        client.recv(1000)
    assert hub.log.wait_idle()
    hub.world.file("a", b"a")
    assert ask(hub.files + "a").body == b"a"


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00\x01\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/2\r\n\r\n",
        b"GET http://[x HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ],
)
def test_a_request_that_is_not_http_gets_400_and_a_closed_connection(hub: Hub, noise: bytes) -> None:
    parts = urlsplit(hub.files)
    with socket.create_connection(("127.0.0.1", parts.port or 0), timeout=10) as client:
        client.sendall(noise)
        assert _received(client).startswith(b"HTTP/1.1 400 ")


def test_a_connection_is_kept_and_its_requests_share_a_number(hub: Hub) -> None:
    hub.world.file("a", b"a")
    parts = urlsplit(hub.files)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    for _ in range(2):
        connection.request("GET", "/files/a")
        assert connection.getresponse().read() == b"a"
    connection.close()
    ask(hub.files + "a")
    first, second, third = (entry.connection for entry in hub.log.requests())
    assert first == second != third


def test_the_log_records_each_request(hub: Hub) -> None:
    hub.world.file("a", b"abcdef")
    mark = hub.log.mark()
    ask(hub.files + "a?x=1", Range="bytes=2-3", Authorization="Bearer secret")
    ask(hub.endpoint + "/api/models/none")
    assert hub.log.wait_idle()
    first, second = hub.log.since(mark)
    assert (first.origin, first.method, first.path, first.target) == ("files", "GET", "/files/a", "/files/a?x=1")
    assert (first.range, first.authorization, first.status, first.sent) == ("bytes=2-3", "Bearer secret", 206, 2)
    assert first.host == urlsplit(hub.files).netloc
    assert first.ended is not None
    assert first.ended >= first.started
    assert [second] == hub.log.requests(origin="hf") == hub.log.requests("/api/*", method="GET")
    assert hub.log.sent("/files/*") == 2
    hub.log.clear()
    assert len(hub.log) == 0


def test_generated_content_is_not_computed_before_it_is_read(hub: Hub) -> None:
    hub.world.file("huge", ZeroBody(1 << 50), etag="huge")
    answer = ask(hub.files + "huge", Range="bytes=1099511627776-1099511627785")
    assert (answer.status, answer.body) == (206, bytes(10))


def test_many_concurrent_clients_get_the_right_bytes(hub: Hub) -> None:
    hub.world.file("zero", ZeroBody(300_000))
    sizes: list[int] = []
    clients = [
        threading.Thread(target=lambda: sizes.append(len(ask(hub.files + "zero").body)), name=f"client-{number}")
        for number in range(16)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert sizes == [300_000] * 16


def test_every_origin_of_the_hub_can_use_tls() -> None:
    # Anonymous ciphers need no certificate and are enough to show that the hub uses TLS.
    server, client = (ssl.SSLContext(side) for side in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT))
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    for context in (server, client):
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("aNULL:@SECLEVEL=0")
    with Hub(ssl_context=server) as hub:
        hub.world.file("a", b"a")
        assert {urlsplit(base).scheme for base in (hub.endpoint, hub.ollama, hub.files, hub.cdn)} == {"https"}
        connection = http.client.HTTPSConnection(urlsplit(hub.files).netloc, timeout=10, context=client)
        try:
            connection.request("GET", "/files/a")
            assert connection.getresponse().read() == b"a"
        finally:
            connection.close()
        with socket.create_connection(("127.0.0.1", urlsplit(hub.files).port or 0), timeout=10) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert not _received(plain).startswith(b"HTTP/")
    assert threads() == []


def test_an_internal_error_of_the_hub_is_sent_to_the_client(hub: Hub) -> None:
    hub.world.repos["org/odd"] = 5  # type: ignore[assignment]
    answer = ask(hub.endpoint + "/api/models/org/odd")
    assert (answer.status, b"AttributeError" in answer.body) == (500, True)
