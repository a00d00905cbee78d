"""The way of a request to its host: directly, or by a proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from modelfetch.http.proxies import exemptions, proxy_for

if TYPE_CHECKING:
    import ssl

KEEPALIVE = 60.0
"""Seconds after which an idle connection is not used again."""


class Routes(httpx.BaseTransport):
    """Directly, or by the proxy that the environment names: httpx's own reading of NO_PROXY knows no ranges.

    Raises:
        ImportError, ValueError, httpx.InvalidURL: The proxy can't be used.
    """

    def __init__(self, scheme: str, context: ssl.SSLContext) -> None:
        limits = httpx.Limits(max_connections=8, max_keepalive_connections=4, keepalive_expiry=KEEPALIVE)
        proxy, exempt = proxy_for(scheme), exemptions()
        self._exempt = exempt or ()
        self.direct = httpx.HTTPTransport(verify=context, limits=limits)
        self.proxied: httpx.HTTPTransport | None = None
        if proxy is not None and exempt is not None:
            self.proxied = httpx.HTTPTransport(verify=context, limits=limits, proxy=proxy)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send it one way or the other."""
        url = request.url
        port = url.port or (443 if url.scheme == "https" else 80)
        directly = any(
            entry.covers(url.scheme, host, port) for entry in self._exempt for host in (url.host, url.raw_host.decode())
        )
        chosen = self.direct if self.proxied is None or directly else self.proxied
        return chosen.handle_request(request)

    def close(self) -> None:
        """Close the connections of both."""
        self.direct.close()
        if self.proxied is not None:
            self.proxied.close()
