"""One attempt to download what is missing of a file from one HTTP location; the caller handles failures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelfetch.core.urls import redact
from modelfetch.errors import NotAModelError, UnreachableError
from modelfetch.transfer.body import Body, CheckHead, SurplusError
from modelfetch.transfer.journal import Identity
from modelfetch.transfer.parallel import ConnectionPool
from modelfetch.transfer.pump import Flow
from modelfetch.transfer.range_request import (
    Answer,
    NothingMore,
    PageInsteadError,
    Restart,
    WantedRange,
    WrongRangeError,
    check_response,
)
from modelfetch.transfer.scheduler import Segment, SegmentQueue
from modelfetch.transfer.writer import SegmentWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelfetch.core.artifact import Artifact, Location
    from modelfetch.core.cancel import Cancel
    from modelfetch.errors import ModelfetchError
    from modelfetch.http import Response
    from modelfetch.transfer.coding import CodingChoice
    from modelfetch.transfer.partial import Partial
    from modelfetch.transfer.types import Context

_MAX_RESTARTS = 2


class RestartDownload(Exception):  # noqa: N818 - control flow, not an error
    """The partial file is of no use: the source has another version, or sends only whole files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadSpec:
    """The parameters of one download.

    Attributes:
        context: The state that all transfers share.
        partial: The partial file to complete.
        artifact: The artifact; with a digest, the file is verified against that in the end.
        location: The location to download from.
        coding: Whether bodies with a content coding are decoded.
        check_head: Checks the file's first bytes where no digest decides.
        progress: Called with the number of bytes received.
        on_connection_lost: Called with the error of a connection that broke while others continue.
    """

    context: Context
    partial: Partial
    artifact: Artifact
    location: Location
    coding: CodingChoice
    check_head: CheckHead | None
    progress: Callable[[int], None]
    on_connection_lost: Callable[[ModelfetchError], None]

    @property
    def has_digest(self) -> bool:
        """Whether the file is verified against a digest in the end."""
        return self.artifact.digest is not None


class Download:
    """One attempt at one location."""

    def __init__(self, spec: DownloadSpec, cancel: Cancel) -> None:
        self._spec = spec
        self._cancel = cancel
        self._direct: str | None = None
        self._restarts = 0
        self._ignores_ranges = False
        self.flow = Flow()
        self.setup = 0.0
        """Seconds from the last request to the start of its response."""
        self.splittable = False
        """Whether the source sends ranges, and of a version that can be distinguished from others."""

    def run(self) -> None:
        """Download until the file is complete.

        Raises:
            ModelfetchError: The source failed; received bytes are kept where possible.
            OSError: The disk failed.
        """
        partial = self._spec.partial
        identity = self._identity()
        if not self._spec.has_digest and partial.total and not (identity and identity.validator):
            partial.distrust()  # nothing shows whether the source still has the same version
        for _ in range(_MAX_RESTARTS + 1):
            try:
                while not partial.is_complete():
                    self._cancel.check()
                    self._advance()
                return
            except RestartDownload:
                partial.distrust()
                self._restarts += 1
            except PageInsteadError:
                raise
            except UnreachableError:
                if self._ignores_ranges:  # only now, as no connection writes any more
                    partial.distrust()
                raise
            except (NotAModelError, SurplusError) as error:
                if isinstance(error, SurplusError) or not self._spec.has_digest:
                    partial.distrust()
                raise
        raise UnreachableError(f"{self._spec.artifact.path}: the source keeps changing", code="bad-response")

    def _advance(self) -> None:
        spec = self._spec
        queue = SegmentQueue(spec.partial.missing())
        known = spec.partial.size
        # Some sources name the same version differently on each machine: they are read over one connection.
        steady = self._restarts < _MAX_RESTARTS
        context = spec.context
        large = known is None or queue.left >= context.tuning.split_from
        if steady and large and context.options.connections > 1:
            ConnectionPool(self, queue, context, spec.partial, self._cancel, spec.on_connection_lost).run()
            return
        segment = queue.take()
        if segment is not None:
            self.fetch_segment(segment, alone=True, cancel=self._cancel)

    def fetch_segment(self, segment: Segment, *, alone: bool, cancel: Cancel) -> None:
        """Request one segment and receive its body; safe to call from several threads.

        Args:
            segment: The range; without an end while the size is unknown.
            alone: Whether no other connection works on the file.
            cancel: Ends it when it is set.

        Raises:
            RestartDownload: The partial file is of no use.
            ModelfetchError: The source failed.
            OSError: The disk failed.
        """
        spec = self._spec
        identity = self._identity()
        whole = segment.position == 0 and segment.end in (None, spec.partial.size)
        wanted = WantedRange(start=segment.position, end=segment.end, ranged=not whole)
        with self._open(wanted.headers(identity), cancel) as response:
            spec.coding.apply(response)
            try:
                answer = check_response(
                    response,
                    wanted,
                    identity,
                    size=spec.artifact.size,
                    has_digest=spec.has_digest,
                    what=spec.artifact.path,
                    uri=spec.location.uri,
                )
            except WrongRangeError:
                self._ignores_ranges |= alone
                raise
            if isinstance(answer, Restart):
                if not alone and response.status == 200 and answer.same_version:
                    raise WrongRangeError(f"{redact(response.url)} sends no ranges")
                raise RestartDownload(answer.reason)
            if isinstance(answer, NothingMore):
                spec.partial.size = segment.end = answer.size
                return
            self._receive(response, answer, segment, alone=alone, cancel=cancel)

    def _open(self, headers: dict[str, str], cancel: Cancel) -> Response:
        """Send the request to the URL that the last redirect led to, or to the location itself if that one refuses."""
        http = self._spec.context.http
        direct = self._direct
        if direct is not None:
            response = http.open("GET", direct, headers=headers, cancel=cancel)
            if response.status in (200, 206, 416, 429) or response.status >= 500:
                return response
            response.close()
            self._direct = None
        response = http.open("GET", self._spec.location.url, headers=headers, cancel=cancel)
        if response.redirected and response.status in (200, 206):
            self._direct = response.url
        return response

    def _identity(self) -> Identity | None:
        known, location = self._spec.partial.identity, self._spec.location
        return known if known is not None and known.is_from(location.uri, location.url) else None

    def _receive(self, response: Response, answer: Answer, segment: Segment, *, alone: bool, cancel: Cancel) -> None:
        spec, partial = self._spec, self._spec.partial
        self._record_version(response, answer)
        segment.answered(answer.end, partial.size)
        writer = SegmentWriter(partial, answer.start)
        try:
            Body(
                spec.context,
                response,
                writer,
                segment,
                alone=alone,
                cancel=cancel,
                check_head=spec.check_head if answer.start == 0 else None,
                progress=spec.progress,
                flow=self.flow,
            ).receive()
        finally:
            writer.close()
        if answer.end is None:
            self._set_size_from_end(response, segment, writer.position)

    def _record_version(self, response: Response, answer: Answer) -> None:
        """Record which version this is, and reserve space for it."""
        spec, partial = self._spec, self._spec.partial
        self.setup = response.waited
        partial.identify(
            Identity(
                uri=spec.location.uri,
                url=spec.location.url,
                etag=answer.etag,
                modified=answer.modified,
                size=answer.size,
            )
        )
        size = spec.artifact.size if spec.artifact.size is not None else answer.size
        if size is not None and partial.reserved != size:
            partial.reserve(size)
        known = partial.identity is not None and (spec.has_digest or partial.identity.validator is not None)
        ranges = response.status == 206 or response.headers.get("accept-ranges", "").strip().lower() == "bytes"
        self.splittable = known and ranges and response.encoding is None and size is not None

    def _set_size_from_end(self, response: Response, segment: Segment, position: int) -> None:
        """Take the end of a body of unknown length for the file's size, if nothing else is known.

        Where only the closed connection marks the end, the segment stays open: asking for what follows shows whether
        the body was cut off.
        """
        size = self._spec.artifact.size
        if size is not None and position != size:
            raise UnreachableError(f"{redact(response.url)} broke off at byte {position} of {size}")
        self._spec.partial.size = position
        if response.encoding is not None or "transfer-encoding" in response.headers:
            segment.end = position
