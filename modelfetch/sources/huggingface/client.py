"""Monitor and limit requests that huggingface_hub sends, for every version from 0.34 to 2.x.

huggingface_hub uses requests before 1.0, httpx in 1.x and httpx2 in 2.x. None of them is imported here: its session
is instrumented through their extension points, adapters or event hooks. Other code in the process may share the
session; its requests are not changed.

Source: huggingface_hub 0.34 to 2.4, ``utils/_http.py``.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

from modelfetch.config import hub
from modelfetch.core.untrusted_json import count_values
from modelfetch.core.urls import origin
from modelfetch.errors import UnreachableError
from modelfetch.http.content_coding import can_decode, codings, decode
from modelfetch.http.proxies import Exempt, environment_lock, exemptions, proxy_for, proxy_of
from modelfetch.http.types import FLOOR_RATE, FLOOR_SECONDS
from modelfetch.sources.huggingface.errors import UnusableAnswerError

_LOCK = threading.Lock()
_LARGEST_ANSWER = 24 * 2**20
_MAX_VALUES = 1_000_000
"""Bytes and JSON values of the largest metadata response: about 100,000 files, the most that the hub advises."""

_MAX_REQUESTS = 1000
"""Requests of one call: a hub links each page of a list to the next one, perhaps without end."""

_LARGE_ANSWER = 2 * 2**20
"""Bytes beyond which an answer waits for those of other calls: as values, they take ten times as much memory."""

_ACCEPTED = "gzip, deflate"
_PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy"})
_CONNECT, _READ = 10.0, 30.0
"""Timeouts in seconds; some of huggingface_hub's own calls have none."""

Watch = Callable[[str, MutableMapping[str, str]], None]
"""Called with the URL and header fields of each request before it is sent; may change them or raise."""

_watch: ContextVar[Watch | None] = ContextVar("modelfetch_hf_watch", default=None)
_turn: ContextVar[Callable[[], object]] = ContextVar("modelfetch_hf_turn", default=lambda: None)
"""Waits until no other call has a long answer."""
_one_at_a_time = threading.Lock()


@contextmanager
def watched(watch: Watch, endpoint: str) -> Iterator[None]:
    """Within this context, pass each request that huggingface_hub sends from this thread to ``watch`` first.

    Of several contexts, one at a time receives and uses a long answer.

    Args:
        watch: Called before each request.
        endpoint: The hub's base URL.
    """
    package = hub.load()
    with _LOCK:
        with environment_lock, _readable_proxies(endpoint):
            session = package.utils.get_session()
        if hasattr(session, "event_hooks"):
            _add_hooks(session)
        else:
            _wrap_adapters(session)
    with ExitStack() as stack:
        watching = _watch.set(_limited(watch))
        waiting = _turn.set(functools.cache(lambda: stack.enter_context(_one_at_a_time)))
        try:
            yield
        finally:
            _turn.reset(waiting)
            _watch.reset(watching)


def take_turn() -> None:
    """Wait until no other call has a long answer; until the end of its context, none begins one."""
    _turn.get()()


def _limited(watch: Watch) -> Watch:
    allowed = iter(range(_MAX_REQUESTS))

    def limited(url: str, headers: MutableMapping[str, str]) -> None:
        if next(allowed, None) is None:
            raise _too_large()
        watch(url, headers)

    return limited


@contextmanager
def _readable_proxies(endpoint: str) -> Iterator[None]:
    """While a session is made, write the proxies and NO_PROXY as httpx reads them, and name the hub in it if exempt.

    httpx raises an error for spaces around a proxy. Between the entries of NO_PROXY it reads only commas, raises
    InvalidURL for others, and knows neither ranges of addresses nor default ports.
    """
    changed = {
        name: value.strip() for name, value in os.environ.items() if name.lower() in _PROXIES and value != value.strip()
    }
    if exempt := exemptions():
        patterns = [pattern for entry in exempt if (pattern := _pattern(entry)) is not None]
        if _is_exempt(endpoint):
            parts = urlsplit(endpoint)
            patterns.append(f"{parts.scheme}://{parts.netloc}")
        changed |= {name: ",".join(patterns) for name in ("no_proxy", "NO_PROXY") if name in os.environ}
    before = {name: os.environ[name] for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        os.environ.update(before)


def _pattern(entry: Exempt) -> str | None:
    """Return an entry of NO_PROXY as one of httpx's patterns for URLs; None for a range of addresses.

    Source: httpx 0.28, ``_utils.py``: ``get_environment_proxies`` takes what contains ``://`` as it is.
    """
    if entry.network is None:
        host = f"*.{entry.name}" if entry.below else f"*{entry.name}"
    elif entry.network.num_addresses > 1:
        return None
    else:
        address = entry.network.network_address
        host = f"[{address}]" if address.version == 6 else str(address)
    port = "" if entry.port is None else f":{entry.port}"
    return f"{entry.scheme or 'all'}://{host}{port}"


def _is_exempt(url: str) -> bool:
    """Return whether NO_PROXY alone keeps a request away from the proxy."""
    return proxy_for(origin(url)[0]) is not None and proxy_of(url) is None


# -- httpx and httpx2 --------------------------------------------------------------------------------------------------


def _add_hooks(session: Any) -> None:
    hooks = session.event_hooks
    if _on_request not in hooks["request"]:
        session.event_hooks = {
            "request": [*hooks["request"], _on_request],
            "response": [*hooks["response"], _on_response],
        }


def _on_request(request: Any) -> None:
    if (watch := _watch.get()) is not None:
        request.extensions["timeout"] = {"connect": _CONNECT, "read": _READ, "write": _READ, "pool": _READ}
        request.headers["Accept-Encoding"] = _ACCEPTED
        watch(str(request.url), request.headers)


def _on_response(response: Any) -> None:
    if _watch.get() is not None:
        response.stream = _bounded_stream(response)


def _bounded_stream(response: Any) -> Any:
    stream, coding = response.stream, _take_coding(response.headers)
    library: Any = sys.modules[type(response).__module__.partition(".")[0]]

    class Bounded(library.SyncByteStream):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            return _bounded(stream, coding)

        def close(self) -> None:
            stream.close()

    return Bounded()


# -- requests ----------------------------------------------------------------------------------------------------------


class _Adapter:
    """Sends through another adapter of a requests session."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def send(self, request: Any, **options: Any) -> Any:
        watch = _watch.get()
        if watch is None:
            return self._inner.send(request, **options)
        request.headers["Accept-Encoding"] = _ACCEPTED
        watch(str(request.url), request.headers)
        options["timeout"] = (_CONNECT, _READ)
        options["proxies"] = {name: value and value.strip() for name, value in (options.get("proxies") or {}).items()}
        if _is_exempt(str(request.url)):  # requests has looked NO_PROXY up itself, and reads fewer forms
            options["proxies"] = {}
        response = self._inner.send(request, **options)
        read, coding = response.iter_content, _take_coding(response.headers)
        response.raw.headers.pop("content-encoding", None)
        response.iter_content = lambda *args, **named: _bounded(read(*args, **named), coding)
        return response

    def close(self) -> None:
        self._inner.close()


def _wrap_adapters(session: Any) -> None:
    for prefix, adapter in list(session.adapters.items()):
        if not isinstance(adapter, _Adapter):
            session.mount(prefix, _Adapter(adapter))


# -- bounds ------------------------------------------------------------------------------------------------------------


def _take_coding(headers: Any) -> str | None:
    """Remove the coding from a response's header: the libraries decode 1 MB to 1 GB at once.

    Raises:
        UnreachableError: The response is too long, or has a coding that was not asked for.
    """
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > _LARGEST_ANSWER:
        raise _too_large()
    names = codings(headers.pop("content-encoding", ""))
    if names and not can_decode(names):
        what = f"the hub's answer has Content-Encoding {', '.join(names)[:100]}, which was not requested"
        raise UnusableAnswerError(what)
    return names[0] if names else None


def _bounded(pieces: Any, coding: str | None) -> Iterator[bytes]:
    try:
        yield from _counted(decode(iter(pieces), coding) if coding else pieces)
    except ValueError as error:
        raise UnreachableError(f"the hub's answer can't be decoded: {error}", code="bad-response") from None


def _counted(pieces: Any) -> Iterator[bytes]:
    size, values, since = 0, 0, time.monotonic()
    for piece in pieces:
        size += len(piece)
        spent = time.monotonic() - since
        if spent > FLOOR_SECONDS and size < FLOOR_RATE * spent:
            raise UnreachableError("the hub answers too slowly", code="timeout")
        values += count_values(piece)
        if size > _LARGEST_ANSWER or values > _MAX_VALUES:
            raise _too_large()
        if size > _LARGE_ANSWER:
            before = time.monotonic()
            take_turn()
            since += time.monotonic() - before
        yield piece


def _too_large() -> UnusableAnswerError:
    return UnusableAnswerError("the hub's answer is too long")
