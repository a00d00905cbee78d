"""Readers of byte ranges: over HTTP, continuing a partial file, and for unreadable files."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from modelfetch.core.urls import redact
from modelfetch.errors import IntegrityError, InterruptedSync, ModelfetchError, UnreachableError
from modelfetch.http.retry import Attempts, RetryTiming
from modelfetch.http.status import check_status
from modelfetch.http.types import ContentRange
from modelfetch.sources.pages import refuse_page
from modelfetch.transfer.journal import Identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from modelfetch.core.artifact import Location
    from modelfetch.core.cancel import Cancel
    from modelfetch.formats.range_reader import RangeReader
    from modelfetch.http import Http, Response
    from modelfetch.transfer.prefill import PartialPrefix


class BrokenReader:
    """A `RangeReader` of an unreadable file: reading it raises the reason."""

    def __init__(self, error: ModelfetchError, size: int | None = None) -> None:
        self._error = error
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        """Raises the reason."""
        raise self._error


class ContinuedReader:
    """A file whose beginning was saved locally by a transfer or an earlier `fit`; the rest is read elsewhere."""

    def __init__(self, beginning: PartialPrefix, rest: RangeReader) -> None:
        self._beginning = beginning
        self._rest = rest

    @property
    def size(self) -> int | None:
        """The file's length in bytes; None if unknown."""
        return self._rest.size

    def read(self, offset: int, length: int) -> bytes:
        """The bytes at ``offset``, fewer than ``length`` only where the file ends; raises as the rest's reader does."""
        known = self._beginning.read(offset, length)
        missing = length - len(known)
        return known + self._rest.read(offset + len(known), missing) if missing else known


class HttpReader:
    """A `RangeReader` of a file on a server; blocks, so use it in a thread.

    A server without range support sends the whole file: it is then read as one stream as far as needed, and never
    restarted from the beginning.

    Args:
        http: The client.
        places: The locations of the file; after a permanent failure the next one is used.
        more: Finds further locations when all of these have failed.
        size: The file's length in bytes, if known; a different length upstream is refused.
        attempts: Maximum attempts per location for temporary failures.
        cancel: Cancels reading.
    """

    def __init__(
        self,
        http: Http,
        places: Sequence[Location],
        *,
        more: Callable[[], Sequence[Location]] = lambda: (),
        size: int | None,
        attempts: int,
        cancel: Cancel,
    ) -> None:
        self._http = http
        self._places = list(places)
        self._more: Callable[[], Sequence[Location]] | None = more
        self._attempts = attempts
        self._cancel = cancel
        self._stream: _Stream | None = None
        self._failure: ModelfetchError | None = None
        self._etag: str | None = None
        self.size = size
        self.fetched = 0
        """Bytes received over the network so far."""
        self.identity: Identity | None = None
        """The location and version of the bytes; None before there are any, and if they come from several locations."""

    def read(self, offset: int, length: int) -> bytes:
        """The bytes at ``offset``, fewer than ``length`` only where the file ends.

        Raises:
            ModelfetchError: All locations failed; the first one's error.
        """
        if length <= 0:
            return b""
        while self._places:
            try:
                return self._read_from(self._places[0], offset, length)
            except InterruptedSync:
                raise
            except ModelfetchError as error:
                self._failure = self._failure or error
                self._next_place(self._failure)
        raise self._failure or UnreachableError("no location of the file is known", permanent=True)

    def close(self) -> None:
        """Close what is still open."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _next_place(self, error: ModelfetchError) -> None:
        """Drop the location that failed."""
        self.close()
        self._places.pop(0)
        self._etag = self.identity = None
        if not self._places and self._more is not None:
            find, self._more = self._more, None
            try:
                self._places.extend(find())
            except ModelfetchError:
                raise error from None

    def _read_from(self, place: Location, offset: int, length: int) -> bytes:
        attempts = Attempts(self._attempts, RetryTiming(), time.monotonic())
        while True:
            self._cancel.check()
            try:
                return self._request(place, offset, length)
            except ModelfetchError as error:
                self.close()
                delay = attempts.after(error.about(uri=place.uri), now=time.monotonic())
            self._cancel.wait(delay)

    def _request(self, place: Location, offset: int, length: int) -> bytes:
        if self._stream is not None and self._stream.position == offset:
            return self._count(self._stream.take(length))
        self.close()
        headers = {"Range": f"bytes={offset}-{offset + length - 1}", "Accept-Encoding": "identity"}
        response = self._http.open("GET", place.url, headers=headers, cancel=self._cancel)
        try:
            return self._answer(response, place, offset, length)
        finally:
            if self._stream is None:
                response.close()

    def _answer(self, response: Response, place: Location, offset: int, length: int) -> bytes:
        refuse_page(response, place.uri)
        if response.status == 416:
            return b""
        check_status(response, what=place.uri, uri=place.uri)
        if response.encoding is not None:
            raise _invalid_response(response, "sends the file in another coding than the requested one")
        self._same_version(response, place)
        if response.status == 206:
            return self._part(response, place, offset, length)
        self._agree(response.length, place)
        self._note(response, place)
        self._stream = _Stream(response)
        self._count(self._stream.take(offset))
        return self._count(self._stream.take(length))

    def _part(self, response: Response, place: Location, offset: int, length: int) -> bytes:
        part = ContentRange.of(response.headers)
        if part is None or part.start != offset or not offset < part.end <= offset + length:
            raise _invalid_response(response, f"sent other bytes than the requested {length} from {offset}")
        self._agree(part.size, None)
        self._note(response, place)
        want = part.end - offset
        stream = _Stream(response)
        got = self._count(stream.take(want))
        if len(got) < want:
            raise UnreachableError(f"{redact(response.url)} broke off after {len(got)} bytes")
        stream.take(1)  # the end of the body, after which the connection is used again
        return got

    def _same_version(self, response: Response, place: Location) -> None:
        """Refuse a file that was replaced between two ranges."""
        etag = response.headers.get("etag", "").removeprefix("W/") or None
        if self._etag is not None and etag is not None and etag != self._etag:
            raise IntegrityError(f"{place.uri} was changed upstream while it was read", hint="run it again")
        self._etag = etag or self._etag

    def _note(self, response: Response, place: Location) -> None:
        """Remember the origin of these bytes, as a transfer does."""
        if self.fetched and self.identity is None:
            return  # earlier ones came from a place that failed
        fields = response.headers
        self.identity = Identity(
            uri=place.uri,
            url=place.url,
            etag=fields.get("etag") or None,
            modified=fields.get("last-modified") or None,
            size=self.size,
        )

    def _agree(self, size: int | None, place: Location | None) -> None:
        """Compare the file's length with the known one, or remember it if none was known."""
        if size is None:
            return
        if self.size is not None and size != self.size:
            where = place.uri if place else "the file"
            raise IntegrityError(f"{where} has {size} bytes upstream, expected {self.size}", code="size-mismatch")
        self.size = size

    def _count(self, data: bytes) -> bytes:
        self.fetched += len(data)
        return data


class _Stream:
    """A response body that is read in pieces, only as far as requested."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self._pieces: Iterator[bytes] = response.iter_raw()
        self._rest = b""
        self.position = 0

    def take(self, length: int) -> bytes:
        """The next bytes, fewer than ``length`` only at the end."""
        parts = [self._rest[:length]]
        have = len(parts[0])
        self._rest = self._rest[length:]
        while have < length:
            piece = next(self._pieces, None)
            if piece is None:
                break
            parts.append(piece[: length - have])
            self._rest = piece[length - have :]
            have += len(parts[-1])
        self.position += have
        return b"".join(parts)

    def close(self) -> None:
        self._response.close()


def _invalid_response(response: Response, what: str) -> UnreachableError:
    return UnreachableError(f"{redact(response.url)} {what}", code="bad-response", permanent=True)
