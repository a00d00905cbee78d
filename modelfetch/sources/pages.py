"""Detect web pages served in place of a file: one rule for all sources and all requests that read a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfetch.core.digest import new_hasher
from modelfetch.core.urls import display_url, origin, redact
from modelfetch.errors import CredentialsError, NotAModelError, UnreachableError
from modelfetch.formats.content_check import (
    HEAD,
    check_pointer,
    check_replacement,
    is_login,
    is_weights,
    looks_like_html,
    looks_like_text,
)
from modelfetch.formats.signatures import is_other_media
from modelfetch.http import UndecodableError
from modelfetch.sources.answers import total_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelfetch.core.digest import Digest
    from modelfetch.errors import ModelfetchError
    from modelfetch.http import Reply, Response

_PAGES = (".html", ".htm", ".xhtml")
_HINT = (
    "give the address that downloads the file itself; for a hub write hf://NS/REPO/FILE, civitai://VERSION_ID, "
    "ollama://NAME:TAG or https://github.com/OWNER/REPO/releases/download/TAG/FILE"
)
_MAX_PAGE = 2**20
"""Bytes; what is larger is hashed by the transfer only."""
_PORTAL = (
    "a network that requires a login first, or a proxy, may have answered in place of the server: open the address in "
    "a browser on this network"
)
_PORTAL_HINT = f"{_PORTAL}; the manifest's pin is not the cause"


def is_html(headers: Mapping[str, str]) -> bool:
    """Return whether a response is declared as a web page."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml")


def refuse_page(
    response: Response,
    uri: str,
    *,
    path: str = "",
    size: int | None = None,
    pinned: bool = False,
    digest: Digest | None = None,
    weights: bool = False,
    fills_size: bool = False,
    login: ModelfetchError | None = None,
) -> None:
    """Raise if a response is a web page instead of the file, or a message whose size is not that of the file.

    Args:
        response: The response; at most the start of its body is read.
        uri: The file's URI.
        path: The file's name; a file that is itself a web page is accepted.
        size: The expected size in bytes, if known.
        pinned: Whether a digest of the source identifies the file; ``digest`` does too.
        digest: The manifest's digest of the file; without ``size``, a page of this digest is the file.
        weights: Whether it is model weights, whatever its name.
        fills_size: Whether its size will be pinned, so that the start of weights is checked.
        login: The error for a login page, if the source has a more specific one.

    Raises:
        CredentialsError: It is a login page (``login-page``).
        NotAModelError: It is another page.
    """
    shown, weights, pinned = display_url(uri), weights or is_weights(path), pinned or digest is not None
    if fills_size and weights and (error := _replacement(response, path)) is not None:
        raise error.about(uri=shown)
    if not is_html(response.headers):
        if size is not None and _is_message(response, path, size, weights=weights):
            raise NotAModelError(f"{shown}: a message came instead of the file", hint=_PORTAL_HINT, uri=shown)
        return
    if is_login(response.url):
        raise login or CredentialsError(
            f"{shown} leads to a login page ({redact(response.url)})",
            code="login-page",
            hint=f"put a login for {origin(response.url)[1]} into ~/.netrc, or use a link that needs none",
            uri=shown,
        )
    if not 200 <= response.status < 300 or path.lower().endswith(_PAGES):
        return
    if pinned and size is not None and total_size(response) == size:
        return
    try:
        first = response.read_start(HEAD)
    except UndecodableError:
        return  # the transfer judges it, for the digest may be that of the bytes as sent
    if not _begins_as_page(response, first, text=weights and size is not None):
        return
    if digest is not None and size is None and not fills_size and _may_match(response, first, digest):
        return
    known = pinned or size is not None
    what = "a web page came instead of the file" if known else "it is a web page, not a file"
    raise NotAModelError(f"{shown}: {what}", hint=_PORTAL_HINT if known else _HINT, uri=shown)


def refuse_page_as_metadata(reply: Reply, what: str, uri: str) -> None:
    """Raise if an API answered with a web page.

    Args:
        reply: The response.
        what: What was requested, for the message.
        uri: The URI concerned.

    Raises:
        CredentialsError: It is a login page (``login-page``).
        UnreachableError: It is another page (``bad-response``).
    """
    if not looks_like_html(reply.body[:HEAD]):
        return
    shown = redact(reply.url)
    if is_login(reply.url):
        raise CredentialsError(
            f"a login page ({shown}) came instead of {what}", code="login-page", uri=uri, hint=_PORTAL
        )
    raise UnreachableError(
        f"a web page ({shown}) came instead of {what}", code="bad-response", uri=uri, permanent=True, hint=_PORTAL
    )


def _replacement(response: Response, path: str) -> ModelfetchError | None:
    """Return the error for what came in place of weights, if a response to `FIRST_BYTES` contains their start."""
    if response.status not in (200, 206) or is_html(response.headers):
        return None
    try:
        head = response.read_start(HEAD)[:HEAD]
    except UndecodableError:
        return None
    total = total_size(response)
    if response.status == 206 and len(head) < min(HEAD, HEAD if total is None else total):
        return None
    path = path or "the file"
    return check_pointer(path, head) or check_replacement(path, head, response.url)


def _begins_as_page(response: Response, first: bytes, *, text: bool) -> bool:
    """Return whether a body declared as a web page starts like one, or is a ``text``: some declare every file so."""
    begins = first.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"<", b"")
    return begins or looks_like_html(first) or (text and response.status == 200 and looks_like_text(first[:HEAD]))


def _may_match(response: Response, first: bytes, digest: Digest) -> bool:
    """Return whether a body may have a digest; without the whole body, only the transfer can tell."""
    if response.status != 200 or response.encoding:
        return True
    body = first + response.read_start(_MAX_PAGE)
    hasher = new_hasher(digest.algorithm, len(body))
    hasher.update(body)
    return len(body) > _MAX_PAGE or hasher.hexdigest() == digest.hex


def _is_message(response: Response, path: str, size: int, *, weights: bool) -> bool:
    """Return whether a whole body of another size than the file's is a web page, or for weights a text or an image."""
    if response.status != 200 or total_size(response) == size or not response.can_decode:
        return False
    try:
        head = response.read_start(HEAD)[:HEAD]
    except UndecodableError:
        return False
    return looks_like_html(head) or (weights and (not head or looks_like_text(head) or is_other_media(path, head)))
