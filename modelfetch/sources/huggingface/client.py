"""huggingface_hub, held at arm's length: its requests are counted and bounded, and only its public API is used.

Source: huggingface_hub 2.4, package reference.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from modelfetch.config import hub
from modelfetch.errors import UnreachableError

_LOCK = threading.Lock()
_LARGEST_ANSWER = 64 * 2**20
"""Bytes of metadata that one answer may have: about 200,000 files."""

_TIMEOUTS = {"connect": 10.0, "read": 30.0, "write": 30.0, "pool": 30.0}
"""Seconds, as httpx2's transport takes them."""

Watch = Callable[[str], None]
"""Called with the URL of each request before it is sent; may raise to stop it."""

_watch: ContextVar[Watch | None] = ContextVar("modelfetch_hf_watch", default=None)


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Within it, each request that huggingface_hub sends from this thread is shown to ``watch`` first."""
    session = hub.load().get_session()
    hooks = session.event_hooks
    with _LOCK:
        if _on_request not in hooks["request"]:
            session.event_hooks = {
                "request": [*hooks["request"], _on_request],
                "response": [*hooks["response"], _on_response],
            }
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def _on_request(request: Any) -> None:
    if (watch := _watch.get()) is not None:
        request.extensions["timeout"] = dict(_TIMEOUTS)  # some of its calls wait for ever
        watch(str(request.url))


def _on_response(response: Any) -> None:
    """Bound the answer's body; a client of somebody else's calls is left alone."""
    if _watch.get() is None:
        return
    length = response.headers.get("content-length", "")
    if length.isdigit() and int(length) > _LARGEST_ANSWER:
        raise _too_large()
    response.stream = _bounded(response.stream)


def _bounded(stream: Any) -> Any:
    import httpx2

    class Bounded(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for piece in stream:
                size += len(piece)
                if size > _LARGEST_ANSWER:
                    raise _too_large()
                yield piece

        def close(self) -> None:
            stream.close()

    return Bounded()


def _too_large() -> UnreachableError:
    return UnreachableError("the hub's answer is too long", code="bad-response", permanent=True)


def matching(paths: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """The paths that some pattern of ``include`` matches, as `snapshot_download`'s ``allow_patterns`` does."""
    return list(hub.load().utils.filter_repo_objects(list(paths), allow_patterns=list(patterns)))
