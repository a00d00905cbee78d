"""Select the credential for each request, and manage the tokens that registries issue."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from modelfetch.config.secret import CredentialFileError, Secret
from modelfetch.config.settings import CIVITAI_ENDPOINT, HF_ENDPOINT, Settings, clean_token
from modelfetch.core import untrusted_json
from modelfetch.core.urls import below, origin, redact
from modelfetch.errors import CredentialsError, UnreachableError
from modelfetch.http.auth.challenge import (
    Challenge,
    may_request_token,
    may_send_password,
    parse_challenges,
    repository_of,
)
from modelfetch.http.auth.stores import DockerConfig, Login, Netrc
from modelfetch.http.status import status_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from modelfetch.http.types import Fetch, Reply

_HF_SITES = ("https://huggingface.co", "https://hf.co")
_CIVITAI_SITES = ("https://civitai.com", "https://civitai.red", "https://civitai.green")
_PUBLIC = frozenset(origin(site) for site in (*_HF_SITES, *_CIVITAI_SITES))
"""Hubs whose APIs accept only tokens: with a password that a user keeps for git they would refuse public files."""
_CIVITAI_PATHS = ("/api/v1/", "/api/download/")
"""Paths that distinguish CivitAI's API from the Hugging Face Hub's if both use the same endpoint."""

_LONGEST_LIFE = 3600.0
_SHORTEST_LIFE = 60.0
"""Lifetime in seconds of a token without ``expires_in`` (source: distribution, docs/content/spec/auth/token.md)."""
_FRESH = 2.0
"""A token younger than this, in seconds, was fetched by another thread in response to the same refusal."""

Origin = tuple[str, str, int]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    header: str = field(repr=False)
    expires: float
    made: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Service:
    """A service with its own token, and the addresses that may receive it."""

    name: str
    token: Secret
    endpoints: tuple[str, ...]

    def reach(self, url: str) -> int:
        """Return how closely an endpoint covers a URL: the length of the endpoint's path, or -1 if it does not."""
        return max((_reach(endpoint, url) for endpoint in self.endpoints), default=-1)


def _reach(endpoint: str, url: str) -> int:
    return -1 if below(url, endpoint) is None else len(urlsplit(endpoint).path.rstrip("/"))


class Credentials:
    """Implements the HTTP client's `Authenticator`; called for every hop of every request, from any thread.

    An unreadable credentials file counts as empty; `problem` names it once a credential is missing.

    Args:
        settings: Locations of tokens and files.
        clock: Monotonic clock, in seconds.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._netrc = Netrc(settings.netrc)
        self._docker = DockerConfig(settings.docker_config)
        hf, civitai = settings.hf_endpoint, settings.civitai_endpoint
        self._services = (
            _Service(name="hf", token=settings.hf_token, endpoints=_HF_SITES if hf == HF_ENDPOINT else (hf,)),
            _Service(
                name="civitai",
                token=settings.civitai_token,
                endpoints=_CIVITAI_SITES if civitai == CIVITAI_ENDPOINT else (civitai,),
            ),
        )
        self._session_token: Secret | None = None
        self._same_host_only = frozenset({origin(settings.ollama_registry)})
        self._tokens: dict[tuple[Origin, str], _Token] = {}
        self._shown: set[tuple[Origin, str]] = set()
        self._locks: defaultdict[tuple[Origin, str], threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()
        self._asking = threading.local()

    def __repr__(self) -> str:
        return "Credentials(…)"

    def headers(self, url: str) -> Mapping[str, str]:
        """Return the header fields that a request to this URL may carry.

        Raises:
            SettingError: A variable contains an invalid token.
        """
        try:
            where = origin(url)
        except ValueError:
            return {}
        repository = repository_of(url)
        if repository is not None and (token := self._token(where, repository)) is not None:
            return {"Authorization": token.header}
        service = self._service(url)
        if service is not None and (word := self._token_of(service)):
            return {"Authorization": f"Bearer {word}"}
        if where in _PUBLIC:
            return {}
        login = _unless_unreadable(lambda: self._netrc_for(where))
        return {"Authorization": login.basic} if login is not None else {}

    def rejected(self, url: str) -> bool:
        """Return whether a login was used for a registry's repository, in which case a 401 means it was rejected."""
        try:
            where, repository = origin(url), repository_of(url)
            if repository is not None and (where, repository) in self._shown:
                return True
            return (repository is None or self._token(where, repository) is None) and bool(self.headers(url))
        except ValueError:
            return False

    def problem(self, url: str) -> CredentialFileError | None:
        """Return why a credential for this URL can't be read; None if there is no problem."""
        try:
            where, service = origin(url), self._service(url)
            if service is not None:
                service.token.value()
            if repository_of(url) is not None:
                self._login(url)
            elif where not in _PUBLIC:
                self._netrc_for(where)
        except CredentialFileError as error:
            return error
        except ValueError:
            return None
        return None

    def use_civitai_token(self, token: str) -> None:
        """Use the token of a pasted CivitAI link for this session, unless another one is set."""
        self._session_token = self._session_token or Secret(lambda: clean_token(token, "the token in the link"))

    def challenged(self, url: str, status: int, headers: Mapping[str, str], fetch: Fetch) -> bool:
        """Answer a registry's challenge; return whether there is a new token or password to try.

        Raises:
            CredentialsError: The token server rejects the password, or the required credential can't be read.
            UnreachableError: The token server can't be reached or its answer is invalid.
        """
        if getattr(self._asking, "busy", False):
            return False
        if self._renewed(url, status, headers.get("www-authenticate", ""), fetch):
            return True
        if not self.headers(url) and (status == 401 or self._service(url) is not None):
            self._raise_problem(url, status)
        return False

    def _renewed(self, url: str, status: int, header: str, fetch: Fetch) -> bool:
        repository = repository_of(url)
        if status != 401 or repository is None or not header:
            return False
        key = (origin(url), repository)
        with self._guard:
            lock = self._locks[key]
        with lock:
            known = self._tokens.get(key)
            if known is not None and self._clock() - known.made < _FRESH:
                return True
            token = self._answer(url, parse_challenges(header), fetch)
            if token is None:
                return False
            self._tokens[key] = token
            return True

    def _raise_problem(self, url: str, status: int) -> None:
        problem = self.problem(url)
        if problem is not None:
            raise CredentialsError(
                f"{redact(url)} answered {status}, and the credentials for it can't be used: {problem.message}",
                code="unauthorized",
                hint="correct it or make it readable, or set the token in HF_TOKEN, CIVITAI_API_TOKEN or ~/.netrc",
            ) from None

    # -- selecting a credential ------------------------------------------------------------------------------------

    def _service(self, url: str) -> _Service | None:
        """Return the service whose endpoint covers a URL most closely."""
        reach = {service.name: service.reach(url) for service in self._services}
        best = max(reach.values())
        fitting = [service for service in self._services if reach[service.name] == best >= 0]
        if len(fitting) > 1:
            path = urlsplit(url).path[best:]
            name = "civitai" if path.startswith(_CIVITAI_PATHS) else "hf"
            fitting = [service for service in fitting if service.name == name]
        return fitting[0] if fitting else None

    def _token_of(self, service: _Service) -> str | None:
        word = _unless_unreadable(service.token.value)
        if word or self._session_token is None or service.name != "civitai":
            return word
        return self._session_token.value()

    def _netrc_for(self, where: Origin) -> Login | None:
        scheme, host, port = where
        if scheme != "https" and not self._settings.allows_http(host, port):
            return None
        return self._netrc.find(host)

    def _login(self, url: str) -> Login | None:
        """Return the login for a registry."""
        scheme, host, port = origin(url)
        if scheme != "https" and not self._settings.allows_http(host, port):
            return None
        usual = port == (443 if scheme == "https" else 80)
        name = f"[{host}]" if ":" in host else host
        return self._docker.find(name if usual else f"{name}:{port}") or self._netrc.find(host)

    def _token(self, where: Origin, repository: str) -> _Token | None:
        token = self._tokens.get((where, repository))
        return token if token is not None and token.expires > self._clock() else None

    # -- answering a challenge -------------------------------------------------------------------------------------

    def _answer(self, url: str, challenges: tuple[Challenge, ...], fetch: Fetch) -> _Token | None:
        for challenge in challenges:
            if challenge.scheme == "bearer" and challenge.realm:
                return self._fetch(url, challenge, fetch)
        if any(challenge.scheme == "basic" for challenge in challenges):
            login = _unless_unreadable(lambda: self._login(url))
            if login is not None and not login.identity:
                now = self._clock()
                self._note_shown(url)
                return _Token(header=login.basic, expires=now + _LONGEST_LIFE, made=now)
        return None

    def _fetch(self, url: str, challenge: Challenge, fetch: Fetch) -> _Token | None:
        registry = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
        if not may_request_token(url, challenge.realm, same_host_only=origin(url) in self._same_host_only):
            raise CredentialsError(
                f"{registry} names a token server that may not be used: {_host_of(challenge.realm)}",
                code="unauthorized",
                hint="a token server must use TLS, and Ollama's must be the registry's own host",
            )
        if not challenge.scope:  # some registries leave it to the client, as Docker's names it itself
            challenge = replace(challenge, scope=f"repository:{repository_of(url)}:pull")
        login = _unless_unreadable(lambda: self._login(url))
        if login is not None and not may_send_password(url, challenge.realm):
            login = None
        self._asking.busy = True
        try:
            reply = _request_token(fetch, challenge, login)
        finally:
            self._asking.busy = False
        if reply.status in (401, 403) and login is None:
            return None  # the registry's own refusal is more informative
        token = _read_token(reply, registry, self._clock())
        if login is not None:
            self._note_shown(url)
        return token

    def _note_shown(self, url: str) -> None:
        self._shown.add((origin(url), repository_of(url) or ""))


def _host_of(url: str) -> str:
    """Return the part of a token server's address that is safe to show."""
    try:
        return origin(url)[1]
    except ValueError:
        return "(no URL)"


def _unless_unreadable(read: Callable[[], T | None]) -> T | None:
    """Return a value from a credentials file; None if it can't be read, which `Credentials.problem` reports."""
    try:
        return read()
    except CredentialFileError:
        return None


def _request_token(fetch: Fetch, challenge: Challenge, login: Login | None) -> Reply:
    """Request a token (source: distribution, docs/content/spec/auth/token.md and oauth.md)."""
    fields = [(name, value) for name, value in (("service", challenge.service), ("scope", challenge.scope)) if value]
    parts = urlsplit(challenge.realm)
    if login is not None and login.identity:
        form = [
            ("grant_type", "refresh_token"),
            ("client_id", "modelfetch"),
            ("refresh_token", login.password),
            *fields,
        ]
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return fetch(challenge.realm, method="POST", headers=kind, data=urlencode(form).encode(), limit=2**20)
    scopes = [("scope", one) for one in challenge.scope.split(" ") if one]
    query = [*parse_qsl(parts.query), *(field for field in fields if field[0] == "service"), *scopes]
    address = urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(query), ""))
    return fetch(address, headers={"Authorization": login.basic} if login is not None else {}, limit=2**20)


def _read_token(reply: Reply, registry: str, now: float) -> _Token:
    if reply.status in (401, 403):
        raise CredentialsError(
            f"the token server of {registry} refuses the user and password that are set for it",
            code="unauthorized",
            hint="`docker login` again, or correct ~/.netrc",
        )
    if not 200 <= reply.status < 300:
        raise status_error(reply, what="a token", uri=None)
    try:
        document = untrusted_json.parse_object(reply.body)
        token = document.get("token") or document.get("access_token")
        life = document.get("expires_in", _SHORTEST_LIFE)
    except ValueError:
        token = life = None
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
        raise UnreachableError(f"the token server of {registry} gave no token", code="bad-response", permanent=True)
    usable = isinstance(life, int | float) and not isinstance(life, bool) and life > 0
    seconds = min(max(life, _SHORTEST_LIFE), _LONGEST_LIFE) if usable else _SHORTEST_LIFE
    return _Token(header=f"Bearer {token}", expires=now + seconds * 0.9, made=now)
