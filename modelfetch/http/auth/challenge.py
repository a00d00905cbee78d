"""Parse a registry's 401 challenge, and decide which token server may receive a password.

Sources: RFC 9110, section 11.6.1 (WWW-Authenticate); distribution, docs/content/spec/auth/token.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from modelfetch.core.urls import origin
from modelfetch.http.proxies import parse_address

_SCHEME = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9-]*)(?:\s+|\s*\Z|(?=\s*,))")
_PARAMETER = re.compile(r'\s*,?\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_LONGEST = 8192
_REPOSITORY = re.compile(r"/v2/(.+?)/(?:manifests|blobs|tags|referrers)(?:/|\Z)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One authentication method that a server offers: ``scheme`` in lower case, and its parameters."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """Parse the challenges of a WWW-Authenticate header; parsing stops at the first invalid part."""
    if len(header) > _LONGEST:
        return ()
    found = []
    at = 0
    while (match := _SCHEME.match(header, at)) is not None:
        at = match.end()
        parameters: dict[str, str] = {}
        while (part := _PARAMETER.match(header, at)) is not None:
            at = part.end()
            value = part[3] if part[2] is None else re.sub(r"\\(.)", r"\1", part[2])
            parameters.setdefault(part[1].lower(), value)
        known = {name: parameters[name] for name in ("realm", "service", "scope") if name in parameters}
        found.append(Challenge(scheme=match[1].lower(), **known))
    return tuple(found)


def repository_of(url: str) -> str | None:
    """Return the repository in a registry's URL; None if it is not a registry URL."""
    match = _REPOSITORY.match(urlsplit(url).path)
    return match[1] if match else None


def may_request_token(registry: str, realm: str, *, same_host_only: bool) -> bool:
    """Return whether a token server that a registry names may be contacted at all.

    A registry with TLS must not name a plain HTTP server; one on plain HTTP may only name itself. Ollama's rule: the
    realm's host must be the registry's own (source: ollama, server/auth.go).
    """
    try:
        scheme, host, port = origin(registry)
        realm_scheme, realm_host, realm_port = origin(realm)
    except ValueError:
        return False
    if "@" in urlsplit(realm).netloc:
        return False
    if realm_scheme == "http" and (scheme, host, port) != (realm_scheme, realm_host, realm_port):
        return False
    return realm_host == host or not same_host_only


def may_send_password(registry: str, realm: str) -> bool:
    """Return whether a registry's password may be sent to that token server: the same host, or the same domain.

    Docker Hub's registry-1.docker.io uses the token server auth.docker.io, GitLab's registry.gitlab.com uses
    gitlab.com. A server on another domain gets no password, which is enough for public content.
    """
    host, realm_host = origin(registry)[1], origin(realm)[1]
    if host == realm_host:
        return True
    domain = host.partition(".")[2]
    return (
        domain.count(".") >= 1
        and (realm_host == domain or realm_host.endswith("." + domain))
        and parse_address(host) is None
    )
