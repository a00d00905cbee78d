"""User names and passwords in files: netrc, and Docker's config with its credential helpers.

Sources: the standard library's netrc; docker/cli, "Configuration files", and docker/docker-credential-helpers for the
helpers' protocol. Errors name the file and never show its content.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import re
import select
import stat
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, cast

from modelfetch.config.secret import CredentialFileError
from modelfetch.core import untrusted_json
from modelfetch.core.fs import read_head
from modelfetch.core.limits import raise_limit

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_HELPER_TIMEOUT = 30.0
_LARGEST_FILE = 4 * 2**20
_LONGEST_ANSWER = 2**20
_DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A user and password; if ``identity`` is set, the password is a refresh token of the registry's token server."""

    user: str = field(repr=False)
    password: str = field(repr=False)
    identity: bool = False

    @property
    def basic(self) -> str:
        """Return the Authorization header's value (source: RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


class Netrc:
    """``~/.netrc``, or the file in NETRC, read once. Its ``default`` entry is ignored because it names no host."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._logins: dict[str, Login] | None = None

    def find(self, host: str) -> Login | None:
        """Return the login for a host.

        Raises:
            CredentialFileError: The file exists but can't be read.
        """
        with self._lock:
            if self._logins is None:
                self._logins = _read_netrc(self._path)
            return self._logins.get(host.lower())


def _is_file(found: os.stat_result) -> bool:
    """Whether a path is a file; False for a device, as NETRC=/dev/null names one.

    Raises:
        OSError: It is a folder, which Docker makes for a file that it can't mount, or a pipe.
    """
    if stat.S_ISREG(found.st_mode) or stat.S_ISCHR(found.st_mode):
        return stat.S_ISREG(found.st_mode)
    code = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
    raise OSError(code, os.strerror(code) if code == errno.EISDIR else "it is not a regular file")


def _read_netrc(path: Path | None) -> dict[str, Login]:
    from netrc import NetrcParseError, netrc

    try:
        if path is None or not _is_file(found := path.stat()):
            return {}
        if found.st_size > _LARGEST_FILE:
            raise CredentialFileError(f"{path}: expected at most {_LARGEST_FILE} bytes")
        hosts = netrc(str(path)).hosts
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except NetrcParseError as error:
        problem = f"line {error.lineno}" if error.lineno else "its form"
        raise CredentialFileError(f"{path}: {problem} is not what netrc expects") from None
    except UnicodeDecodeError:
        raise CredentialFileError(f"{path}: expected a text file") from None
    except OSError as error:
        raise_limit(error)
        raise CredentialFileError(f"{path} can't be read: {error.strerror}") from None
    return {
        host.lower(): Login(user=user, password=password)
        for host, (user, _account, password) in hosts.items()
        if host != "default" and password
    }


class DockerConfig:
    """``~/.docker/config.json``: registry logins, in the file itself or in credential helpers."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._config: dict[str, Any] | None = None
        self._found: dict[str, Login | CredentialFileError | None] = {}

    def find(self, host: str) -> Login | None:
        """Return the login for a registry, given as HOST or HOST:PORT.

        Raises:
            CredentialFileError: The file exists but can't be read, or its helper fails.
        """
        with self._lock:
            if host not in self._found:
                if self._config is None:
                    self._config = _read_config(self._path)
                try:
                    self._found[host] = self._look_up(self._config, host)
                except CredentialFileError as error:  # a helper that does not answer is not run for each request
                    self._found[host] = error
            found = self._found[host]
        if isinstance(found, CredentialFileError):
            raise found
        return found

    def _look_up(self, config: dict[str, Any], host: str) -> Login | None:
        names = list(_names(host))
        helpers = _section(config, "credHelpers")
        for name in names:
            if isinstance(helper := helpers.get(name), str):
                return self._from_helper(helper, [name])
        if isinstance(store := config.get("credsStore"), str) and store:
            found = self._from_helper(store, names)
            if found is not None:
                return found
        auths = _section(config, "auths")
        for name in names:
            if isinstance(entry := auths.get(name), dict) and (login := _from_entry(entry)) is not None:
                return login
        return None

    def _from_helper(self, helper: str, names: Iterable[str]) -> Login | None:
        if not _HELPER.match(helper):
            raise CredentialFileError(f"{self._path}: the name of a credential helper is invalid")
        for name in names:
            if (login := _run_helper(helper, name)) is not None:
                return login
        return None


def _names(host: str) -> Iterable[str]:
    """Yield the ways in which a config may spell a registry."""
    spelled = _DOCKER_HUB if host in _DOCKER_HUB else (host,)
    for name in spelled:
        yield name
        yield f"https://{name}"
        yield f"https://{name}/"
        yield f"https://{name}/v1/"
        yield f"https://{name}/v2/"
        yield f"http://{name}"


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def _read_config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        if not _is_file(path.stat()):
            return {}
        content = read_head(path, _LARGEST_FILE)
        return untrusted_json.parse_object(content) if content.strip() else {}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise CredentialFileError(f"{path} can't be read: {error.strerror}") from None
    except ValueError:
        raise CredentialFileError(f"{path}: expected a JSON object") from None


def _from_entry(entry: dict[str, Any]) -> Login | None:
    identity = entry.get("identitytoken")
    if isinstance(identity, str) and identity:
        return _login("", identity, identity=True)
    if isinstance(auth := entry.get("auth"), str) and auth:
        try:
            user, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except ValueError:  # not base64, or not UTF-8
            return None
        return _login(user, password.rstrip("\0")) if colon else None
    name, word = entry.get("username"), entry.get("password")
    if isinstance(name, str) and isinstance(word, str) and word:
        return _login(name, word)
    return None


def _login(user: str, password: str, *, identity: bool = False) -> Login | None:
    """Return a login; None if its texts can't be sent, because JSON's escapes made half characters of them."""
    try:
        f"{user}{password}".encode()
    except UnicodeEncodeError:
        return None
    return Login(user=user, password=password, identity=identity)


def _run_helper(helper: str, name: str) -> Login | None:
    """Run ``docker-credential-HELPER get`` for one name; None if it has no entry."""
    program = f"docker-credential-{helper}"
    try:
        code, output = _run([program, "get"], name.encode())
    except FileNotFoundError:
        raise CredentialFileError(
            f"{program}, which Docker's config names, is not installed", hint="install it, or `docker login` without it"
        ) from None
    except TimeoutError:
        raise CredentialFileError(f"{program} did not answer within {_HELPER_TIMEOUT:.0f} s") from None
    except OSError as error:
        raise_limit(error)
        raise CredentialFileError(f"{program} can't be run: {error.strerror}") from None
    if code not in (0, None):
        return None  # "credentials not found"; the exact text differs between helpers
    try:
        answer = untrusted_json.parse_object(output)
        user, secret = answer["Username"], answer["Secret"]
    except (ValueError, KeyError):
        raise CredentialFileError(f"{program} gave an invalid answer") from None
    if not isinstance(user, str) or not isinstance(secret, str) or not secret:
        return None
    return _login("" if user == "<token>" else user, secret, identity=user == "<token>")


def _run(command: list[str], request: bytes) -> tuple[int | None, bytes]:
    """Run a command; returns its status and output, or None and the start of an output that is too long.

    Raises:
        TimeoutError: It took longer than `_HELPER_TIMEOUT`.
        OSError: It can't be run.
    """
    deadline = time.monotonic() + _HELPER_TIMEOUT
    output = bytearray()
    with subprocess.Popen(  # noqa: S603 - the user's own config names the helper, and its name was checked
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        questions, answers = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
        try:
            with contextlib.suppress(BrokenPipeError), questions:
                questions.write(request)
            readable = select.poll()
            readable.register(answers, select.POLLIN)
            while len(output) <= _LONGEST_ANSWER:
                if not readable.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    raise TimeoutError
                if not (piece := os.read(answers.fileno(), 1 << 16)):
                    return process.wait(max(0.0, deadline - time.monotonic())), bytes(output)
                output += piece
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        finally:
            process.kill()
    return None, bytes(output)
