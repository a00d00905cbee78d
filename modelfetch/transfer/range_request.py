"""Range requests, and the interpretation of their responses. No I/O."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelfetch.core.urls import redact
from modelfetch.errors import IntegrityError, ModelfetchError, NotAModelError, UnreachableError
from modelfetch.formats.content_check import HEAD, is_weights, message_error, page_error
from modelfetch.http import UndecodableError
from modelfetch.http.status import status_error
from modelfetch.http.types import ContentRange, http_date

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelfetch.http import Response
    from modelfetch.transfer.journal import Identity

_MIN_SIZE = 16 * 1024
"""A source that sends fewer bytes than this, although more were requested, gets no further range requests."""
_ETAG = re.compile(r'(?:W/)?"[ !#-~]{1,1024}"|[!#-+\-.-~]{1,256}')
"""An entity tag that can be sent back; some servers leave out the quotation marks."""
_DATE_LIMIT = 64
_FIRST_WEB_SERVER = 631_152_000  # 1990, in Unix time
_TEXTS = ("application/problem+json", "application/xml", "application/javascript")


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedRange:
    """A request for a file from ``start`` to ``end`` (None: to its end); ``ranged``: with a Range header."""

    start: int = 0
    end: int | None = None
    ranged: bool = False

    def headers(self, identity: Identity | None) -> dict[str, str]:
        """The header fields, with `If-Range` if the version is known."""
        if not self.ranged:
            return {}
        last = "" if self.end is None else str(self.end - 1)
        fields = {"Range": f"bytes={self.start}-{last}"}
        if identity is not None and identity.validator is not None:
            fields["If-Range"] = identity.validator
        return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The response holds the bytes from ``start``; ``end`` and ``size`` (of the whole file) are None if unknown."""

    start: int
    end: int | None
    size: int | None
    etag: str | None
    modified: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """The partial file does not match what the source has now: start again without it.

    ``same_version``: the file is the same, and only the range was ignored.
    """

    reason: str
    same_version: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingMore:
    """The source has exactly the bytes that are there already."""

    size: int


class WrongRangeError(UnreachableError):
    """A server sent another range than requested: it does not support ranges."""

    default_code = "bad-response"


class PageInsteadError(NotAModelError):
    """A web page of another size than the file, as captive portals send it: the partial file stays valid."""


def check_response(
    response: Response,
    wanted: WantedRange,
    identity: Identity | None,
    *,
    size: int | None,
    has_digest: bool,
    what: str,
    uri: str,
) -> Answer | Restart | NothingMore:
    """Interpret a response.

    Args:
        response: The response, its body unread.
        wanted: The request.
        identity: The required version, if known.
        size: The required size of the file in bytes, if known.
        has_digest: Whether the file is verified against a digest in the end.
        what: The file's name in messages.
        uri: The location's URI.

    Raises:
        IntegrityError: The source's file has another size (``size-mismatch``).
        WrongRangeError: The response is for another range.
        ModelfetchError: The status is an error.
    """
    if response.status == 200:
        return _whole(response, wanted, identity, size=size, what=what)
    if response.status == 206:
        return _part(response, wanted, identity, size=size, has_digest=has_digest, what=what)
    if response.status == 416 and wanted.ranged:
        return _unsatisfied(response, wanted, size=size)
    error = status_error(response, what=what, uri=uri)
    if response.status in (400, 401, 403, 410) and response.redirected:
        error.permanent = False  # a signed URL that has expired: the next attempt gets a new one
    raise error


def _whole(
    response: Response, wanted: WantedRange, identity: Identity | None, *, size: int | None, what: str
) -> Answer | Restart:
    length = None if response.encoding else response.length
    wrong_size = size is not None and length is not None and length != size
    if wanted.start > 0 or wrong_size:
        page = _page_instead(response, what, wrong_size=wrong_size)  # a captive portal, for example
        if isinstance(page, NotAModelError):
            raise PageInsteadError(page.message, hint=page.hint)
        if page is not None:
            raise page
    if wrong_size:
        raise size_error(what, found=length or 0, expected=size or 0)
    if wanted.start > 0:
        same = identity is not None and not _is_other_version(response, identity, None)
        return Restart(reason="the source sends only the whole file, or it changed", same_version=same)
    return _body(response, start=0, end=length, size=length)


def _page_instead(response: Response, what: str, *, wrong_size: bool) -> ModelfetchError | None:
    """Return the error for a web page or JSON message in the place of the file, or a text or image of another size."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "text/html" and not what.lower().endswith((".html", ".htm")):
        return page_error(what, response.url, what="a web page")
    if is_weights(what) and kind == "application/json":
        return page_error(what, response.url, what="a JSON message")
    if not wrong_size:
        return None
    is_text = kind.startswith("text/") or kind in _TEXTS  # some servers declare every file as text
    if is_weights(what) and (is_text or kind.startswith("image/")):
        return page_error(what, response.url, what="a text" if is_text else "an image")
    try:
        return message_error(what, response.read_start(HEAD)[:HEAD], response.url)
    except UndecodableError:
        return None


def _part(
    response: Response, wanted: WantedRange, identity: Identity | None, *, size: int | None, has_digest: bool, what: str
) -> Answer | Restart:
    part = ContentRange.of(response.headers)
    if not wanted.ranged or part is None or response.encoding is not None:
        raise WrongRangeError(f"{redact(response.url)} sent a part of the file that was not requested")
    start, end, total = part.start, part.end, part.size
    if start != wanted.start or end == start or (wanted.end is not None and end > wanted.end):
        raise WrongRangeError(
            f"{redact(response.url)} sent bytes from {start}, requested were those from {wanted.start}"
        )
    if end - start < min(_MIN_SIZE, (wanted.end or total or end) - start):
        raise WrongRangeError(f"{redact(response.url)} sends only {end - start} bytes at a time")
    if response.length is not None and response.length != end - start:
        raise WrongRangeError(f"{redact(response.url)} sent {response.length} bytes and declared {end - start}")
    if size is not None and total is not None and total != size:
        raise size_error(what, found=total, expected=size)
    if identity is not None and _is_other_version(response, identity, total):
        return Restart(reason="the source's file changed")
    if identity is not None and not has_digest and not _is_confirmed(response, identity):
        return Restart(reason="the source does not confirm that its file is still the same")
    return _body(response, start=start, end=end, size=total)


def _unsatisfied(response: Response, wanted: WantedRange, *, size: int | None) -> Restart | NothingMore:
    part = ContentRange.of(response.headers)
    if part is not None and part.size == wanted.start and size in (None, wanted.start):
        return NothingMore(size=wanted.start)
    return Restart(reason="the source's file is shorter than what is there")


def _is_other_version(response: Response, identity: Identity, total: int | None) -> bool:
    etag, modified = response.headers.get("etag"), response.headers.get("last-modified")
    if identity.etag is not None and etag is not None:
        if _opaque(etag) != _opaque(identity.etag):
            return True
    elif identity.modified is not None and modified is not None and modified != identity.modified:
        return True
    return identity.size is not None and total is not None and total != identity.size


def _is_confirmed(response: Response, identity: Identity) -> bool:
    """Whether a part has the validator that it was requested with: some servers, and proxies, ignore `If-Range`."""
    field = "etag" if identity.etag is not None else "last-modified"
    return identity.validator is None or response.headers.get(field) == identity.validator


def _opaque(etag: str) -> str:
    return etag.removeprefix("W/")


def _body(response: Response, *, start: int, end: int | None, size: int | None) -> Answer:
    etag = response.headers.get("etag", "")
    return Answer(
        start=start,
        end=end,
        size=size,
        etag=etag if _ETAG.fullmatch(etag) else None,
        modified=strong_date(response.headers),
    )


def strong_date(fields: Mapping[str, str]) -> str | None:
    """Return ``Last-Modified`` if it identifies one version of a file, else None.

    A date has a resolution of one second, within which a file may change twice. It is accepted only if the file was old
    enough when the response was sent: by a second according to the response's ``Date``, or without one by a minute
    according to this machine's clock (source: RFC 9110, sections 8.8.2.2 and 6.6.1). Dates older than the web are
    constants that reproducible builds give to all files, such as 1 in a Nix store.
    """
    modified = fields.get("last-modified", "")
    changed, sent = http_date(modified), http_date(fields.get("date", ""))
    if changed is None or changed < _FIRST_WEB_SERVER or len(modified) > _DATE_LIMIT:
        return None
    age = sent - changed - 1 if sent is not None else time.time() - changed - 60
    return modified if age >= 0 else None


def size_error(what: str, *, found: int, expected: int) -> ModelfetchError:
    """Create the error for a file of another size."""
    return IntegrityError(f"{what} has {found} bytes, expected {expected}", code="size-mismatch")
