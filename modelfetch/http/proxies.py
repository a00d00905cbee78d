"""Select the proxy for a request: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, and the exceptions in NO_PROXY.

NO_PROXY is interpreted as curl, Go and the hub's own client do (source: curl's manual, CURLOPT_NOPROXY; Go's package
httpproxy): a name matches itself and its subdomains, with a leading dot or ``*.`` only its subdomains; an address or
a range matches those addresses; ``:PORT`` narrows any of them; ``*`` matches everything. Invalid entries are ignored.
"""

from __future__ import annotations

import ipaddress
import os
import re
import threading
from dataclasses import dataclass

from modelfetch.core.units import parse_decimal
from modelfetch.core.urls import origin, redact

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PORTS = {"http": 80, "https": 443}

environment_lock = threading.RLock()
"""Held while the proxies' variables are read, or changed for another library."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exempt:
    """One entry of NO_PROXY. ``network`` for addresses, else ``name``; ``below``: only subdomains match."""

    name: str = ""
    below: bool = False
    network: Network | None = None
    scheme: str | None = None
    port: int | None = None

    def covers(self, scheme: str, host: str, port: int) -> bool:
        """Return whether requests to a host (an IPv6 address without brackets) bypass the proxy."""
        if self.scheme not in (None, scheme) or self.port not in (None, port):
            return False
        if self.network is not None:
            address = parse_address(host)
            return address is not None and address.version == self.network.version and address in self.network
        host = host.lower().rstrip(".")
        return host.endswith(f".{self.name}") or (host == self.name and not self.below)


def proxy_for(scheme: str) -> str | None:
    """Return the environment's proxy for a scheme, or None; ``http://`` is added if the value has no scheme."""
    proxy = _variable(f"{scheme}_proxy") or _variable("all_proxy")
    return (proxy if "://" in proxy else f"http://{proxy}") if proxy else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A proxy for requests; ``shown`` is its name in messages, without user and password."""

    url: str
    shown: str


def proxy_of(url: str) -> Proxy | None:
    """Return the proxy for a request to a URL; None for a direct connection."""
    try:
        scheme, host, port = origin(url)
    except ValueError:
        return None
    proxy, exempt = proxy_for(scheme), exemptions()
    if proxy is None or exempt is None or any(entry.covers(scheme, host, port) for entry in exempt):
        return None
    variable = next(name for name in (f"{scheme}_proxy", "all_proxy") if _variable(name)).upper()
    return Proxy(url=proxy, shown=f"{redact(proxy).rstrip('/')} ({variable})")


def exemptions() -> tuple[Exempt, ...] | None:
    """Return the entries of NO_PROXY; None if everything is exempt."""
    return parse_exemptions(_variable("no_proxy"))


def parse_exemptions(text: str) -> tuple[Exempt, ...] | None:
    """Parse a list separated by commas or blanks; None if it contains ``*``."""
    words = re.split(r"[,\s]+", text.strip())
    if "*" in words:
        return None
    return tuple(entry for word in words if (entry := _parse(word)) is not None)


def _parse(word: str) -> Exempt | None:
    scheme, separator, rest = word.rpartition("://")
    host, port = _split(rest)
    if (separator and scheme.lower() not in _PORTS) or port == 0:
        return None
    limits = {"scheme": scheme.lower() or None, "port": port}
    try:
        return Exempt(network=ipaddress.ip_network(host, strict=False), **limits)  # type: ignore[arg-type]
    except ValueError:
        pass
    name = host.lower().removeprefix("*").strip(".")
    if not name or any(sign in name for sign in "/[]*:@"):
        return None
    return Exempt(name=name, below=host.startswith((".", "*.")), **limits)  # type: ignore[arg-type]


def _split(text: str) -> tuple[str, int | None]:
    """Return host and port; 0 for an invalid port. An IPv6 address or range may be in brackets."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](/\d+)?(?::(\d+))?", text)
    if bracketed:
        host, port = bracketed[1] + (bracketed[2] or ""), bracketed[3]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, None
    if port is None:
        return host, None
    number = parse_decimal(port, digits=5) or 0
    return host, number if number < 65536 else 0


def with_proxy(where: str, url: str) -> str:
    """Return ``where``, followed by the proxy that requests to a URL use, if there is one."""
    proxy = proxy_of(url)
    return where if proxy is None else f"{where}, through the proxy {proxy.shown}"


def _variable(name: str) -> str:
    """Return a variable's value, in lower case or else upper case; an empty one counts as unset."""
    with environment_lock:
        return os.environ.get(name, "").strip() or os.environ.get(name.upper(), "").strip()


def parse_address(host: str) -> Address | None:
    """Parse an IP address; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
