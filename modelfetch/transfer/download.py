"""Bringing what is missing of a file from one HTTP location, once: any failure is the caller's to judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfetch.errors import UnreachableError
from modelfetch.http import redact
from modelfetch.transfer.body import JudgeHead, receive
from modelfetch.transfer.journal import Identity
from modelfetch.transfer.partial import Lane
from modelfetch.transfer.request import Ask, Body, NothingMore, Restart, WrongRangeError, judge

if TYPE_CHECKING:
    from modelfetch.artifacts import Location
    from modelfetch.cancel import Cancel
    from modelfetch.http import Response
    from modelfetch.transfer.context import Context
    from modelfetch.transfer.partial import Partial
    from modelfetch.transfer.progress import Progress

_MOST_RESTARTS = 2


class Download:
    """One attempt at one location.

    Args:
        context: What all transfers share.
        partial: Where the bytes go.
        location: Where they come from.
        size: What the file must have, in bytes, where that is known.
        what: The file's name, for messages.
        cancel: What may end it.
        progress: Told what comes.
        judge_head: Looks at the file's first bytes, where no digest decides.
    """

    def __init__(
        self,
        context: Context,
        partial: Partial,
        location: Location,
        *,
        size: int | None,
        what: str,
        cancel: Cancel,
        progress: Progress,
        judge_head: JudgeHead | None,
    ) -> None:
        self._context = context
        self._partial = partial
        self._location = location
        self._size = size
        self._what = what
        self._cancel = cancel
        self._progress = progress
        self._judge_head = judge_head

    def run(self) -> None:
        """Go on until the file is complete.

        Raises:
            ModelfetchError: Typed; what has come so far is kept where it can be.
            OSError: The disk refused.
        """
        restarts = 0
        while not self._partial.is_complete():
            self._cancel.check()
            start, end = self._partial.missing()[0]
            if self._ask(Ask(start=start, end=end, ranged=start > 0)):
                continue
            restarts += 1
            self._partial.distrust()
            if restarts > _MOST_RESTARTS:
                raise UnreachableError(f"{self._what}: the source keeps changing", code="bad-response")

    def _ask(self, ask: Ask) -> bool:
        """Send one request and take its body; False when what is there turned out to be of no use."""
        partial = self._partial
        headers = ask.headers(self._identity())
        with self._context.http.open("GET", self._location.url, headers=headers, cancel=self._cancel) as response:
            try:
                answer = judge(
                    response, ask, self._identity(), size=self._size, what=self._what, uri=self._location.uri
                )
            except WrongRangeError:
                partial.distrust()
                raise
            if isinstance(answer, Restart):
                return False
            if isinstance(answer, NothingMore):
                partial.size = answer.size
                return True
            self._take(response, answer)
        return True

    def _identity(self) -> Identity | None:
        known = self._partial.identity
        same = known is not None and (known.uri, known.url) == (self._location.uri, self._location.url)
        return known if same else None

    def _take(self, response: Response, body: Body) -> None:
        partial = self._partial
        partial.identify(
            Identity(
                uri=self._location.uri, url=self._location.url, etag=body.etag, modified=body.modified, size=body.size
            )
        )
        size = self._size if self._size is not None else body.size
        if size is not None:
            partial.reserve(size)
        lane = Lane(partial, body.start)
        try:
            receive(
                self._context,
                response,
                lane,
                end=body.end if body.end is not None else size,
                cancel=self._cancel,
                judge_head=self._judge_head if body.start == 0 else None,
                progress=self._progress.note,
            )
        finally:
            lane.close()
        if body.end is None:
            self._check_unsaid_end(response, lane.position)

    def _check_unsaid_end(self, response: Response, position: int) -> None:
        """A body whose length nobody said has ended: that is the file's size, if nothing else is known."""
        if self._size is not None and position != self._size:
            raise UnreachableError(f"{redact(response.url)} broke off at byte {position} of {self._size}")
        self._partial.size = position
