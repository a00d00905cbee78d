"""Errors of a connection that more than one client reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfetch.errors import UnreachableError

if TYPE_CHECKING:
    import ssl


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
