"""Parse and display http URLs."""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import re
from urllib.parse import unquote, unquote_plus, urlsplit, urlunsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LONGEST_HOST = 253
"""Characters of the longest name that the DNS can hold; libraries for proxies fail at longer ones."""
_PUBLIC_FIELDS = frozenset(
    {"type", "format", "size", "fp", "fileid", "modelversionid", "id", "file", "filename", "name", "path", "version"}
    | {"ref", "rev", "revision", "branch", "tag", "download", "dl", "raw", "inline", "export", "alt", "lang", "blobs"}
)
"""Query fields whose values select a file and are shown."""

_REDACTED = "redacted-"
_SHORT = 8
"""Greatest length of a value that is too short to be a secret, unless its name looks like a credential's."""

_CREDENTIAL = re.compile(
    r"token|secret|passw|pwd\b|(?:api|access|auth|dl|licen[cs]e)[-_.]?key|access[-_.]?id|sess(?:ion)?[-_.]?id|hmac|bearer"
    r"|(?:^|[-_.])(?:key|ak|auth|authorization|credentials?|sig|sign|signature|jwt|session|sid|sas|pass|otp|ticket|csrf"
    r"|policy|hdnt[ls]|hdnea)(?:$|[-_.])",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"(?:hf_|gh[opusr]_|github_pat_|glpat-|sk-|xox[bp]-|AKIA|eyJ)[\w.~+/-]{12,}=*", re.ASCII)
"""Tokens that show what they are: of Hugging Face, GitHub, GitLab, OpenAI, Slack and AWS, and JSON web tokens."""

_PATH_PARAMETER = re.compile(
    r"([;?&]|%3B|%3F|%26)((?:(?!%3B|%3D|%3F|%26)[^/;=?&])+(?:=|%3D)(?:(?!%3B|%3F|%26)[^/;?&])*)", re.IGNORECASE
)
"""A parameter of a path's segment, ``;NAME=VALUE`` (source: RFC 3986, 3.3), or one of a query that was quoted."""

_PATH_TOKEN = re.compile(
    r"(?<=/)(?:(?:hf_|gh[opusr]_|github_pat_|glpat-)[\w-]{20,}|eyJ[\w-]+\.eyJ[\w-]+\.[\w-]+)(?=/|\Z)"
    r"|(?<=/)(?:[\w-]*[_-])?(?:token|secret|sig|signature|hdnt[ls]|hdnea)(?:=|:|%3[AD])[^/]{8,}"
    r"|(?<=/p/)[\w-]{20,}(?=/n/)|(?<=/token/)[^/]{8,}(?=/)",
    re.ASCII | re.IGNORECASE,
)
"""A segment of a path that is a token: one that shows what it is, or the one of Oracle's pre-authenticated requests."""

_IN_TEXT = re.compile(r"""(https?:/{1,2}(?!/))(?![^\s/]*(?-i:USER|HOST))([^\s'"`]+)""", re.IGNORECASE)
_LOGIN = re.compile(r"""(?<=://)(?!\[|USER|HOST)[^\s/?#@'"`]+:[^\s/?#@'"`]+@""")
"""User and password in an address of any scheme, such as ``socks5://`` and ``oci://``."""
_OTHER_QUERY = re.compile(r"""(\b(?!https?:)[a-z][\w+.-]*://[^\s'"`?]*\?)([^\s'"`]+)""", re.IGNORECASE | re.ASCII)
"""An address of another scheme, such as ``s3://``, and its query."""
_USER = re.compile(r"\A(?:[^/?#@]*@|(?!\[)[^/?#:]*:(?!\d{1,5}(?:[/?#:,.;)]|\Z)|\Z)[^/?#]+)")
"""User and password at the beginning of what follows ``https://``, also if the rest of the address was cut off."""


def origin(url: str) -> tuple[str, str, int]:
    """Return the scheme, host and port of a URL, scheme and host in lower case.

    Raises:
        ValueError: It is not an absolute http or https URL.
    """
    parts = url.split("/", 3)
    found = _origin("/".join(parts[:3]) if len(parts) > 2 and not parts[1] else url)
    if found is None:
        raise ValueError(f"expected an absolute http or https URL, found {redact(url)[:120]!r}")
    return found


@functools.lru_cache(maxsize=256)  # a request compares the origin of its URL with that of each service
def _origin(url: str) -> tuple[str, str, int] | None:
    parts = urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS or not 0 < len(parts.hostname or "") <= _LONGEST_HOST:
        return None
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]


def below(url: str, endpoint: str) -> str | None:
    """Return the path of a URL below an endpoint's, ``/`` first or empty; None if it is not below it."""
    if origin(url) != origin(endpoint):
        return None
    base, path = urlsplit(endpoint).path.rstrip("/"), urlsplit(url).path
    inside = path == base or path.startswith(base + "/")
    return path[len(base) :] if inside and "/.." not in unquote(path) else None


@functools.lru_cache(maxsize=256)
def is_loopback(host: str, port: int | None = None) -> bool:
    """Return whether a host is a loopback address or name."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def redact(url: str) -> str:
    """Return a URL without user, query, fragment and secret path parameters, for messages."""
    try:
        parts = urlsplit(url)
        netloc = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, netloc, _displayed_path(parts.path, url), "", ""))
    except ValueError:
        return "(malformed URL)"


def display_url(text: str) -> str:
    """Return a URI as reports, receipts and messages show it.

    In an http URL, user, password and fragment are left out, and each value of the query or of a path parameter that
    may be a secret is replaced by a few digits of its hash, so that different URLs stay distinct. Other URIs are
    returned unchanged.
    """
    if text[:4].lower() != "http":
        return text
    address, _, _fragment = text.partition("#")
    address, mark, query = address.partition("?")
    address = _displayed_path(re.sub(r"(?<=://)[^/]*@", "", address), text)
    return f"{address}?{_displayed_query(query, text)}" if mark else address


def hide_secrets(message: str) -> str:
    """Return a message with each http address in it as `display_url` shows it, and no secret in any other.

    Users paste them in wrong places.
    """
    message = _LOGIN.sub("", message)
    message = _OTHER_QUERY.sub(lambda found: found[1] + _displayed_query(found[2], found[0]), message)
    return _IN_TEXT.sub(lambda found: found[1] + display_url(f"http://{_USER.sub('', found[2])}")[7:], message)


def without_secret_parameters(path: str) -> str:
    """Return a path without its tokens, and without its parameters that may be secrets, for names of files."""
    path = _PATH_TOKEN.sub("redacted", path)
    return _PATH_PARAMETER.sub(lambda found: found[0] if _displayed(found[2], "") == found[2] else "", path)


def _displayed_path(path: str, text: str) -> str:
    path = _PATH_TOKEN.sub(lambda _: _redacted(text), path)
    return _PATH_PARAMETER.sub(lambda found: found[1] + _displayed(found[2], text), path)


def _displayed_query(query: str, text: str) -> str:
    return "&".join(_displayed(field, text) for field in query.split("&"))


def _displayed(field: str, text: str) -> str:
    name, equals, value = field.partition("=")
    if (value or name).startswith(_REDACTED):
        return field
    word = unquote_plus(name).lower()
    if _TOKEN.search(name) or (not value and len(name) > _SHORT and word not in _PUBLIC_FIELDS):
        name, equals = "", ""  # a secret without a name
    plain = unquote_plus(value)
    holds_more = "=" in plain or "@" in plain or _TOKEN.search(plain) is not None  # another address, for example
    public = (word in _PUBLIC_FIELDS and not holds_more) or (
        len(value) <= _SHORT and bool(equals) and not _CREDENTIAL.search(word)
    )
    if public or not field:
        return field
    shown = _redacted(text)
    return f"{name}={shown}" if equals else shown


def _redacted(text: str) -> str:
    """What is shown instead of a secret in a URL: the digits tell different URLs apart."""
    return f"{_REDACTED}{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"


def without_credentials(text: str) -> str:
    """Return an http URL without the fields of `credential_fields`, user, password and fragment."""
    address, _, query = re.sub(r"(?<=://)[^/?]*@", "", text.partition("#")[0]).partition("?")
    address = _PATH_PARAMETER.sub(lambda found: "" if credential_fields(f"http://h/?{found[2]}") else found[0], address)
    kept = [field for field in query.split("&") if field and not credential_fields(f"http://h/?{field}")]
    return f"{address}?{'&'.join(kept)}" if kept else address


def credential_fields(text: str) -> tuple[str, ...]:
    """Return the names of an http URL's query fields and path parameters that look like credentials.

    Those whose values look like tokens count too, and so does a path with a token.
    """
    if text[:4].lower() != "http":
        return ()
    address, _, query = text.partition("#")[0].partition("?")
    found = []
    for field in (*(one[2] for one in _PATH_PARAMETER.finditer(address)), *query.split("&")):
        name, _, value = unquote_plus(field).partition("=")
        if _TOKEN.search(name):
            found.append("one without a name")
        elif (value and _CREDENTIAL.search(name)) or _TOKEN.search(value):
            found.append(name)
    return (*found, "one in its path") if _PATH_TOKEN.search(address) else tuple(found)
