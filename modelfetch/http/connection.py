"""Connections that serve one request at a time, and whose sockets can be closed by another thread."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import httpcore
import httpx

from modelfetch.core.limits import limit_behind
from modelfetch.core.urls import redact
from modelfetch.errors import CredentialsError, InterruptedSync, ModelfetchError, SettingError, UnreachableError
from modelfetch.http.names import LOOKUP_SECONDS, check_name
from modelfetch.http.proxies import with_proxy
from modelfetch.http.status import certificate_error, invalid_answer_error
from modelfetch.http.transport import KEEPALIVE, Routes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from modelfetch.http.types import Timeouts

READ_SIZE = 256 * 1024
"""Bytes per read of a body through httpx; httpx's default, a quarter of this, costs a third of the speed."""


class Watch:
    """Bounds a wire's current request: deadlines for headers and content, and a way to interrupt its blocking calls."""

    def __init__(self) -> None:
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._deadline: float | None = None
        self._payload_deadline: float | None = None
        self.shut = threading.Event()

    def begin(self, seconds: float) -> None:
        """Start a request whose headers must arrive within ``seconds``."""
        self._deadline = time.monotonic() + seconds

    @property
    def awaits_headers(self) -> bool:
        """Return whether the response's headers have not arrived yet."""
        return self._deadline is not None

    def headers_arrived(self) -> None:
        """Switch from the header deadline to the idle timeout and the deadline of `await_payload`."""
        self._deadline = self._payload_deadline = None

    def await_payload(self, seconds: float) -> None:
        """Require some body content within ``seconds``."""
        self._payload_deadline = time.monotonic() + seconds

    def bound(self, timeout: float | None) -> float | None:
        """Return the timeout of one read, limited by the deadline."""
        deadline = self._payload_deadline if self._deadline is None else self._deadline
        if deadline is None:
            return timeout
        left = deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the headers or the content took too long")
        return left if timeout is None else min(timeout, left)

    def add(self, sock: object) -> None:
        """Register a socket of this wire."""
        if isinstance(sock, socket.socket):
            with self._lock:
                self._sockets.add(sock)
            if self.shut.is_set():
                shut_down(sock)

    def end(self) -> None:
        """Make every blocked read of this wire return immediately; callable from any thread."""
        self.shut.set()
        with self._lock:
            sockets = list(self._sockets)
        for sock in sockets:
            shut_down(sock)


def shut_down(sock: socket.socket) -> None:
    """Shut a connection down so that a blocked read on it returns.

    Call the base class's method: that of ``SSLSocket`` would drop the TLS layer, and a later read would return
    encrypted bytes.
    """
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Stream(httpcore.NetworkStream):
    """httpcore's stream with larger reads and the watch's deadline; it can outlive httpcore's use of it."""

    def __init__(self, inner: httpcore.NetworkStream, backend: Backend, origin: tuple[str, int]) -> None:
        self._inner = inner
        self._backend = backend
        self._origin = origin
        self._is_parked = False
        self.is_encrypted = False
        backend.watch.add(inner.get_extra_info("socket"))

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        watch = self._backend.watch
        if watch.awaits_headers:
            return self._inner.read(max_bytes, watch.bound(timeout))
        return self._inner.read(max(max_bytes, READ_SIZE), watch.bound(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        if not self._is_parked:
            self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        if self.is_encrypted:
            return self  # the connection was kept with its TLS session
        attempt = _Attempt(lambda: self._inner.start_tls(ssl_context, server_hostname, timeout))
        stream = _Stream(attempt.result(self._backend.watch, timeout), self._backend, self._origin)
        stream.is_encrypted = True
        return stream

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)

    def park(self) -> None:
        """Keep the connection for the next request to its host: the body was read completely, but not by httpcore.

        httpcore considers it closed then.
        """
        if not self._is_parked and not self._backend.watch.shut.is_set():
            self._is_parked = self._backend.park(self._origin, self._inner, encrypted=self.is_encrypted)


class Backend(httpcore.NetworkBackend):
    """Connects in a separate thread, so that a slow name server or silent host does not delay cancellation.

    ``parks``: whether to keep a connection whose body the pump has read. Not allowed behind a proxy, where a
    connection to the same address leads to another host.

    Args:
        watch: Bounds the requests.
    """

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.parks = True
        self._inner = httpcore.SyncBackend()
        self._lot: dict[tuple[str, int], tuple[httpcore.NetworkStream, bool, float]] = {}
        self.connected = 0
        """Number of connections made."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Return a connection, reusing a kept one if possible; raises httpcore's exceptions and `NameLookupError`."""
        origin = (host, port)
        kept, encrypted, since = self._lot.pop(origin, (None, False, 0.0))
        if kept is not None:
            if _is_quiet(kept) and time.monotonic() - since < KEEPALIVE:
                stream = _Stream(kept, self, origin)
                stream.is_encrypted = encrypted
                return stream
            kept.close()
        self.connected += 1
        limit = LOOKUP_SECONDS if timeout is None else min(timeout, LOOKUP_SECONDS)
        check_name(host, limit=limit, stopped=self.watch.shut.is_set)
        attempt = _Attempt(lambda: self._inner.connect_tcp(host, port, timeout, local_address, socket_options))
        return _Stream(attempt.result(self.watch, timeout), self, origin)

    def park(self, origin: tuple[str, int], inner: httpcore.NetworkStream, *, encrypted: bool) -> bool:
        """Keep a connection; returns whether it was kept."""
        if not self.parks or origin in self._lot:
            return False
        self._lot[origin] = (inner, encrypted, time.monotonic())
        return True

    def close(self) -> None:
        """Close all kept connections."""
        for inner, *_ in self._lot.values():
            inner.close()
        self._lot.clear()


def _is_quiet(stream: httpcore.NetworkStream) -> bool:
    """Return whether a connection is open and has no unread data, in the TLS layer either."""
    sock = stream.get_extra_info("socket")
    return not stream.get_extra_info("is_readable") and not (isinstance(sock, ssl.SSLSocket) and sock.pending())


class _Attempt:
    """One connection or TLS handshake, made in a separate thread."""

    def __init__(self, connect: Callable[[], httpcore.NetworkStream]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._given_up = False
        self._stream: httpcore.NetworkStream | None = None
        self._error: BaseException | None = None
        try:
            threading.Thread(target=self._run, name="modelfetch-connect", daemon=True).start()
        except RuntimeError:  # no thread available: connect in this one, without interruption
            self._run()

    def _run(self) -> None:
        try:
            stream = self._connect()
        except BaseException as error:
            self._error = error
        else:
            with self._lock:
                if self._given_up:
                    stream.close()
                else:
                    self._stream = stream
        self._done.set()

    def result(self, watch: Watch, timeout: float | None) -> httpcore.NetworkStream:
        """Return the stream, once connected.

        Raises:
            httpcore.ConnectTimeout: It took longer than `timeout` seconds, name resolution included.
            httpcore.ConnectError: It failed, or the watch was interrupted.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._done.wait(0.05 if deadline is None else max(0.0, min(0.05, deadline - time.monotonic()))):
            late = deadline is not None and time.monotonic() >= deadline
            if late or watch.shut.is_set():
                with self._lock:
                    if self._stream is None:
                        self._given_up = True
                        break
        if self._error is not None:
            raise self._error
        if self._stream is None:
            raise httpcore.ConnectError("ended") if watch.shut.is_set() else httpcore.ConnectTimeout("timed out")
        return self._stream


class Wire:
    """Sends one request at a time over its own connections.

    One client shared by many threads gets slower as their number rises (measured: docs/benchmarks.md), so each
    active request has its own wire, and idle wires are reused for their open connections. `httpx.Client` is not used:
    redirects, proxies and retries are handled here, cookies must not reach another host, and for a small file the
    client took half of the time of a request.
    """

    def __init__(self, scheme: str, context: ssl.SSLContext, timeouts: Timeouts, user_agent: str) -> None:
        self.scheme = scheme
        self.watch = Watch()
        self.waited = 0.0
        self._before = 0
        self._timeouts = timeouts
        self._backend = Backend(self.watch)
        routes = Routes(scheme, context, self._backend)
        self._backend.parks = not routes.has_proxy
        self._routes = routes
        self._timeout = httpx.Timeout(timeouts.idle, connect=timeouts.connect).as_dict()
        self._headers = {
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Connection": "keep-alive",
            "User-Agent": user_agent,
        }

    def send(self, method: str, url: str, headers: dict[str, str], data: bytes | None) -> httpx.Response:
        """Send one request and return once the headers of its response have arrived.

        Raises:
            httpx.HTTPError, httpx.InvalidURL: As httpx does; `translate` converts them to typed errors.
        """
        self.watch.begin(self._timeouts.connect + self._timeouts.headers)
        self._before = self._backend.connected
        given = {name.lower() for name in headers}
        fields = {name: value for name, value in self._headers.items() if name.lower() not in given} | headers
        request = httpx.Request(method, url, headers=fields, content=data, extensions={"timeout": self._timeout})
        if "@" in url and request.url.userinfo:
            next(httpx.BasicAuth(request.url.username, request.url.password).auth_flow(request))
        start = time.monotonic()
        response = self._routes.handle_request(request)
        response.request = request
        self.waited = time.monotonic() - start
        self.watch.headers_arrived()
        return response

    def await_payload(self) -> None:
        """Limit the wait for the next piece of body content."""
        self.watch.await_payload(self._timeouts.payload)

    def is_stale(self, error: Exception) -> bool:
        """Return whether a server closed an idle connection just as the last request reused it."""
        if isinstance(error, httpx.RemoteProtocolError):
            return "without sending a response" in str(error)
        return isinstance(error, httpx.ReadError | httpx.WriteError) and self._backend.connected == self._before

    def close(self) -> None:
        """Close the client's connections."""
        self._routes.close()
        self._backend.close()


_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def tls_context() -> ssl.SSLContext:
    """Return the TLS context: SSL_CERT_FILE, SSL_CERT_DIR, else certifi's list.

    Raises:
        SettingError: The environment's certificate file or folder can't be read.
    """
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        found = ", ".join(f"{name}={os.environ[name]}" for name in _CERTIFICATES if os.environ.get(name))
        raise SettingError(f"{found or 'the list of certificate authorities'}: {error.strerror or error}") from None


def plain_context() -> ssl.SSLContext:
    """Return a context for plain HTTP clients: it trusts no authority and loads no list of them."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def translate(error: Exception, url: str) -> ModelfetchError:
    """Return the typed error for any httpx exception (their hierarchy is in its ``_exceptions.py``)."""
    where = _peer(error, url)
    if (certificate := _certificate_problem(error)) is not None:
        return certificate_error(where, certificate)
    if isinstance(error, ModelfetchError | InterruptedSync):
        return error
    if (limit := limit_behind(error)) is not None:
        return limit
    if isinstance(error, httpx.TimeoutException):
        kind = "no connection" if isinstance(error, httpx.ConnectTimeout) else "no answer"
        return UnreachableError(f"{where}: {kind} within the time limit", code="timeout")
    if isinstance(error, httpx.ProxyError):
        detail = str(error)
        if detail.startswith("407"):
            return CredentialsError(
                f"the proxy on the way to {where} requires a user and password",
                code="proxy-credentials",
                hint="write them into its variable: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT",
            )
        return UnreachableError(f"the proxy on the way to {where} failed: {detail}")
    if isinstance(error, httpx.LocalProtocolError):  # its text holds the value, which may be a credential
        return UnreachableError(
            f"{where}: a header field of the request is invalid", code="bad-response", permanent=True
        )
    if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL | httpx.CookieConflict):
        return UnreachableError(f"{where}: {error}", code="bad-response", permanent=True)
    if isinstance(error, httpx.RemoteProtocolError | httpx.DecodingError):
        detail = str(error).partition(": bytearray(")[0]  # the rest is arbitrary bytes from the server
        return invalid_answer_error(where, detail)
    detail = re.sub(r"^\[Errno -?\d+\] ", "", str(error))
    return UnreachableError(f"{where}: {detail or type(error).__name__}")


def _peer(error: Exception, url: str) -> str:
    """Return the peer of a failed request: the proxy, if requests use one and no connection was made."""
    connecting = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
    return with_proxy(redact(url), url) if connecting else redact(url)


def _certificate_problem(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """Return the refusal of a certificate, if that is why a connection failed."""
    for _ in range(12):
        if error is None:
            return None
        if isinstance(error, ssl.SSLCertVerificationError):
            return error
        error = error.__cause__ or error.__context__
    return None
