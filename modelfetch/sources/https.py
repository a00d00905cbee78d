"""``https://…``: a file on an ordinary web server."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from modelfetch.core.artifact import Artifact, Location, Resolution
from modelfetch.core.urls import redact
from modelfetch.errors import CredentialsError, UnreachableError
from modelfetch.formats.content_check import HEAD, is_listed, is_weights, suffix_for
from modelfetch.manifest.kinds import WEIGHT_KINDS
from modelfetch.manifest.paths import safe_name
from modelfetch.manifest.uri import HttpUri
from modelfetch.sources.answers import (
    FIRST_BYTE,
    FIRST_BYTES,
    check_file,
    disposition_name,
    total_size,
    unlisted_name_error,
)
from modelfetch.sources.base import Source, SourceRequest
from modelfetch.sources.pages import refuse_page

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelfetch.config.settings import Settings
    from modelfetch.http import Http, Response
    from modelfetch.sources.base import ReadBlob


class HttpsSource(Source[HttpUri]):
    """Requests the first byte; the response gives size and name, and shows whether access is allowed."""

    def __init__(self, http: Http, _settings: Settings) -> None:
        self._http = http

    def query(self, uri: HttpUri, wanted: SourceRequest) -> Resolution:
        """Return the file's size and name; a web server provides no trustworthy digest."""
        fields = FIRST_BYTES if wanted.fills_size else FIRST_BYTE
        with self._http.open("GET", uri.url, headers=fields) as response:
            if response.status == 401 and response.authorized:
                raise _refused(response)
            check_file(response, uri.url, what=str(uri), uri=str(uri))
            name = _name(uri, response.headers) or wanted.filename
            weights = wanted.kind in WEIGHT_KINDS
            refuse_page(
                response,
                str(uri),
                path="" if weights else name or "",  # weights are never a page
                size=wanted.size,
                digest=wanted.digest,
                weights=weights,
                fills_size=wanted.fills_size,
            )
            size = total_size(response)
            response.drain()
        name = self._listed(uri, name, wanted)
        return Resolution(artifacts=(_artifact(uri, name, size),))

    @classmethod
    def known(cls, uri: HttpUri, wanted: SourceRequest, settings: Settings, read_blob: ReadBlob) -> Resolution | None:
        """Return a file whose digest and size are pinned and whose URL ends in a name."""
        last = _basename(uri) or ""
        good = is_listed(last) if wanted.kind in WEIGHT_KINDS else "." in last
        name = wanted.filename.rpartition("/")[2] if wanted.filename else last if good else None
        if wanted.digest is None or wanted.size is None or name is None:
            return None
        return cls.apply_pins(wanted, Resolution(artifacts=(_artifact(uri, name, wanted.size),), pinned=True))

    def _listed(self, uri: HttpUri, name: str | None, wanted: SourceRequest) -> str:
        """Return the name, with the suffix for its content if no service would list the file otherwise.

        Raises:
            UnreachableError: The server gives no name (``bad-response``).
            NotAModelError: The content does not show the right suffix.
        """
        if wanted.filename:
            return wanted.filename.rpartition("/")[2]
        if name is None:
            raise UnreachableError(
                f"{uri} gives no name for the file",
                code="bad-response",
                permanent=True,
                hint="name it in the manifest: filename: …",
            )
        if not wanted.is_unlisted(name):
            return name
        suffix = self._suffix(uri)
        if suffix is None:
            raise unlisted_name_error(str(uri), name, wanted.kind)
        stem = PurePosixPath(name).stem if PurePosixPath(name).suffix.lower() in _SCRIPTS else name
        return f"{stem}{suffix}"

    def _suffix(self, uri: HttpUri) -> str | None:
        with self._http.open("GET", uri.url, headers=FIRST_BYTES) as response:
            check_file(response, uri.url, what=str(uri), uri=str(uri))
            return suffix_for(response.read_start(HEAD))


_SCRIPTS = frozenset({".php", ".asp", ".aspx", ".jsp", ".cgi", ".pl", ".py", ".do"})
"""Suffixes of server programs, which are not part of a file's name."""


def _refused(response: Response) -> CredentialsError:
    return CredentialsError(
        f"{redact(response.url)} rejects the user and password that are set for its host",
        code="unauthorized",
        hint="correct ~/.netrc, or the file that NETRC names",
    )


def _artifact(uri: HttpUri, name: str, size: int | None) -> Artifact:
    return Artifact(uri=str(uri), path=name, size=size, locations=(Location(uri=str(uri), url=uri.url),))


def _basename(uri: HttpUri) -> str | None:
    last = uri.path.rpartition("/")[2]
    return safe_name(last) if last else None


def _name(uri: HttpUri, headers: Mapping[str, str]) -> str | None:
    """Return the model file's name at the end of the URL, else the server's name for it, else the URL's last part.

    A model file's name in the URL takes precedence because a pinned file is resolved without a request.
    """
    last = _basename(uri)
    if last is not None and is_weights(last):
        return last
    return disposition_name(headers) or last
