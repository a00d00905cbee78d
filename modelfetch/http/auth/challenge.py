"""What a registry asks for when it says 401: reading the challenge, and deciding who may see a password.

Sources: RFC 9110, section 11.6.1 (WWW-Authenticate); distribution, docs/content/spec/auth/token.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from modelfetch.core.urls import origin

_SCHEME = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9-]*)(?:\s+|\s*\Z|(?=\s*,))")
_PARAMETER = re.compile(r'\s*,?\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_LONGEST = 8192
_REPOSITORY = re.compile(r"/v2/(.+?)/(?:manifests|blobs|tags|referrers)(?:/|\Z)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One way in that a server names: ``scheme`` in lower case, and its parameters."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """The challenges of a WWW-Authenticate header; what can't be read ends the list."""
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
    """The repository that a registry's URL is about; None where it is no registry's."""
    match = _REPOSITORY.match(urlsplit(url).path)
    return match[1] if match else None


def may_ask(registry: str, realm: str, *, same_host_only: bool) -> bool:
    """Whether a token server that a registry names may be asked at all.

    A registry that talks TLS may not send us to one in the clear; one in the clear only to itself. Ollama's rule: the
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
    """Whether the registry's password may go to that token server: its own host, or one of the same domain.

    Docker Hub's registry-1.docker.io asks for the password at auth.docker.io, GitLab's registry.gitlab.com at
    gitlab.com. A server elsewhere is asked without a password, which is enough for what is public.
    """
    host, realm_host = origin(registry)[1], origin(realm)[1]
    if host == realm_host:
        return True
    domain = host.partition(".")[2]
    return (
        domain.count(".") >= 1 and (realm_host == domain or realm_host.endswith("." + domain)) and not _is_address(host)
    )


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()
