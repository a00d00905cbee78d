"""Send requests directly or through a proxy, over modelfetch's own connections.

httpx is used for what its users rely on: the syntax of URLs, proxies and exceptions. Of its client and its connection
pool a wire needs nothing, as it sends one request at a time: for a small file, they took half of the time of a request.
"""

from __future__ import annotations

import functools
import re
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import httpcore
import httpx

from modelfetch.http.proxies import exemptions, proxy_for

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping

KEEPALIVE = 60.0
"""Idle time in seconds after which a connection is not reused."""

_MOST_IDLE = 4
"""Origins of which a wire keeps a connection: those of a request and its redirects."""
_LIMITS: dict[str, Any] = {"max_connections": 8, "max_keepalive_connections": 4, "keepalive_expiry": KEEPALIVE}
_CARRIES_A_BODY = ("POST", "PUT", "PATCH")
_PLAIN_TARGET = re.compile(r"(?!.*/\.)/[A-Za-z0-9_~./-]*(?:\?[A-Za-z0-9_~./=&-]*)?")
"""A path and query with nothing to quote, and no segment that begins with a dot: they are sent as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a request goes: a URL as it is sent, and the fields that it stands for."""

    url: httpcore.URL
    host: str
    fields: tuple[tuple[bytes, bytes], ...]


def address_of(url: str) -> Address:
    """Parse the URL of a request.

    Raises:
        httpx.InvalidURL: It is not a URL.
    """
    scheme, separator, rest = url.partition("://")
    authority, slash, target = rest.partition("/")
    if separator and slash and _PLAIN_TARGET.fullmatch(f"/{target}"):
        base = _server(f"{scheme}://{authority}")
        same = base.url
        target_url = httpcore.URL(scheme=same.scheme, host=same.host, port=same.port, target=f"/{target}".encode())
        return Address(url=target_url, host=base.host, fields=base.fields)
    return _parse(url)


@functools.lru_cache(maxsize=64)  # a run talks to a few servers
def _server(url: str) -> Address:
    return _parse(url)


def _parse(text: str) -> Address:
    url = httpx.URL(text)
    fields = [(b"Host", url.netloc)]
    if url.userinfo:
        login = f"{url.username}:{url.password}".encode()
        fields.append((b"Authorization", b"Basic " + b64encode(login)))
    parts = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    return Address(url=parts, host=url.host, fields=tuple(fields))


class Answer:
    """A response whose body has not been read yet. Raises httpx's exceptions.

    Attributes:
        status: Its status.
        headers: Its header fields; repeated ones repeatedly.
        http_version: Such as ``HTTP/1.1``.
        stream: The connection.
    """

    def __init__(self, inner: httpcore.Response) -> None:
        self._inner = inner
        self.status = inner.status
        self.headers = [(_text(name), _text(value)) for name, value in inner.headers]
        self.http_version: str = inner.extensions.get("http_version", b"HTTP/1.1").decode("ascii", errors="replace")
        self.stream: httpcore.NetworkStream | None = inner.extensions.get("network_stream")

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body, as it comes."""
        try:
            yield from self._inner.iter_stream()
        except Exception as error:
            _raise_as_httpx(error)

    def close(self) -> None:
        """End the response; its connection can be used again if the body was read to its end."""
        self._inner.close()


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("iso-8859-1")


def _raise_as_httpx(error: Exception) -> NoReturn:
    """Raise httpcore's exceptions as httpx's of the same name (source: httpx, ``_transports/default.py``)."""
    name = type(error).__name__
    known = getattr(httpx, name, None) if isinstance(error, getattr(httpcore, name, ())) else None
    if known is None:
        raise error
    raise known(str(error)) from error


class _Direct:
    """One connection for each server; it is used for one request at a time."""

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
        if len(self._connections) > _MOST_IDLE:
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


class Routes:
    """Sends directly or through the environment's proxy; httpx's own NO_PROXY handling does not support ranges.

    Raises:
        ImportError, ValueError, httpx.InvalidURL: The proxy can't be used.
    """

    def __init__(self, scheme: str, context: ssl.SSLContext, backend: httpcore.NetworkBackend) -> None:
        proxy, exempt = proxy_for(scheme), exemptions()
        self._exempt = exempt or ()
        self._direct = _Direct(context, backend)
        self._proxied: httpcore.ConnectionPool | None = None
        if proxy is not None and exempt is not None:
            self._proxied = _proxied(context, backend, proxy)

    @property
    def has_proxy(self) -> bool:
        """Return whether some requests go through a proxy."""
        return self._proxied is not None

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: bytes | None,
        timeout: Mapping[str, float | None],
    ) -> Answer:
        """Send a request directly or through the proxy; raises httpx's exceptions.

        The URL's own fields (``Host``, a login) replace those of the same name in ``headers``.
        """
        address = address_of(url)
        fields = list(address.fields)
        own = {name.lower() for name, _ in fields}
        for name, value in headers.items():
            if (field := name.encode("ascii")).lower() not in own:
                fields.append((field, value.encode("ascii")))
        if data is not None or method in _CARRIES_A_BODY:
            fields.append((b"Content-Length", str(len(data or b"")).encode()))
        try:
            request = httpcore.Request(
                method, address.url, headers=fields, content=data or b"", extensions={"timeout": timeout}
            )
            chosen = self._direct if self._proxied is None or self._is_exempt(address) else self._proxied
            return Answer(chosen.handle_request(request))
        except Exception as error:
            _raise_as_httpx(error)

    def _is_exempt(self, address: Address) -> bool:
        scheme, raw_host = address.url.scheme.decode("ascii"), address.url.host.decode("ascii")
        port = address.url.port or (443 if scheme == "https" else 80)
        return any(entry.covers(scheme, host, port) for entry in self._exempt for host in (address.host, raw_host))

    def close(self) -> None:
        """Close the connections of both."""
        self._direct.close()
        if self._proxied is not None:
            self._proxied.close()
