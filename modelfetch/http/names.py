"""Look up host names within a time limit: an unavailable name server must not delay a command."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

from modelfetch.core.limits import limit_behind
from modelfetch.errors import InterruptedSync, UnreachableError
from modelfetch.http.proxies import parse_address, proxy_of

if TYPE_CHECKING:
    from collections.abc import Callable

LOOKUP_SECONDS = 6.0
"""Time limit of one lookup: the system's resolver waits 5 s by default before it tries a second server."""
_FRESH = 60.0
"""Seconds for which a successful lookup is cached."""

_found: dict[str, float] = {}
_lock = threading.Lock()


class NameLookupError(UnreachableError):
    """A host name can't be resolved; retries are few because other requests would fail too."""

    default_hint = "check the spelling of the host, and the name servers (/etc/resolv.conf; in a container: its `dns:`)"


def check_name(
    host: str,
    *,
    limit: float = LOOKUP_SECONDS,
    stopped: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Check that a host name resolves; an address needs no lookup.

    Args:
        host: The name.
        limit: Time limit in seconds.
        stopped: Returns whether the caller was cancelled.
        clock: Monotonic clock, in seconds.

    Raises:
        NameLookupError: It does not resolve, or not in time (then permanent: the next lookup would take as long).
        InterruptedSync: The caller was cancelled.
    """
    with _lock:
        if parse_address(host) or clock() - _found.get(host, -_FRESH) < _FRESH:
            return
    failure: list[OSError] = []
    done = threading.Event()

    def look_up() -> None:
        try:
            socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except UnicodeError:
            failure.append(socket.gaierror(socket.EAI_NONAME, "not a host name"))
        except OSError as error:
            failure.append(error)
        done.set()

    try:
        threading.Thread(target=look_up, name="modelfetch-lookup", daemon=True).start()
    except RuntimeError:  # the system allows no further thread: the lookup has no time limit then
        look_up()
    deadline = clock() + limit
    while not done.wait(0.05):
        if stopped():
            raise InterruptedSync("ended")
        if clock() >= deadline:
            raise NameLookupError(f"no name server answers for {host}", permanent=True)
    if failure:
        raise limit_behind(failure[0]) or lookup_error(host, failure[0])
    with _lock:
        _found[host] = clock()


def lookup_error(host: str, error: OSError) -> NameLookupError:
    """Return the typed error of a failed lookup."""
    return NameLookupError(f"the name {host} can't be resolved: {error.strerror or 'unknown host'}")


def name_proxy(error: NameLookupError, url: str) -> NameLookupError:
    """Return the error with the proxy's variable, if requests to this URL go through a proxy."""
    proxy = proxy_of(url)
    if proxy is None:
        return error
    message = f"{error.message}; it is the host of the proxy {proxy.shown}"
    return NameLookupError(message, permanent=error.permanent)
