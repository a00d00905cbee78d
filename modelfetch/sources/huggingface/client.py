"""Monitor and limit requests that huggingface_hub sends, for every version from 0.34 to 2.x.

huggingface_hub uses requests before 1.0, httpx in 1.x and httpx2 in 2.x. None of them is imported here: its session
is instrumented through their extension points, adapters or event hooks. Other code in the process may share the
session; its requests are not changed.

Source: huggingface_hub 0.34 to 2.4, ``utils/_http.py``.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

from modelfetch.config import hub
from modelfetch.core.urls import origin
from modelfetch.errors import UnreachableError
from modelfetch.http.proxies import proxy_for, proxy_of

_LOCK = threading.Lock()
_LARGEST_ANSWER = 64 * 2**20
"""Largest metadata response in bytes: about 200,000 files."""

_CONNECT, _READ = 10.0, 30.0
"""Timeouts in seconds; some of huggingface_hub's own calls have none."""

Watch = Callable[[str, MutableMapping[str, str]], None]
"""Called with the URL and header fields of each request before it is sent; may change them or raise."""

_watch: ContextVar[Watch | None] = ContextVar("modelfetch_hf_watch", default=None)


@contextmanager
def watched(watch: Watch, endpoint: str) -> Iterator[None]:
    """Within this context, pass each request that huggingface_hub sends from this thread to ``watch`` first.

    Args:
        watch: Called before each request.
        endpoint: The hub's base URL.
    """
    package = hub.load()
    with _LOCK:
        with _exempt_if_direct(endpoint):
            session = package.utils.get_session()
        if hasattr(session, "event_hooks"):
            _add_hooks(session)
        else:
            _wrap_adapters(session)
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


@contextmanager
def _exempt_if_direct(endpoint: str) -> Iterator[None]:
    """Name the hub in NO_PROXY while a session is made, if it is exempt in a form that the session would not read.

    httpx knows no ranges of addresses, no default ports and only commas between entries.
    """
    scheme, _, _ = origin(endpoint)
    if proxy_for(scheme) is None or proxy_of(endpoint) is not None:
        yield
        return
    name = "no_proxy" if os.environ.get("no_proxy") else "NO_PROXY"  # the order of `http.proxies`
    before = os.environ[name]
    os.environ[name] = f"{before},{scheme}://{urlsplit(endpoint).netloc}"
    try:
        yield
    finally:
        os.environ[name] = before


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
        watch(str(request.url), request.headers)


def _on_response(response: Any) -> None:
    if _watch.get() is not None:
        _check_length(response.headers)
        response.stream = _bounded_stream(response)


def _bounded_stream(response: Any) -> Any:
    stream = response.stream
    library: Any = sys.modules[type(response).__module__.partition(".")[0]]

    class Bounded(library.SyncByteStream):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            return _bounded(stream)

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
        watch(str(request.url), request.headers)
        response = self._inner.send(request, **{**options, "timeout": (_CONNECT, _READ)})
        _check_length(response.headers)
        read = response.iter_content
        response.iter_content = lambda *args, **named: _bounded(read(*args, **named))
        return response

    def close(self) -> None:
        self._inner.close()


def _wrap_adapters(session: Any) -> None:
    for prefix, adapter in list(session.adapters.items()):
        if not isinstance(adapter, _Adapter):
            session.mount(prefix, _Adapter(adapter))


# -- bounds ------------------------------------------------------------------------------------------------------------


def _check_length(headers: Any) -> None:
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > _LARGEST_ANSWER:
        raise _too_large()


def _bounded(pieces: Any) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > _LARGEST_ANSWER:
            raise _too_large()
        yield piece


def _too_large() -> UnreachableError:
    return UnreachableError("the hub's answer is too long", code="bad-response", permanent=True)
