"""Typed errors for HTTP statuses, and for failures of a connection that more than one client reports."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from modelfetch.core.urls import redact
from modelfetch.errors import (
    CredentialsError,
    ModelfetchError,
    NotFoundError,
    RetryLaterError,
    UnreachableError,
)
from modelfetch.http.types import Headers, http_date

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from modelfetch.http.response import Response
    from modelfetch.http.types import Reply


class RateLimitedError(RetryLaterError):
    """Too many requests to a source; ``retry_after`` is in seconds, None if not given."""

    def __init__(self, message: str, *, retry_after: float | None, uri: str | None = None) -> None:
        super().__init__(message, code="rate-limited", uri=uri, permanent=False)
        self.retry_after = retry_after


class ServerError(UnreachableError):
    """A source failed temporarily; ``retry_after`` is in seconds, None if not given."""

    default_code = "server-error"
    default_hint = "the server has a problem: run it again later, or add a mirror to the entry (`mirrors:`)"

    def __init__(self, message: str, *, retry_after: float | None, uri: str | None = None) -> None:
        super().__init__(message, uri=uri, permanent=False)
        self.retry_after = retry_after


def retry_after(headers: Mapping[str, str], *, now: Callable[[], float] = time.time) -> float | None:
    """Return the seconds to wait before a retry, from ``Retry-After`` (seconds or a date) or ``RateLimit: …;t=``.

    Sources: RFC 9110, section 10.2.3; the Hub's rate-limit documentation for ``RateLimit``.
    """
    fields = Headers(headers)
    value = fields.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(min(int(value[:12]), 10**9))
    if value:
        date = http_date(value)
        return None if date is None else max(0.0, date - now())
    for part in fields.get("ratelimit", "").replace(",", ";").split(";"):
        name, _, number = part.strip().partition("=")
        if name == "t" and number.isascii() and number.isdigit():
            return float(min(int(number[:12]), 10**9))
    return None


def check_status(reply: Reply | Response, *, what: str, uri: str | None) -> None:
    """Raise the error for any status other than 2xx.

    Args:
        reply: The response.
        what: What was requested, for the message.
        uri: The URI concerned.

    Raises:
        CredentialsError: 401 (``missing-or-private``), 403 (``forbidden``), 407 (``proxy-credentials``).
        NotFoundError: 404, 410.
        RateLimitedError: 429; its ``retry_after`` is in seconds.
        ServerError: 408, 425, 5xx; may be retried.
        UnreachableError: Any other status (``bad-response``, permanent).
    """
    if not 200 <= reply.status < 300:
        raise status_error(reply, what=what, uri=uri)


def _hub_error(code: str, message: str, uri: str | None) -> ModelfetchError | None:
    """Return the error for a Hugging Face Hub's ``X-Error-Code`` (source: huggingface_hub, ``hf_raise_for_status``)."""
    if code == "GatedRepo":
        hint = "accept its terms on the model's page, then set a token of that account that may read gated repos"
        return CredentialsError(f"{message}: it is gated", code="gated", uri=uri, hint=hint)
    if code == "RevisionNotFound":
        return NotFoundError(message, code="unknown-revision", uri=uri)
    return None


def _server_error(reply: Reply | Response, message: str, uri: str | None) -> ServerError:
    error = ServerError(message, retry_after=retry_after(reply.headers), uri=uri)
    if reply.status == 511:  # source: RFC 6585, section 6
        error.hint = "a network on the way requires a login first: open any web page in a browser on this network"
    return error


def status_error(reply: Reply | Response, *, what: str, uri: str | None) -> ModelfetchError:
    """Return the typed error for an unsuccessful status; see `check_status`."""
    status, host = reply.status, redact(reply.url)
    message = f"{what} answered {status}" if what == host else f"{host} answered {status} for {what}"
    if (known := _hub_error(reply.headers.get("x-error-code", ""), message, uri)) is not None:
        return known
    if status == 401:
        if reply.authorized:
            hint = "the credential that was sent for this host was rejected: renew it, or check what it may read"
            return CredentialsError(message, code="unauthorized", uri=uri, hint=hint)
        hint = "it does not exist, or it is private: check the name, or put a login for this host into ~/.netrc"
        return CredentialsError(message, code="missing-or-private", uri=uri, hint=hint)
    if status == 403:
        hint = "put a login for this host into ~/.netrc if the file needs one; or the host refuses your network"
        if reply.authorized:
            hint = "the credential that was sent for this host may not read it, or its terms were not accepted"
        return CredentialsError(message, code="forbidden", uri=uri, hint=hint)
    if status == 407:
        return CredentialsError(message, code="proxy-credentials", uri=uri, hint="the proxy needs a user and password")
    if status in (404, 410):
        return NotFoundError(message, uri=uri)
    if status == 429:
        return RateLimitedError(message, retry_after=retry_after(reply.headers), uri=uri)
    if status in (408, 425) or status >= 500:
        return _server_error(reply, message, uri)
    hint = "open the address in a browser: the server, or a proxy on the way, refuses it or answers in its place"
    return UnreachableError(message, code="bad-response", uri=uri, permanent=True, hint=hint)


def certificate_error(where: str, error: ssl.SSLCertVerificationError) -> UnreachableError:
    """The error for a server whose certificate can't be verified; ``where`` is its address without credentials."""
    return UnreachableError(
        f"{where}: the certificate is not valid: {error.verify_message or error.reason}",
        code="certificate",
        permanent=True,
        hint="is the clock right (`date`)? If a proxy inspects TLS, or the server is your own, name the file of its "
        "authority: SSL_CERT_FILE=/PATH/ca.pem",
    )


def invalid_answer_error(where: str, detail: str = "") -> UnreachableError:
    """The error for an answer that is not HTTP, or breaks its rules."""
    return UnreachableError(
        f"{where}: {detail or 'the answer is not valid HTTP'}",
        code="bad-response",
        hint="check scheme, host and port of the address: another service, or a proxy, may answer there",
    )
