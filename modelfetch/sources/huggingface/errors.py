"""Errors of the Hugging Face Hub, with hints for the user.

Sources: the Hub's ``X-Error-Code`` and ``X-Error-Message`` headers as huggingface_hub reads them
(``hf_raise_for_status``), and its documentation on gated models and rate limits. A server's own text is matched but
never shown.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from modelfetch.core.limits import limit_behind
from modelfetch.core.urls import redact
from modelfetch.errors import CredentialsError, ModelfetchError, NotFoundError, UnreachableError
from modelfetch.formats.content_check import HEAD, looks_like_html
from modelfetch.http import Headers, Reply
from modelfetch.http.names import lookup_error, name_proxy
from modelfetch.http.proxies import proxy_of, with_proxy
from modelfetch.http.status import certificate_error, invalid_answer_error, status_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class UnusableAnswerError(UnreachableError):
    """An answer does not follow the hub's API, like that of a mirror that lacks this part of it."""

    default_code = "bad-response"
    default_permanent = True


class ImpossibleError(UnreachableError):
    """A hub's answer can't be true: nothing is taken from this hub."""

    default_code = "bad-response"
    default_permanent = True
    default_hint = "the hub, or a proxy in front of it, is broken: choose another HF_ENDPOINT or mirror"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The request, for messages; a refusal has another meaning if a token was sent."""

    endpoint: str
    repo: str
    revision: str | None
    with_token: bool

    @property
    def page(self) -> str:
        """The URL of the repo's page."""
        return f"{self.endpoint}/{self.repo}"

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}" if self.revision else self.repo


def translate(error: Exception, query: Query) -> ModelfetchError:
    """Return the typed error for any exception of huggingface_hub or the HTTP library below it.

    Its versions use different HTTP libraries, so exceptions are recognised by their class names.
    """
    if isinstance(error, ModelfetchError):
        return error
    names = {kind.__name__ for kind in type(error).__mro__}
    if "JSONDecodeError" in names:
        return invalid_response(query, is_page=_is_page(error))
    response = getattr(error, "response", None)
    if response is not None and "TooManyRedirects" not in names:
        return refusal(response.status_code, response.headers, str(response.url), query)
    if "OfflineModeIsEnabled" in names:
        return UnreachableError(
            f"{query} would need a request, and HF_HUB_OFFLINE is set", code="offline", permanent=True
        )
    if "HFValidationError" in names:
        return NotFoundError(f"{query.repo!r} is not a valid name of a repo")
    if names & _TRANSPORT or isinstance(error, OSError):
        return limit_behind(error) or _transport(error, names, query)
    if isinstance(error, ValueError | TypeError | KeyError | AttributeError | RecursionError):
        return invalid_response(query)
    raise error


_TRANSPORT = frozenset({"HTTPError", "RequestException", "InvalidURL", "CookieConflict", "StreamError"})
_TIMEOUTS = frozenset({"TimeoutException", "Timeout"})
_BROKEN = frozenset({"RemoteProtocolError", "DecodingError", "ChunkedEncodingError", "ContentDecodingError"})
_NO_URL = frozenset(
    {"InvalidURL", "UnsupportedProtocol", "LocalProtocolError", "InvalidSchema", "MissingSchema", "LocationParseError"}
)


def is_missing_api(error: Exception, translated: ModelfetchError) -> bool:
    """Return whether an exception of huggingface_hub may mean that a mirror lacks part of the hub's API.

    The Hub itself gives the reason for each refusal in ``X-Error-Code``. A mirror may also answer with something else,
    as a site does that sends its only page for every address that it does not know.
    """
    if isinstance(translated, UnusableAnswerError):
        return True
    response = getattr(error, "response", None)
    return (
        response is not None
        and (400 <= response.status_code < 500 or response.status_code == 501)
        and response.status_code not in (401, 403, 407, 408, 425, 429)
        and not Headers(response.headers).get("x-error-code")
        and "rev" not in response.headers.get("x-error-message", "").lower()
    )


def _is_page(error: Exception) -> bool:
    """Return whether a web page was received in place of JSON."""
    text = getattr(error, "doc", None)  # of json.JSONDecodeError
    return isinstance(text, str) and looks_like_html(text[:HEAD].encode(errors="replace"))


def invalid_response(query: Query, *, is_page: bool = False) -> UnusableAnswerError:
    """Return the error for a response that does not follow the hub's API; ``is_page``: it is a web page."""
    return UnusableAnswerError(
        f"{query.endpoint} sent {'a web page instead of the' if is_page else 'no valid'} metadata of {query}",
        hint="is HF_ENDPOINT a Hugging Face Hub, or is a proxy or login page in front of it?",
    )


def _transport(error: Exception, names: set[str], query: Query) -> UnreachableError:
    where = _peer(query.endpoint, names)
    reason = None
    for link in _chain(error):
        if isinstance(link, ssl.SSLCertVerificationError):
            return certificate_error(where, link)
        if isinstance(link, socket.gaierror):
            return name_proxy(lookup_error(_resolved_host(query.endpoint), link), query.endpoint)
        if isinstance(link, OSError) and link.strerror:
            reason = link.strerror
        names |= {kind.__name__ for kind in type(link).__mro__}
    if names & _TIMEOUTS:
        return UnreachableError(f"{where}: no answer within the time limit", code="timeout")
    if "TooManyRedirects" in names:
        return UnreachableError(f"{where}: too many redirects", code="too-many-redirects", permanent=True)
    if names & _NO_URL:
        return UnreachableError(f"{where}: it redirects to an invalid URL", code="bad-response", permanent=True)
    if names & _BROKEN and not reason:
        return invalid_answer_error(where)
    return UnreachableError(f"{where}: {reason or 'no connection'}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those it wraps: as its cause or context, or as an argument, as requests and urllib3 do."""
    queue: list[BaseException] = [error]
    seen: set[int] = set()
    while queue and len(seen) < 24:
        link = queue.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        wrapped = (link.__cause__, link.__context__, getattr(link, "reason", None), *link.args)
        queue.extend(one for one in wrapped if isinstance(one, BaseException))


def _resolved_host(endpoint: str) -> str:
    """Return the host whose name was looked up: the proxy, if there is one."""
    proxy = proxy_of(endpoint)
    return urlsplit(proxy.url if proxy is not None else endpoint).hostname or endpoint


def _peer(endpoint: str, names: set[str]) -> str:
    """Return the peer of a failed connection: the proxy, if requests to the hub use one."""
    connecting = names & {"ConnectError", "ConnectTimeout", "ProxyError", "ConnectionError"}
    return with_proxy(endpoint, endpoint) if connecting else endpoint


def refusal(status: int, headers: Mapping[str, str], url: str, query: Query) -> ModelfetchError:
    """Return the typed error for an unsuccessful status."""
    fields = Headers(headers)
    code, server_message = fields.get("x-error-code", ""), fields.get("x-error-message", "").lower()
    if code == "GatedRepo":
        return _gated(status, server_message, query)
    if code == "RevisionNotFound" or (status == 400 and "rev" in server_message):
        return NotFoundError(
            f"{query.repo} has no revision {query.revision}",
            code="unknown-revision",
            hint=f"branches and tags are listed at {query.page}/tree/main",
        )
    if "access to this resource is disabled" in server_message:
        return NotFoundError(f"{query.repo} was disabled by the hub", hint="choose another source or a mirror")
    if status == 401:
        return _unauthorized(query)
    if status == 403:
        return _forbidden(server_message, query)
    if code == "RepoNotFound" or status in (404, 410):
        hint = "check the name"
        if query.with_token:
            hint += "; a private repo looks the same to a token that may not read it"
        return NotFoundError(f"{query} does not exist at {query.endpoint}", hint=hint)
    reply = Reply(status=status, headers=fields, body=b"", url=redact(url), authorized=query.with_token)
    error = status_error(reply, what=str(query), uri=None)
    if status == 429:
        error.hint = "requests with a token have higher limits: set HF_TOKEN" if not query.with_token else None
    return error


def _gated(status: int, server_message: str, query: Query) -> CredentialsError:
    if not query.with_token:
        return CredentialsError(
            f"{query.repo} is gated, and no token is set",
            code="gated",
            hint=f"accept its terms at {query.page}, then set HF_TOKEN",
        )
    if "fine-grained" in server_message or "token settings" in server_message:
        return CredentialsError(
            f"{query.repo} is gated, and this fine-grained token may not read gated repos",
            code="gated",
            hint='turn on "Read access to contents of all public gated repos you can access" for the token',
        )
    if status == 401:
        return CredentialsError(
            f"{query.repo} is gated, and the hub rejects this token",
            code="unauthorized",
            hint=f"it may have expired or been revoked: make a new one at {query.endpoint}/settings/tokens",
        )
    if "awaiting" in server_message or "pending" in server_message:
        return CredentialsError(
            f"{query.repo} is gated, and its authors have not answered the request for access yet",
            code="gated",
            hint=f"look at {query.page}",
        )
    return CredentialsError(
        f"{query.repo} is gated, and its terms were not accepted with this account",
        code="gated",
        hint=f"accept them at {query.page}; a fine-grained token also needs the right to read gated repos",
    )


def _unauthorized(query: Query) -> CredentialsError:
    if query.with_token:
        return CredentialsError(
            f"the hub rejects the token that was sent for {query.repo}",
            code="unauthorized",
            hint=f"it may have expired or been revoked: renew it at {query.endpoint}/settings/tokens, or unset it",
        )
    return CredentialsError(
        f"{query.repo} does not exist, or it is private and no token is set",
        code="missing-or-private",
        hint="check the name, or set HF_TOKEN",
    )


def _forbidden(server_message: str, query: Query) -> CredentialsError:
    if "fine-grained" in server_message or "permission" in server_message or "scope" in server_message:
        hint = "give the token read access to this repo, or to the organisation that owns it"
    elif query.with_token:
        hint = "the token may lack the right to read this repo, or the hub blocks this region or address"
    else:
        hint = "no token was sent: set HF_TOKEN; if that does not help, the hub blocks this region or address"
    return CredentialsError(f"the hub forbids reading {query.repo}", code="forbidden", hint=hint)
