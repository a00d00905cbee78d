"""The HTTP client: follows redirects itself, adds credentials to each hop, raises typed errors."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from modelfetch.core.urls import redact
from modelfetch.errors import ModelfetchError, SettingError, UnreachableError
from modelfetch.http.redirects import (
    MAX_REDIRECTS,
    REDIRECTS,
    AllowHttp,
    check_first,
    leads_elsewhere,
    method_after,
    next_hop,
    rewrite,
)
from modelfetch.http.response import Response
from modelfetch.http.types import Authenticator, Reply, Timeouts

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence

    import httpx

    from modelfetch.core.cancel import Cancel
    from modelfetch.http.connection import Wire

USER_AGENT = "modelfetch/0.1"
_METADATA_LIMIT = 8 * 2**20
_REDIRECT_HINT = "open the address in a browser: it may need a login, or have moved"
_OWN = frozenset({"authorization", "cookie", "proxy-authorization"})
"""Header fields that are sent only on the first hop of a request."""


class Http:
    """Sends requests from any number of threads.

    Args:
        allow_http: Returns whether plain HTTP to a host and port is allowed; loopback always is.
        rewrites: Pairs of URL prefixes, old and new, applied before a request is sent.
        auth: Adds credentials to requests.
        timeouts: In seconds.
    """

    def __init__(
        self,
        *,
        allow_http: AllowHttp = lambda _host, _port: False,
        rewrites: Sequence[tuple[str, str]] = (),
        auth: Authenticator | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._allow_http = allow_http
        self._rewrites = tuple(rewrites)
        self.auth = auth
        self.timeouts = timeouts or Timeouts()
        self._lock = threading.Lock()
        self._idle: dict[str, list[Wire]] = {"http": [], "https": []}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._closed = False
        self.requests = 0
        """Number of requests sent, redirects included; requests sent by another client are added with `count`."""

    def count(self, number: int = 1) -> None:
        """Add requests to the count."""
        with self._lock:
            self.requests += number

    def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        cancel: Cancel | None = None,
        leave_host: bool = True,
        stop_at: str = "",
    ) -> Response:
        """Send a request, follow its redirects (at most 10) and return the final response, whatever its status.

        A redirect to another host is returned instead if ``leave_host`` is false, or if the request has a body, which
        may be a secret. A redirect with the header field ``stop_at`` is returned, too.

        Raises:
            UnreachableError: No response (``unreachable``, ``timeout``, ``certificate``), an invalid one
                (``bad-response``), or a redirect that may not be followed (``insecure-redirect``,
                ``too-many-redirects``).
            SettingError: The URL is plain HTTP to a host that is not allowed (``insecure-http``).
            CredentialsError: A proxy requires credentials.
            InterruptedSync: It was cancelled.
        """
        url = rewrite(url, self._rewrites)
        check_first(url, self._allow_http)
        own = dict(headers or {})
        asked_again = False
        hops = 0
        while True:
            response = self._send_hop(method, url, own, data, cancel)
            if response.status in (401, 403) and not asked_again and self._renewed(response, cancel):
                asked_again = True
                response.drain()
                continue
            location = _redirection(response, url, leave_host=leave_host and data is None, stop_at=stop_at)
            if location is None:
                response.redirected = hops > 0
                return response
            response.drain()
            hops += 1
            if hops > MAX_REDIRECTS:
                raise UnreachableError(
                    f"{redact(url)}: too many redirects", code="too-many-redirects", permanent=True, hint=_REDIRECT_HINT
                )
            url = next_hop(url, location, self._allow_http)
            method, data = _after_redirect(response.status, method, data)
            own = {name: value for name, value in own.items() if name.lower() not in _OWN}

    def get(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        limit: int = _METADATA_LIMIT,
        cancel: Cancel | None = None,
    ) -> Reply:
        """Send a request and return the whole response (any status, at most `limit` bytes); raises as `open`."""
        with self.open(method, url, headers=headers, data=data, cancel=cancel) as response:
            body = response.read(limit)
        return Reply(
            status=response.status,
            headers=response.headers,
            body=body,
            url=response.url,
            authorized=response.authorized,
        )

    def close(self) -> None:
        """Close all idle connections now, and the others as soon as they become idle."""
        with self._lock:
            self._closed = True
            wires = [wire for idle in self._idle.values() for wire in idle]
            for idle in self._idle.values():
                idle.clear()
        for wire in wires:
            wire.close()

    def _renewed(self, response: Response, cancel: Cancel | None) -> bool:
        if self.auth is None:
            return False
        try:
            fetch = partial(self.get, cancel=cancel)
            return self.auth.challenged(response.url, response.status, response.headers, fetch)
        except BaseException:
            response.close()
            raise

    def _send_hop(
        self, method: str, url: str, own: Mapping[str, str], data: bytes | None, cancel: Cancel | None
    ) -> Response:
        """Send one request and return its response, whatever its status."""
        if cancel is not None:
            cancel.check()
        credentials = self.auth.headers(url) if self.auth is not None else {}
        fields = {**credentials, **own}
        wire = self._take_connection(url.partition(":")[0].lower())
        withdraw = cancel.on_cancel(wire.watch.end) if cancel is not None else lambda: None
        try:
            response = self._send(wire, method, url, fields, data)
        except BaseException as error:
            withdraw()
            wire.close()
            if cancel is not None and isinstance(error, Exception):
                cancel.check()
            raise
        return Response(
            response,
            url=url,
            translate=lambda error: _translate(error, url),
            cancel=cancel,
            release=lambda: self._release_connection(wire, withdraw),
            await_payload=wire.await_payload,
            waited=wire.waited,
            authorized=bool(credentials),
        )

    def _send(self, wire: Wire, method: str, url: str, fields: dict[str, str], data: bytes | None) -> httpx.Response:
        import httpx

        for last in (False, True):
            self.count()
            try:
                return wire.send(method, url, fields, data)
            except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
                if last or method not in ("GET", "HEAD") or not wire.is_stale(error):
                    raise _translate(error, url) from error
        raise AssertionError("unreachable")

    def _take_connection(self, scheme: str) -> Wire:
        import httpx

        from modelfetch.http import connection

        with self._lock:
            if self._idle[scheme]:
                return self._idle[scheme].pop()
            if scheme not in self._contexts:
                self._contexts[scheme] = connection.tls_context() if scheme == "https" else connection.plain_context()
        try:
            return connection.Wire(scheme, self._contexts[scheme], self.timeouts, USER_AGENT)
        except (ImportError, ValueError) as error:
            raise SettingError(f"the proxy that the environment names can't be used: {error}") from None
        except httpx.InvalidURL as error:
            raise SettingError(f"HTTP_PROXY, HTTPS_PROXY or ALL_PROXY contains an invalid host: {error}") from None

    def _release_connection(self, wire: Wire, withdraw: Callable[[], None]) -> None:
        withdraw()
        with self._lock:
            if not self._closed and not wire.watch.shut.is_set():
                self._idle[wire.scheme].append(wire)
                return
        wire.close()


def _redirection(response: Response, url: str, *, leave_host: bool, stop_at: str) -> str | None:
    """Return where a response leads, relative to ``url``; None if it is the answer to the request."""
    location = response.headers.get("location")
    if response.status not in REDIRECTS or location is None or (stop_at and stop_at in response.headers):
        return None
    return location if leave_host or not leads_elsewhere(url, location) else None


def _after_redirect(status: int, method: str, data: bytes | None) -> tuple[str, bytes | None]:
    after = method_after(status, method)
    return after, data if after == method else None


def _translate(error: Exception, url: str) -> ModelfetchError:
    from modelfetch.http.connection import translate

    return translate(error, url)
