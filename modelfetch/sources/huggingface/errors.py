"""What the Hugging Face Hub means by an error, and what its user can do about it.

Sources: the Hub's ``X-Error-Code`` and ``X-Error-Message`` headers as huggingface_hub 2.4 reads them
(``hf_raise_for_status``), and its documentation on gated models and rate limits. A server's own words are
matched, never shown: they are somebody else's text.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelfetch.core.urls import redact
from modelfetch.errors import CredentialsError, ModelfetchError, NotFoundError, UnreachableError
from modelfetch.http import Headers, Reply
from modelfetch.http.status import status_error

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked: for messages, and because a refusal means another thing to somebody with a token."""

    endpoint: str
    repo: str
    revision: str | None
    with_token: bool

    @property
    def page(self) -> str:
        """Where a person finds the repo."""
        return f"{self.endpoint}/{self.repo}"

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}" if self.revision else self.repo


def translate(error: Exception, asked: Asked) -> ModelfetchError:
    """The typed error for anything that huggingface_hub, or httpx2 below it, raises."""
    if isinstance(error, ModelfetchError):
        return error
    response = getattr(error, "response", None)
    if response is not None:
        return refusal(response.status_code, response.headers, str(response.url), asked)
    import httpx2
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return UnreachableError(
            f"{asked} would have to be asked, and HF_HUB_OFFLINE is set", code="offline", permanent=True
        )
    if isinstance(error, HFValidationError):
        return NotFoundError(f"{asked.repo!r} is not a name that the hub can have")
    if isinstance(error, httpx2.HTTPError | httpx2.InvalidURL | httpx2.CookieConflict | httpx2.StreamError | OSError):
        return _transport(error, asked)
    if isinstance(error, ValueError | TypeError | KeyError | AttributeError | RecursionError):
        return nonsense(asked)
    raise error


def nonsense(asked: Asked) -> UnreachableError:
    """The answer is not what the hub's API says."""
    return UnreachableError(
        f"{asked.endpoint} gave no metadata of {asked} that can be understood",
        code="bad-response",
        permanent=True,
        hint="is HF_ENDPOINT a Hugging Face Hub, or does a proxy or login page stand before it?",
    )


def _transport(error: Exception, asked: Asked) -> UnreachableError:
    import httpx2

    where = asked.endpoint
    link: BaseException | None = error
    reason = None
    for _ in range(12):
        if link is None:
            break
        if isinstance(link, ssl.SSLCertVerificationError):
            return UnreachableError(
                f"{where}: the certificate is not valid: {link.verify_message}",
                code="certificate",
                permanent=True,
                hint="SSL_CERT_FILE names a file of authorities to trust",
            )
        if isinstance(link, OSError):
            reason = link.strerror
        link = link.__cause__ or link.__context__
    if isinstance(error, httpx2.TimeoutException):
        return UnreachableError(f"{where}: no answer in time", code="timeout")
    if isinstance(error, httpx2.TooManyRedirects):
        return UnreachableError(f"{where}: too many redirects", code="too-many-redirects", permanent=True)
    if isinstance(error, httpx2.RemoteProtocolError | httpx2.DecodingError):
        return UnreachableError(f"{where}: broken answer", code="bad-response")
    if isinstance(error, httpx2.InvalidURL | httpx2.UnsupportedProtocol | httpx2.LocalProtocolError):
        return UnreachableError(f"{where}: it redirects to what is no URL", code="bad-response", permanent=True)
    return UnreachableError(f"{where}: {reason or 'no connection'}")


def refusal(status: int, headers: Mapping[str, str], url: str, asked: Asked) -> ModelfetchError:
    """The typed error of a status that is no success."""
    fields = Headers(headers)
    code, said = fields.get("x-error-code", ""), fields.get("x-error-message", "").lower()
    if code == "GatedRepo":
        return _gated(status, said, asked)
    if code == "RevisionNotFound" or (status == 400 and "rev" in said):
        return NotFoundError(
            f"{asked.repo} has no revision {asked.revision}",
            code="unknown-revision",
            hint=f"branches and tags are listed at {asked.page}/tree/main",
        )
    if "access to this resource is disabled" in said:
        return NotFoundError(f"{asked.repo} was disabled by the hub", hint="choose another source or a mirror")
    if status == 401:
        return _unauthorized(asked)
    if status == 403:
        return _forbidden(said, asked)
    if code == "RepoNotFound" or status in (404, 410):
        hint = "check the name"
        if asked.with_token:
            hint += "; a private repo looks the same to a token that may not read it"
        return NotFoundError(f"{asked} does not exist at {asked.endpoint}", hint=hint)
    reply = Reply(status=status, headers=fields, body=b"", url=redact(url))
    error = status_error(reply, what=str(asked), uri=None)
    if status == 429:
        error.hint = "requests with a token have higher limits: set HF_TOKEN" if not asked.with_token else None
    return error


def _gated(status: int, said: str, asked: Asked) -> CredentialsError:
    if not asked.with_token:
        return CredentialsError(
            f"{asked.repo} is gated, and no token is set",
            code="gated",
            hint=f"accept its terms at {asked.page}, then set HF_TOKEN",
        )
    if "fine-grained" in said or "token settings" in said:
        return CredentialsError(
            f"{asked.repo} is gated, and this fine-grained token may not read gated repos",
            code="gated",
            hint='turn on "Read access to contents of all public gated repos you can access" for the token',
        )
    if status == 401:
        return CredentialsError(
            f"{asked.repo} is gated, and the hub refuses this token",
            code="unauthorized",
            hint=f"it may have expired or been revoked: make a new one at {asked.endpoint}/settings/tokens",
        )
    if "awaiting" in said or "pending" in said:
        return CredentialsError(
            f"{asked.repo} is gated, and its authors have not answered the request for access yet",
            code="gated",
            hint=f"look at {asked.page}",
        )
    return CredentialsError(
        f"{asked.repo} is gated, and its terms were not accepted with this account",
        code="gated",
        hint=f"accept them at {asked.page}; a fine-grained token also needs the right to read gated repos",
    )


def _unauthorized(asked: Asked) -> CredentialsError:
    if asked.with_token:
        return CredentialsError(
            f"the hub refuses the token that was sent for {asked.repo}",
            code="unauthorized",
            hint=f"it may have expired or been revoked: renew it at {asked.endpoint}/settings/tokens, or unset it",
        )
    return CredentialsError(
        f"{asked.repo} does not exist, or it is private and no token is set",
        code="missing-or-private",
        hint="check the name, or set HF_TOKEN",
    )


def _forbidden(said: str, asked: Asked) -> CredentialsError:
    if "fine-grained" in said or "permission" in said or "scope" in said:
        hint = "give the token read access to this repo, or to the organisation that owns it"
    else:
        hint = "the token may lack the right to read this repo, or the hub blocks this address"
    return CredentialsError(f"the hub forbids reading {asked.repo}", code="forbidden", hint=hint)
