"""TLS is checked, and its connections are pumped and used again like plain ones."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest

from modelfetch.core.cancel import Cancel
from modelfetch.errors import SettingError, UnreachableError
from modelfetch.http import Http
from modelfetch.http.connection import tls_context
from tests.transfer.server import Origin, head, raw

if TYPE_CHECKING:
    from pathlib import Path

from tests.http.client import DATA, LONG, pump


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
