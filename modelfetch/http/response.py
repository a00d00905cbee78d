"""A response whose body has not been read yet."""

from __future__ import annotations

import socket
import ssl
import time
from typing import TYPE_CHECKING, Self

from modelfetch.core.units import MAX_SIZE, parse_decimal
from modelfetch.core.urls import redact
from modelfetch.errors import IntegrityError, UnreachableError
from modelfetch.http.content_coding import NotEncodedError, can_decode, codings, decode
from modelfetch.http.types import FLOOR_RATE, FLOOR_SECONDS, Headers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    import httpx

    from modelfetch.core.cancel import Cancel

_DRAIN = 64 * 1024
_DRAIN_SECONDS = 1.0


class UndecodableError(IntegrityError):
    """A body can't be decoded: its coding is not supported, or it does not have the one that its response declares."""

    default_code = "unsupported-encoding"
    default_hint = "pin its digest if these bytes are the file, or name a mirror that sends it as it is"


class Response:
    """Status, headers and a body to read; close it, or use it as a context manager.

    Args:
        inner: httpx's response, its body unread.
        url: The final URL; it may be signed, so show it with `redact`.
        translate: Converts httpx's errors to typed ones.
        cancel: Cancels the reading.
        release: Called once on close.
        await_payload: Called before each wait for content, so that a body without content does not last forever.
        authorized: Whether the request to ``url`` carried a credential.
        waited: Seconds from the request, including connecting, to the headers.
    """

    def __init__(
        self,
        inner: httpx.Response,
        *,
        url: str,
        translate: Callable[[Exception], Exception],
        cancel: Cancel | None,
        release: Callable[[], None],
        await_payload: Callable[[], None] = lambda: None,
        waited: float = 0.0,
        authorized: bool = False,
    ) -> None:
        self._inner = inner
        self._translate = translate
        self._cancel = cancel
        self._release: Callable[[], None] | None = release
        self._await_payload = await_payload
        self._pieces: Iterator[bytes] | None = None
        self.url = url
        self.redirected = False
        """Whether the request was redirected."""
        self.waited = waited
        self.authorized = authorized
        self.status: int = inner.status_code
        self.headers = Headers(inner.headers.multi_items())
        self._codings = codings(self.headers.get("content-encoding", ""))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Response({self.status}, {redact(self.url)})"

    @property
    def length(self) -> int | None:
        """The Content-Length in bytes, or None if missing or invalid."""
        if "transfer-encoding" in self.headers:
            return None
        size = parse_decimal(self.headers.get("content-length", ""))
        return size if size is None or size <= MAX_SIZE else None

    @property
    def encoding(self) -> str | None:
        """The content coding, such as ``gzip``; None if the body is not encoded, or is taken raw."""
        return ", ".join(self._codings) or None

    @property
    def can_decode(self) -> bool:
        """Whether `iter_decoded` can decode the body."""
        return not self._codings or can_decode(self._codings)

    def take_raw(self) -> None:
        """Read the body unmodified, whatever its declared coding."""
        self._codings = ()

    def iter_raw(self) -> Iterator[bytes]:
        """Yield the raw body in pieces of at most 256 KiB, without decoding.

        Raises:
            UnreachableError: The connection broke or stalled (retryable).
            InterruptedSync: It was cancelled.
        """
        # Keep a reference: httpx closes the connection when its iterator is deleted, but the pump still reads from it.
        self._pieces = self._pieces or self._inner.iter_raw()
        return self._guarded(self._pieces)

    def iter_decoded(self) -> Iterator[bytes]:
        """Yield the decoded body in pieces of at most 256 KiB, some of which may be empty.

        Raises:
            UndecodableError: It does not have a supported coding (``unsupported-encoding``); it is not permanent if the
                beginning could be decoded.
            UnreachableError: It ends too early (``bad-response``); also as `iter_raw` does.
        """
        if not self._codings:
            return self.iter_raw()
        return self._decoded(self.iter_raw())

    def _decoded(self, raw: Iterator[bytes]) -> Iterator[bytes]:
        if not self.can_decode:
            if next(raw, None) is None:
                return  # an empty body needs no decoding
            raise UndecodableError(
                f"{redact(self.url)} sent its body with Content-Encoding {self.encoding}, which was not requested"
            )
        count = 0
        try:
            for piece in decode(raw, self._codings[0]):
                count += len(piece)
                yield piece
        except NotEncodedError as error:
            raise UndecodableError(
                f"{redact(self.url)} declares Content-Encoding {self.encoding}, but its body can't be decoded: {error}",
                permanent=count == 0,
            ) from None
        except ValueError as error:
            raise UnreachableError(f"{redact(self.url)}: {error}", code="bad-response") from None

    def _guarded(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        import httpx

        while True:
            self._await_payload()
            try:
                piece = next(pieces, None)
            except (httpx.HTTPError, httpx.StreamError, OSError, ValueError) as error:
                if self._cancel is not None:
                    self._cancel.check()
                raise self._translate(error) from error
            if self._cancel is not None:
                self._cancel.check()
            if piece is None:
                return
            yield piece

    def socket(self) -> socket.socket | None:
        """Return the socket, if the rest of the body may be read from it after the first piece of `iter_raw`.

        That requires HTTP/1.1 with a Content-Length, no coding, and at most one layer of TLS. Afterwards `close` ends
        the connection, unless `reuse` is called first.
        """
        if self.status not in (200, 206) or self.length is None or self.encoding is not None:
            return None
        if self._inner.http_version != "HTTP/1.1":
            return None
        stream = self._inner.extensions.get("network_stream")
        if stream is None:
            return None
        sock = stream.get_extra_info("socket")
        if not isinstance(sock, socket.socket) or (
            self.url.startswith("https:") and not isinstance(sock, ssl.SSLSocket)
        ):
            return None
        # TLS inside an https proxy's TLS is an SSLObject: then the socket is the outer layer's.
        return None if isinstance(stream.get_extra_info("ssl_object"), ssl.SSLObject) else sock

    def reuse(self) -> None:
        """Keep the connection for the next request to the same host: the whole body was read from `socket`."""
        park = getattr(self._inner.extensions.get("network_stream"), "park", None)
        if park is not None and "close" not in self.headers.get("connection", "").lower():
            park()

    def read(self, limit: int) -> bytes:
        """Return the whole body, decoded.

        Raises:
            UnreachableError: It is longer than `limit` bytes (``bad-response``), broke off, or was too slow.
        """
        body = self.read_start(limit + 1)
        if len(body) > limit:
            raise UnreachableError(
                f"{redact(self.url)} answered with more than {limit} bytes", code="bad-response", permanent=True
            )
        return body

    def read_start(self, count: int) -> bytes:
        """Return at least the first `count` bytes of the body, decoded, or all of it: a piece may be one byte.

        Raises:
            UnreachableError: It broke off, or was too slow.
        """
        parts: list[bytes] = []
        size, since = 0, time.monotonic()
        for piece in self.iter_decoded():
            size += len(piece)
            spent = time.monotonic() - since
            if spent > FLOOR_SECONDS and size < FLOOR_RATE * spent:
                raise UnreachableError(f"{redact(self.url)} answers too slowly", code="timeout")
            parts.append(piece)
            if size >= count:
                break
        return b"".join(parts)

    def drain(self) -> None:
        """Read a short body to its end, so that the connection can be reused; then close."""
        try:
            length, until = self.length, time.monotonic() + _DRAIN_SECONDS
            if length is not None and length <= _DRAIN:
                for _ in self.iter_raw():
                    if time.monotonic() > until:
                        break
        except UnreachableError:
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Close the response; the connection is kept only if the body was read to its end. May be called repeatedly."""
        release, self._release = self._release, None
        if release is not None:
            try:
                self._inner.close()
            finally:
                release()
