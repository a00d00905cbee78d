"""Settings from environment variables: endpoints, tokens, hosts that allow plain HTTP, and paths.

Names follow the ecosystem's conventions (source: huggingface_hub, "Environment variables"); docs/guides/
credentials.md lists all that concern credentials. An empty variable counts as unset.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote_to_bytes, urlsplit

from modelfetch.config.secret import CredentialFileError, Secret
from modelfetch.core.fs import read_head
from modelfetch.core.urls import hide_secrets, is_loopback, origin
from modelfetch.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

HF_ENDPOINT = "https://huggingface.co"
OLLAMA_REGISTRY = "https://registry.ollama.ai"
CIVITAI_ENDPOINT = "https://civitai.com"

_PROXIES = ("http", "https", "socks5", "socks5h")
_TRUE = frozenset({"1", "on", "yes", "true"})
_FALSE = frozenset({"0", "off", "no", "false"})
_HOST = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?\Z")
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The environment's settings. ``offline`` is HF_HUB_OFFLINE unless `--offline` overrides it.

    ``plain_http_hosts`` are the HOST and HOST:PORT entries of MODELFETCH_ALLOW_HTTP, ``mirrors`` the URL prefixes of
    MODELFETCH_MIRRORS, old and new, ``hf_cache`` is huggingface_hub's own cache, ``require_marker`` is
    MODELFETCH_REQUIRE_MARKER: refuse a root that modelfetch has not filled before. Paths are None
    if they are not set and have no default.
    """

    hf_endpoint: str = HF_ENDPOINT
    hf_token: Secret = field(default_factory=lambda: Secret.of(None))
    offline: bool = False
    ollama_registry: str = OLLAMA_REGISTRY
    civitai_endpoint: str = CIVITAI_ENDPOINT
    civitai_token: Secret = field(default_factory=lambda: Secret.of(None))
    plain_http_hosts: frozenset[str] = frozenset()
    mirrors: tuple[tuple[str, str], ...] = ()
    tiers_dir: Path | None = None
    cache: Path | None = None
    hf_cache: Path | None = None
    netrc: Path | None = None
    docker_config: Path | None = None
    require_marker: bool = False

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the environment (``os.environ`` unless given).

        Raises:
            SettingError: A variable has an invalid value; the message names it. Tokens stored in files are read
                later, on first use, and raise this error then.
        """
        env = {name: value for name, value in (os.environ if environ is None else environ).items() if value.strip()}
        plain = _plain_http_hosts(env)
        _check_proxies(env)
        return cls(
            hf_endpoint=_endpoint(env, "HF_ENDPOINT", HF_ENDPOINT, plain),
            hf_token=Secret(lambda: _hf_token(env)),
            offline=any(
                env.get(name, "").strip().lower() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
            ),
            ollama_registry=_endpoint(env, "MODELFETCH_OLLAMA_REGISTRY", OLLAMA_REGISTRY, plain),
            civitai_endpoint=_endpoint(env, "MODELFETCH_CIVITAI_ENDPOINT", CIVITAI_ENDPOINT, plain),
            civitai_token=Secret(lambda: _token_from(env, "CIVITAI_API_TOKEN", "CIVITAI_API_TOKEN_FILE")),
            plain_http_hosts=plain,
            mirrors=_mirrors(env, plain),
            tiers_dir=_path(env, "MODELFETCH_TIERS_DIR"),
            cache=_path(env, "MODELFETCH_CACHE"),
            hf_cache=_hf_cache(env),
            netrc=_path(env, "NETRC") or _home(env, ".netrc"),
            docker_config=_docker_config(env),
            require_marker=_flag(env, "MODELFETCH_REQUIRE_MARKER"),
        )

    def allows_http(self, host: str, port: int) -> bool:
        """Return whether plain HTTP to a host is allowed; for loopback it always is."""
        return _allows_plain_http(host, port, self.plain_http_hosts)

    def cache_path(self) -> Path:
        """Return the user's cache of single files: MODELFETCH_CACHE, else the folder that platformdirs returns."""
        if self.cache is not None:
            return self.cache
        from platformdirs import user_cache_path

        try:
            return user_cache_path("modelfetch", appauthor=False)
        except RuntimeError:  # no HOME, and no entry of this user in passwd: in a container, HOME would be /
            return Path("/.cache/modelfetch")


def _flag(env: Mapping[str, str], name: str) -> bool:
    value = env.get(name, "0").strip().lower()
    if value not in _TRUE | _FALSE:
        raise SettingError(f"{name}={hide_secrets(value):.40}: expected 1 or 0")
    return value in _TRUE


def _allows_plain_http(host: str, port: int, allowed: frozenset[str]) -> bool:
    host = host.lower().strip("[]")
    return host in allowed or f"{host}:{port}" in allowed or is_loopback(host)


def _plain_http_hosts(env: Mapping[str, str]) -> frozenset[str]:
    hosts = [part.strip().lower() for part in env.get("MODELFETCH_ALLOW_HTTP", "").split(",") if part.strip()]
    for host in hosts:
        if not _HOST.match(host):
            raise SettingError(
                f"MODELFETCH_ALLOW_HTTP: expected a list of HOST or HOST:PORT, found {host[:80]!r}",
                hint="write the host alone, without http:// and without a path",
            )
    return frozenset(host.replace("[", "").replace("]", "") for host in hosts)


def _endpoint(env: Mapping[str, str], name: str, default: str, plain: frozenset[str]) -> str:
    text = env.get(name, default).strip().rstrip("/")
    scheme, host, port = _parse_url(text, name)
    if scheme == "http":
        _require_encryption(host, port, name, plain)
    return text


def _parse_url(text: str, name: str) -> tuple[str, str, int]:
    """Return scheme, host and port; errors do not show the value, which may contain a password."""
    wrong = f"{name}: expected a URL as https://HOST[:PORT][/PATH], without user, query and fragment"
    try:
        parts = urlsplit(text)
        found = origin(text)
    except ValueError:
        raise SettingError(wrong) from None
    if parts.query or parts.fragment or not _HOST.match(parts.netloc) or not text.isprintable() or " " in text:
        raise SettingError(wrong)
    return found


def _require_encryption(host: str, port: int, name: str, plain: frozenset[str]) -> None:
    if not _allows_plain_http(host, port, plain):
        raise plain_http_error(f"{name}: {host}", host)


def plain_http_error(what: str, host: str) -> SettingError:
    """Return the error for something at a host for which plain HTTP is not allowed."""
    return SettingError(
        f"{what} would be accessed without encryption",
        code="insecure-http",
        hint=f"use https, or name the host in MODELFETCH_ALLOW_HTTP={host}",
    )


def _mirrors(env: Mapping[str, str], plain: frozenset[str]) -> tuple[tuple[str, str], ...]:
    name = "MODELFETCH_MIRRORS"
    pairs = []
    for part in env.get(name, "").split(","):
        if not part.strip():
            continue
        old, equals, new = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise SettingError(f"{name}: expected a list of PREFIX=PREFIX, found an entry without =")
        _parse_url(old, name)
        scheme, host, port = _parse_url(new, name)
        if scheme == "http":
            _require_encryption(host, port, name, plain)
        pairs.append((old.rstrip("/"), new.rstrip("/")))
    return tuple(pairs)


_LONGEST_SOCKS = 255
"""Bytes of the longest user name and password for a SOCKS proxy (source: RFC 1929)."""


def _check_proxies(env: Mapping[str, str]) -> None:
    """Reject a proxy setting that no client can use; the value is not shown because it may contain a password."""
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        for spelled in (name, name.lower()):
            text = env.get(spelled, "").strip()
            try:
                parts = urlsplit(text if "://" in text else f"http://{text}")
                good = parts.scheme in _PROXIES and bool(parts.hostname) and parts.port != 0
            except ValueError:
                good = False
            if text and not good:
                raise SettingError(
                    f"{spelled}: expected a proxy as http://[USER:PASSWORD@]HOST[:PORT]",
                    hint="in user and password write / : @ # ? as %2F %3A %40 %23 %3F",
                )
            if not text or not parts.scheme.startswith("socks"):
                continue
            if find_spec("socksio") is None:
                raise SettingError(
                    f"{spelled}: a SOCKS proxy needs the package socksio",
                    hint="pip install socksio, or use an http proxy",
                )
            if any(len(unquote_to_bytes(word or "")) > _LONGEST_SOCKS for word in (parts.username, parts.password)):
                raise SettingError(
                    f"{spelled}: a SOCKS proxy takes a user and a password of at most {_LONGEST_SOCKS} bytes each",
                    hint="use an http proxy for longer ones",
                )


def _path(env: Mapping[str, str], name: str) -> Path | None:
    text = env.get(name)
    if text is None:
        return None
    if "\0" in text:
        raise SettingError(f"{name}: expected a path, found a NUL byte")
    return _expand(text, env)


def _home(env: Mapping[str, str], name: str) -> Path | None:
    home = env.get("HOME")
    return Path(home, name) if home else None


def _expand(text: str, env: Mapping[str, str]) -> Path:
    if text == "~" or text.startswith("~/"):
        home = env.get("HOME")
        return Path(home, text[2:]) if home else Path(os.path.expanduser(text))  # noqa: PTH111 - never raises
    return Path(text)


def _hf_cache(env: Mapping[str, str]) -> Path | None:
    """Return the folder of huggingface_hub's cache (source: huggingface_hub, constants.py)."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if (path := _path(env, name)) is not None:
            return path
    if (home := _path(env, "HF_HOME")) is not None:
        return home / "hub"
    cache = _path(env, "XDG_CACHE_HOME") or _home(env, ".cache")
    return cache / "huggingface" / "hub" if cache else None


def _docker_config(env: Mapping[str, str]) -> Path | None:
    folder = _path(env, "DOCKER_CONFIG") or _home(env, ".docker")
    return folder / "config.json" if folder else None


def _hf_token(env: Mapping[str, str]) -> str | None:
    """Find the token as huggingface_hub does; import that slow package only if no variable sets it."""
    if "HF_OIDC_RESOURCE" not in env:
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            if name in env:
                return clean_token(env[name], name)
        if (path := _path(env, "HF_TOKEN_PATH")) is not None:
            return _read_token(path, "HF_TOKEN_PATH", missing_ok=True)
    from modelfetch.config.hub import stored_token

    token = stored_token()
    return None if token is None else _clean_file(token, "the stored Hugging Face token")


def _token_from(env: Mapping[str, str], name: str, file_name: str) -> str | None:
    if name in env:
        return clean_token(env[name], name)
    path = _path(env, file_name)
    return None if path is None else _read_token(path, file_name, missing_ok=False)


def _read_token(path: Path, name: str, *, missing_ok: bool) -> str | None:
    try:
        data = read_head(path, 8192)
    except FileNotFoundError:
        if missing_ok:
            return None
        raise CredentialFileError(f"{name}: {path} does not exist") from None
    except OSError as error:
        raise CredentialFileError(f"{name}: {path} can't be read: {error.strerror}") from None
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise CredentialFileError(f"{name}: expected a token in {path}, found binary data") from None
    return _clean_file(text, name) if text else None


def _clean_file(token: str, name: str) -> str:
    try:
        return clean_token(token, name)
    except SettingError as error:
        raise CredentialFileError(error.message, hint=error.hint) from None


def clean_token(token: str, name: str) -> str:
    """Return a token without the white space around it; ``name`` is that of its place.

    Raises:
        SettingError: It is not one that a header field can carry.
    """
    token = token.strip()
    if not _TOKEN.match(token):
        raise SettingError(
            f"{name}: expected a token (printable ASCII without spaces), found something else",
            hint="copy the token again; it is one word",
        )
    return token
