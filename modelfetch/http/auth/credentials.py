"""Who may see which credential, and the tokens that registries hand out."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from modelfetch.config.settings import HF_ENDPOINT, Settings
from modelfetch.core.urls import origin
from modelfetch.errors import CredentialsError, UnreachableError
from modelfetch.http.auth.challenge import Challenge, may_ask, may_send_password, parse_challenges, repository_of
from modelfetch.http.auth.stores import DockerConfig, Login, Netrc
from modelfetch.http.status import status_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from modelfetch.http import Http, Reply

_HF_FAMILY = frozenset({("https", "huggingface.co", 443), ("https", "hf.co", 443)})
_PUBLIC = _HF_FAMILY | {("https", "civitai.com", 443)}
"""Hubs whose APIs take tokens only: a login that somebody keeps for their git would make them refuse what is public."""

_LONGEST_LIFE = 3600.0
_SHORTEST_LIFE = 60.0
"""A token without ``expires_in`` lives so many seconds (source: distribution, docs/content/spec/auth/token.md)."""
_FRESH = 2.0
"""A token this young, in seconds, was fetched by a neighbour in answer to the same refusal."""

Origin = tuple[str, str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    header: str = field(repr=False)
    expires: float
    made: float


class Credentials:
    """Implements the HTTP client's Authenticator; asked anew for every hop of every request, from any thread.

    Args:
        settings: Where tokens and files are.
        clock: Seconds that only grow.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._netrc = Netrc(settings.netrc)
        self._docker = DockerConfig(settings.docker_config)
        self._hub = origin(settings.hf_endpoint)
        self._civitai = origin(settings.civitai_endpoint)
        self._same_host_only = frozenset({origin(settings.ollama_registry)})
        self._tokens: dict[tuple[Origin, str], _Token] = {}
        self._locks: defaultdict[tuple[Origin, str], threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()
        self._asking = threading.local()

    def __repr__(self) -> str:
        return "Credentials(…)"

    def headers(self, url: str) -> Mapping[str, str]:
        """The header fields that this URL's scheme, host and port may see; none for anybody else.

        Raises:
            SettingError: A token or a file of logins is there and can't be read.
        """
        try:
            where = origin(url)
        except ValueError:
            return {}
        repository = repository_of(url)
        if repository is not None and (token := self._token(where, repository)) is not None:
            return {"Authorization": token.header}
        if self._is_hub(where) or where == self._civitai:
            secret = self._settings.hf_token if self._is_hub(where) else self._settings.civitai_token
            word = secret.value()
            if word or where in _PUBLIC:
                return _bearer(word)
        if (login := self._netrc_for(where)) is not None:
            return {"Authorization": login.basic}
        return {}

    def knows(self, url: str) -> bool:
        """Whether something is set that was shown to this URL's host, so that its refusal means just that.

        Raises:
            SettingError: As `headers`.
        """
        try:
            return bool(self.headers(url)) or (repository_of(url) is not None and self._login(url) is not None)
        except ValueError:
            return False

    def challenged(self, url: str, status: int, headers: Mapping[str, str], http: Http) -> bool:
        """Answer a registry's challenge: True when there is a new token or password, and asking again makes sense.

        Raises:
            CredentialsError: The token server refuses the password.
            UnreachableError: It can't be reached or answers nonsense.
            SettingError: A file of logins can't be read.
        """
        repository = repository_of(url)
        header = headers.get("www-authenticate", "")
        if status != 401 or repository is None or not header or getattr(self._asking, "busy", False):
            return False
        key = (origin(url), repository)
        with self._guard:
            lock = self._locks[key]
        with lock:
            known = self._tokens.get(key)
            if known is not None and self._clock() - known.made < _FRESH:
                return True
            token = self._answer(url, parse_challenges(header), http)
            if token is None:
                return False
            self._tokens[key] = token
            return True

    # -- who may see what ------------------------------------------------------------------------------------------

    def _is_hub(self, where: Origin) -> bool:
        return where == self._hub or (self._hub == origin(HF_ENDPOINT) and where in _HF_FAMILY)

    def _netrc_for(self, where: Origin) -> Login | None:
        scheme, host, port = where
        if scheme != "https" and not self._settings.allows_http(host, port):
            return None
        return self._netrc.find(host)

    def _login(self, url: str) -> Login | None:
        """The login of a registry."""
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

    def _answer(self, url: str, challenges: tuple[Challenge, ...], http: Http) -> _Token | None:
        for challenge in challenges:
            if challenge.scheme == "bearer" and challenge.realm:
                return self._fetch(url, challenge, http)
        if any(challenge.scheme == "basic" for challenge in challenges):
            login = self._login(url)
            if login is not None and not login.identity:
                now = self._clock()
                return _Token(header=login.basic, expires=now + _LONGEST_LIFE, made=now)
        return None

    def _fetch(self, url: str, challenge: Challenge, http: Http) -> _Token | None:
        registry = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
        if not may_ask(url, challenge.realm, same_host_only=origin(url) in self._same_host_only):
            raise CredentialsError(
                f"{registry} names a token server that may not be asked: {_host_of(challenge.realm)}",
                code="unauthorized",
                hint="a token server must talk TLS, and Ollama's must be the registry's own host",
            )
        login = self._login(url)
        withheld = login is not None and not may_send_password(url, challenge.realm)
        self._asking.busy = True
        try:
            reply = _ask(http, challenge, None if withheld else login)
        finally:
            self._asking.busy = False
        if reply.status in (401, 403) and login is None:
            return None  # the registry's own refusal says it better
        return _read_token(reply, registry, self._clock())


def _host_of(url: str) -> str:
    """As much of a token server's address as is shown."""
    try:
        return origin(url)[1]
    except ValueError:
        return "(no URL)"


def _bearer(token: str | None) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _ask(http: Http, challenge: Challenge, login: Login | None) -> Reply:
    """Ask a token server, as distribution's token and oauth2 documents say."""
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
        return http.get(challenge.realm, method="POST", headers=kind, data=urlencode(form).encode(), limit=2**20)
    scopes = [("scope", one) for one in challenge.scope.split(" ") if one]
    query = [*parse_qsl(parts.query), *(field for field in fields if field[0] == "service"), *scopes]
    address = urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(query), ""))
    return http.get(address, headers={"Authorization": login.basic} if login is not None else {}, limit=2**20)


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
        document = json.loads(reply.body)
        token = document.get("token") or document.get("access_token")
        life = document.get("expires_in", _SHORTEST_LIFE)
    except (ValueError, RecursionError, AttributeError):
        token = life = None
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
        raise UnreachableError(f"the token server of {registry} gave no token", code="bad-response", permanent=True)
    usable = isinstance(life, int | float) and not isinstance(life, bool) and life > 0
    seconds = min(max(float(life), _SHORTEST_LIFE), _LONGEST_LIFE) if usable else _SHORTEST_LIFE
    return _Token(header=f"Bearer {token}", expires=now + seconds * 0.9, made=now)
