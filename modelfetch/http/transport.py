"""Send requests directly or through a proxy, over modelfetch's own connections."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpcore
import httpx

from modelfetch.http.names import NameLookupError, name_proxy
from modelfetch.http.proxies import exemptions, proxy_for

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

KEEPALIVE = 60.0
"""Idle time in seconds after which a connection is not reused."""

_MAX_IDLE = 4
"""Servers to which a wire keeps a connection: that of a request and those of its redirects."""
_LIMITS: dict[str, Any] = {"max_connections": 8, "max_keepalive_connections": 4, "keepalive_expiry": KEEPALIVE}


class ConnectionTransport(httpx.BaseTransport):
    """Sends over the given connections.

    Same as httpx's own transport, which accepts no network backend.

    Args:
        connections: A connection pool, or one connection for each server.
    """

    def __init__(self, connections: httpcore.ConnectionPool | _Direct) -> None:
        self._connections = connections

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; raises httpx's exceptions."""
        outgoing = httpcore.Request(
            method=request.method,
            url=httpcore.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _as_httpx():
            answer = self._connections.handle_request(outgoing)
        return httpx.Response(
            status_code=answer.status,
            headers=answer.headers,
            stream=_Body(answer),
            extensions=answer.extensions,
        )

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx():
            yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


@contextmanager
def _as_httpx() -> Iterator[None]:
    """Raise httpcore's exceptions as httpx's of the same name (source: httpx, ``_transports/default.py``)."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.startswith("socksio."):  # httpcore does not convert these
            raise httpx.ProxyError(f"it does not answer as a SOCKS proxy ({error})") from error
        name = type(error).__name__
        known = getattr(httpx, name, None) if isinstance(error, getattr(httpcore, name, ())) else None
        if known is None:
            raise
        raise known(str(error)) from error


class _Direct:
    """One connection to each server.

    A wire sends one request at a time, so it needs no pool: httpcore's took a sixth of the time of a small request.
    """

    def __init__(self, context: ssl.SSLContext, backend: httpcore.NetworkBackend) -> None:
        self._context = context
        self._backend = backend
        self._connections: dict[tuple[bytes, bytes, int], httpcore.HTTPConnection] = {}

    def handle_request(self, request: httpcore.Request) -> httpcore.Response:
        """Send a request; raises httpcore's exceptions."""
        origin = request.url.origin
        server = (origin.scheme, origin.host, origin.port)
        connection = self._connections.pop(server, None)
        if connection is not None and (not connection.is_available() or connection.has_expired()):
            connection.close()
            connection = None
        if connection is None:
            connection = httpcore.HTTPConnection(
                origin, ssl_context=self._context, keepalive_expiry=KEEPALIVE, network_backend=self._backend
            )
        self._connections[server] = connection  # at the end, as the one that was used last
        if len(self._connections) > _MAX_IDLE:
            self._connections.pop(next(iter(self._connections))).close()
        return connection.handle_request(request)

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()


def _proxied(context: ssl.SSLContext, backend: httpcore.NetworkBackend, proxy: str) -> httpcore.ConnectionPool:
    parsed = httpx.Proxy(proxy)
    url = httpcore.URL(
        scheme=parsed.url.raw_scheme, host=parsed.url.raw_host, port=parsed.url.port, target=parsed.url.raw_path
    )
    if parsed.url.scheme in ("socks5", "socks5h"):
        return httpcore.SOCKSProxy(
            proxy_url=url, proxy_auth=parsed.raw_auth, ssl_context=context, network_backend=backend, **_LIMITS
        )
    return httpcore.HTTPProxy(
        proxy_url=url,
        proxy_auth=parsed.raw_auth,
        proxy_headers=parsed.headers.raw,
        proxy_ssl_context=context if parsed.url.scheme == "https" else None,
        ssl_context=context,
        network_backend=backend,
        **_LIMITS,
    )


class Routes(httpx.BaseTransport):
    """Sends directly or through the environment's proxy; httpx's own NO_PROXY handling does not support ranges.

    Raises:
        ImportError, ValueError, httpx.InvalidURL: The proxy can't be used.
    """

    def __init__(self, scheme: str, context: ssl.SSLContext, backend: httpcore.NetworkBackend) -> None:
        proxy, exempt = proxy_for(scheme), exemptions()
        self._exempt = exempt or ()
        self._direct = ConnectionTransport(_Direct(context, backend))
        self._proxied: ConnectionTransport | None = None
        if proxy is not None and exempt is not None:
            self._proxied = ConnectionTransport(_proxied(context, backend, proxy))

    @property
    def has_proxy(self) -> bool:
        """Return whether some requests go through a proxy."""
        return self._proxied is not None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request directly or through the proxy."""
        url = request.url
        port = url.port or (443 if url.scheme == "https" else 80)
        directly = any(
            entry.covers(url.scheme, host, port) for entry in self._exempt for host in (url.host, url.raw_host.decode())
        )
        if self._proxied is None or directly:
            return self._direct.handle_request(request)
        try:
            return self._proxied.handle_request(request)
        except NameLookupError as error:
            raise name_proxy(error, str(url)) from None

    def close(self) -> None:
        """Close the connections of both."""
        self._direct.close()
        if self._proxied is not None:
            self._proxied.close()
