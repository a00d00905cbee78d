"""From an answer's body to a lane of the partial file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from modelfetch.errors import ModelfetchError, UnreachableError
from modelfetch.http import redact
from modelfetch.transfer.gate import HEAD
from modelfetch.transfer.rate import Floor

if TYPE_CHECKING:
    from modelfetch.cancel import Cancel
    from modelfetch.http import Response
    from modelfetch.transfer.context import Context
    from modelfetch.transfer.partial import Lane

JudgeHead = Callable[[bytes, "Response"], ModelfetchError | None]


def receive(
    context: Context,
    response: Response,
    lane: Lane,
    *,
    end: int | None,
    cancel: Cancel,
    judge_head: JudgeHead | None,
    progress: Callable[[int], None],
) -> None:
    """Read a body to its end, or to the end of what was asked for.

    Args:
        context: What all transfers share.
        response: The answer, its body unread.
        lane: Where the bytes go.
        end: The position in the file where the body ends, None when nobody knows.
        cancel: What may end it.
        judge_head: Looks at the first bytes of a file, and tells what is wrong with them.
        progress: Told how many bytes came, now and then.

    Raises:
        UnreachableError: The body broke off, stalled, was too slow, or is longer than it may be.
        NotAModelError, CredentialsError: `judge_head` found something.
        InterruptedSync: It was cancelled.
        OSError: The disk refused.
    """
    pieces = response.iter_decoded() if response.encoding else response.iter_raw()
    if judge_head is not None:
        pieces = _after_judgement(pieces, response, judge_head)
    floor = new_floor(context)
    clock = context.tuning.clock
    waited, before = 0.0, clock()
    for piece in pieces:
        waited += clock() - before
        if end is not None and lane.position + len(piece) > end:
            lane.take(memoryview(piece)[: end - lane.position])
            raise UnreachableError(f"{redact(response.url)} sent more than it said", code="bad-response")
        lane.take(memoryview(piece))
        progress(len(piece))
        floor.note(len(piece), waited)
        context.limiter.take(len(piece), cancel)
        before = clock()
    if end is not None and lane.position < end:
        raise UnreachableError(f"{redact(response.url)} broke off at byte {lane.position} of {end}")


def new_floor(context: Context) -> Floor:
    """The floor rate for a connection; a cap of the user's own is not held against the source."""
    rate = float(context.tuning.floor_rate)
    if context.limiter.rate is not None:
        rate = min(rate, context.limiter.rate / 256)
    return Floor(rate, context.tuning.floor_seconds, 0.0)


def _after_judgement(pieces: Iterator[bytes], response: Response, judge_head: JudgeHead) -> Iterator[bytes]:
    """The same pieces, held back until there are enough of them to be judged."""
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= HEAD:
            break
    error = judge_head(head, response)
    if error is not None:
        raise error
    if head:
        yield head
    yield from pieces
