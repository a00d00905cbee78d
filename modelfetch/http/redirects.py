"""Rewrite URLs and decide which redirects to follow, without I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import urljoin

from modelfetch.config.settings import plain_http_error
from modelfetch.core.urls import is_loopback, origin, redact
from modelfetch.errors import UnreachableError

MAX_REDIRECTS = 10
REDIRECTS = frozenset({301, 302, 303, 307, 308})

AllowHttp = Callable[[str, int], bool]


def rewrite(url: str, rewrites: Sequence[tuple[str, str]]) -> str:
    """Return the URL with the longest matching prefix of `rewrites` replaced (MODELFETCH_MIRRORS)."""
    matching = [(old, new) for old, new in rewrites if _has_prefix(url, old)]
    if not matching:
        return url
    old, new = max(matching, key=lambda pair: len(pair[0]))
    return new + url[len(old) :]


def _has_prefix(url: str, prefix: str) -> bool:
    """Return whether a prefix ends at a boundary: ``https://a.example`` does not match ``https://a.example.org/x``."""
    return url.startswith(prefix) and (prefix.endswith("/") or url[len(prefix) :][:1] in ("", "/", "?"))


def check_first(url: str, allow_http: AllowHttp) -> None:
    """Reject plain HTTP if it is not allowed for the host.

    Raises:
        SettingError: The URL is plain HTTP to a host that is neither loopback nor allowed (code ``insecure-http``).
        UnreachableError: It is not an HTTP URL (code ``bad-response``).
    """
    try:
        scheme, host, port = origin(url)
    except ValueError as error:
        raise UnreachableError(str(error), code="bad-response", permanent=True) from None
    if scheme == "http" and not (is_loopback(host) or allow_http(host, port)):
        raise plain_http_error(redact(url), host)


def next_hop(url: str, location: str, allow_http: AllowHttp) -> str:
    """Return the absolute URL of a redirect's target (source: RFC 9110, section 10.2.2).

    Raises:
        UnreachableError: The target is invalid (``bad-response``), or plain HTTP after https to a host for which that
            is not allowed (``insecure-redirect``).
    """
    try:
        target = urljoin(url, location.strip())
        scheme, host, port = origin(target)
    except ValueError:
        raise UnreachableError(
            f"{redact(url)} redirects to an invalid URL", code="bad-response", permanent=True
        ) from None
    if scheme == "http" and not (is_loopback(host) or allow_http(host, port)):
        raise UnreachableError(
            f"{redact(url)} redirects to {redact(target)}, which is not encrypted",
            code="insecure-redirect",
            permanent=True,
            hint=f"use an https address, or allow plain http to the host: MODELFETCH_ALLOW_HTTP={host}",
        )
    return target


def leads_elsewhere(url: str, location: str) -> bool:
    """Return whether a redirect leads to another host; False for an invalid one."""
    try:
        return origin(urljoin(url, location.strip())) != origin(url)
    except ValueError:
        return False


def method_after(status: int, method: str) -> str:
    """Return the method of the next hop: 303, and 301/302 after a POST, become GET (source: RFC 9110, section 15.4)."""
    if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):
        return "GET"
    return method
