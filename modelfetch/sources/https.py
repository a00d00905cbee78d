"""``https://…``: a file on an ordinary web server."""

from __future__ import annotations

import re
from email.message import Message
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from modelfetch.core.artifact import Artifact, Location, Resolution
from modelfetch.core.units import MAX_SIZE
from modelfetch.core.urls import redact
from modelfetch.errors import CredentialsError, ModelfetchError, UnreachableError
from modelfetch.http import check_status
from modelfetch.manifest.paths import safe_name
from modelfetch.manifest.uri import HttpUri
from modelfetch.sources.base import Source, SourceRequest, display_uri

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelfetch.http import Http, Response
    from modelfetch.http.auth import Credentials
    from modelfetch.sources.base import ReadBlob

FIRST_BYTE = {"Range": "bytes=0-0", "Accept-Encoding": "identity"}
"""Asks for next to nothing: HEAD is not reliable, since signed addresses are signed for GET."""

_EXPIRED = (400, 401, 403, 410)
_CONTENT_RANGE = re.compile(r"bytes (?:\d+-\d+|\*)/(\d{1,19})\Z", re.ASCII)
_LOGIN = re.compile(r"/(?:login|signin|sign-in|sign_in|auth/login|users/sign_in)/?\Z", re.IGNORECASE)


class HttpsSource(Source[HttpUri]):
    """Asks for the first byte, which tells size, name and whether one is let in."""

    def __init__(self, http: Http, credentials: Credentials) -> None:
        self._http = http
        self._credentials = credentials

    def ask(self, uri: HttpUri, wanted: SourceRequest) -> Resolution:
        """The file's size and name; a web server gives no digest that could be believed."""
        with self._http.open("GET", uri.url, headers=FIRST_BYTE) as response:
            refuse_login(response, uri.text)
            if response.status == 401 and self._credentials.knows(response.url):
                raise _refused(response)
            check_file(response, uri.url, what="the file", uri=uri.text)
            size = total_size(response)
            name = _name(uri, response.headers)
            response.drain()
        return Resolution(artifacts=(_artifact(uri, name or _nameless(wanted, uri), size),))

    def known(self, uri: HttpUri, wanted: SourceRequest, read_blob: ReadBlob) -> Resolution | None:
        """A file whose digest and size are pinned, and whose address ends in a name."""
        last = _basename(uri) or ""
        name = wanted.filename.rpartition("/")[2] if wanted.filename else last if "." in last else None
        if wanted.digest is None or wanted.size is None or name is None:
            return None
        return self.agree(wanted, Resolution(artifacts=(_artifact(uri, name, wanted.size),), pinned=True))


def _refused(response: Response) -> CredentialsError:
    return CredentialsError(
        f"{redact(response.url)} refuses the user and password that are set for its host",
        code="unauthorized",
        hint="correct ~/.netrc, or the file that NETRC names",
    )


def _artifact(uri: HttpUri, name: str, size: int | None) -> Artifact:
    return Artifact(uri=uri.text, path=name, size=size, locations=(Location(uri=uri.text, url=uri.url),))


def _basename(uri: HttpUri) -> str | None:
    last = uri.path.rpartition("/")[2]
    return safe_name(last) if last else None


def _name(uri: HttpUri, headers: Mapping[str, str]) -> str | None:
    """The last part of the address; the server's own name where that looks like none (``/models/123``)."""
    last = _basename(uri)
    if last is not None and "." in last:
        return last
    return disposition_name(headers) or last


def _nameless(wanted: SourceRequest, uri: HttpUri) -> str:
    if wanted.filename:
        return wanted.filename.rpartition("/")[2]
    raise UnreachableError(
        f"{display_uri(uri.text)} says no name for the file",
        code="bad-response",
        permanent=True,
        hint="name it in the manifest: filename: …",
    )


def total_size(response: Response) -> int | None:
    """The size in bytes of the whole file, from the answer to `FIRST_BYTE`; None where the server doesn't say."""
    if response.encoding is not None:
        return None
    if response.status in (206, 416):
        match = _CONTENT_RANGE.match(response.headers.get("content-range", "").strip())
        size = int(match[1]) if match else None
    else:
        size = response.length
    return size if size is None or size <= MAX_SIZE else None


def check_file(response: Response, asked: str, *, what: str, uri: str) -> None:
    """Do nothing if an answer to `FIRST_BYTE` says that the file is there; else raise what it means.

    A refusal from another host than the one that was ``asked`` is that of a signed address, which may have expired:
    asking again gets a new one.

    Raises:
        ModelfetchError: As `check_status`.
    """
    if response.status == 416:
        return
    try:
        check_status(response, what=what, uri=uri)
    except ModelfetchError as error:
        if response.status in _EXPIRED and is_elsewhere(response, asked):
            error.permanent = False
        raise


def is_elsewhere(response: Response, asked: str) -> bool:
    """Whether an answer is another host's than the one that was ``asked``, which sent us there."""
    return response.redirected and urlsplit(response.url).netloc != urlsplit(asked).netloc


def disposition_name(headers: Mapping[str, str]) -> str | None:
    """The file's name that a server sends (source: RFC 6266), made safe; None where there is none."""
    value = headers.get("content-disposition", "")
    if not value or len(value) > 4096:
        return None
    message = Message()
    message["content-disposition"] = value
    try:
        name = message.get_filename()
    except (ValueError, LookupError, TypeError):
        return None
    return safe_name(unquote(name)) if name else None


def is_html(headers: Mapping[str, str]) -> bool:
    """Whether an answer is a web page."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml")


def refuse_login(response: Response, uri: str, error: ModelfetchError | None = None) -> None:
    """Raise where an answer is a page that asks to log in.

    Raises:
        CredentialsError: It is (``login-page``).
    """
    if is_html(response.headers) and _LOGIN.search(urlsplit(response.url).path):
        raise error or CredentialsError(
            f"{display_uri(uri)} leads to a login page ({redact(response.url)})",
            code="login-page",
            hint="set a token for this host: docs/guides/credentials.md",
        )
