"""Interpret the response to a request for a file's first byte: the file's size and name, or an error."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from modelfetch.errors import IntegrityError, NotAModelError
from modelfetch.formats.content_check import HEAD
from modelfetch.http.status import status_error
from modelfetch.http.types import ContentRange
from modelfetch.manifest.paths import safe_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelfetch.http import Response

FIRST_BYTE = {"Range": "bytes=0-0", "Accept-Encoding": "identity"}
"""Requests a single byte. HEAD is unreliable because signed URLs are signed for GET."""

FIRST_BYTES = {"Range": f"bytes=0-{HEAD - 1}", "Accept-Encoding": "identity"}
"""Requests as much of a file as `check_replacement` needs."""

_EXPIRED = (400, 401, 403, 410)
_PARAMETER = re.compile(r';\s*([^\s;=",]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;,"]+))')
_EXTENDED = re.compile(r"([A-Za-z0-9-]+)'[A-Za-z0-9-]*'(.+)\Z", re.DOTALL)
_CHARSETS = {"utf-8": "utf-8", "iso-8859-1": "latin-1"}
_LONGEST_FIELD = 4096


def unsafe_name_error(what: str, name: str) -> IntegrityError:
    """Make the error for a file name of a server that leads elsewhere; ``what`` is where the server lists it."""
    return IntegrityError(
        f"{what} names a file {name[:120]!r}, which is not a safe path",
        code="unsafe-path",
        hint="nothing was downloaded; report it to its publisher, or use another version",
    )


def unlisted_name_error(uri: str, name: str, kind: str | None) -> NotAModelError:
    """The error for weights whose name has no suffix that a service would list."""
    return NotAModelError(
        f"{uri} is named {name}, which no service lists as a {kind}, and its content is not known",
        hint="name it in the manifest, with the suffix of its format: filename: NAME.safetensors",
    )


def total_size(response: Response) -> int | None:
    """Return the size of the whole file in bytes from a response to `FIRST_BYTE`; None if not given."""
    if response.encoding is not None:
        return None
    if response.status in (206, 416):
        part = ContentRange.of(response.headers)
        return part.size if part is not None else None
    return response.length


def check_file(response: Response, requested: str, *, what: str, uri: str) -> None:
    """Raise the error of a response to `FIRST_BYTE`, unless it shows that the file exists.

    A refusal from another host than that of the ``requested`` URL comes from a signed URL that may have
    expired: another attempt gets a new one.

    Raises:
        ModelfetchError: As `status_error`, for successful statuses without a file (204, 205), too.
    """
    if response.status in (200, 206, 416):
        return
    error = status_error(response, what=what, uri=uri)
    if response.status in _EXPIRED and is_elsewhere(response, requested):
        error.permanent = False
    raise error


def is_elsewhere(response: Response, requested: str) -> bool:
    """Return whether a response came from another host than the ``requested`` one, after a redirect."""
    return response.redirected and urlsplit(response.url).netloc != urlsplit(requested).netloc


def disposition_name(headers: Mapping[str, str]) -> str | None:
    """Return the file name that a server suggests, made safe; None if there is none.

    ``filename*`` is preferred to ``filename``, and the first of several fields counts. Source: RFC 6266, section 4.3;
    RFC 8187 for the extended form.
    """
    value = headers.get("content-disposition", "")
    if not value or len(value) > _LONGEST_FIELD:
        return None
    found: dict[str, str] = {}
    for key, quoted, token in _PARAMETER.findall(value):
        found.setdefault(key.lower(), re.sub(r"\\(.)", r"\1", quoted) if quoted else token.strip())
    for name in (_extended(found.get("filename*", "")), unquote(found.get("filename", ""))):
        if name and (safe := safe_name(name)):
            return safe
    return None


def _extended(value: str) -> str | None:
    match = _EXTENDED.match(value)
    charset = _CHARSETS.get(match[1].lower()) if match else None
    if match is None or charset is None:
        return None
    try:
        return unquote(match[2], encoding=charset, errors="strict")
    except UnicodeDecodeError:
        return None
