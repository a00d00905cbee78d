"""Events as lines of text."""

from __future__ import annotations

import re

from modelfetch.core import events as ev
from modelfetch.core.units import format_count, format_duration, format_seconds, format_size

WORTH_A_LINE = 16 * 2**20
"""Bytes; the start and end of smaller files are shown only with `--verbose`."""

NEXT = "; trying the next mirror"
_QUERY = re.compile(r"\A(https?://[^?#]*)[?#].*", re.DOTALL)
_LONG_ADDRESS = re.compile(r"(https?://[^/\s]+/)\S{24,}")
"""The URL of a CDN: the host is enough, the path would fill three lines."""


def sentence(event: ev.Event, *, verbose: bool) -> str | None:
    """An event as one line of text; None for events without a line."""
    match event:
        case ev.Planned(artifacts=count) if count:
            files = format_count(count, "file")
            return f"{files} to download, {format_size(event.bytes)}; {event.present} already here"
        case ev.TransferStarted():
            return _started(event, verbose=verbose)
        case ev.TransferRetrying():
            reason = event.reason if verbose else _LONG_ADDRESS.sub(r"\1…", event.reason)
            return f"{event.label}: {reason}; {_again(event)}"
        case ev.SourceFailed():
            return f"{event.label}: {without_query(event.source)} failed ({event.reason}){NEXT}"
        case ev.TransferFinished() if verbose or event.size >= WORTH_A_LINE:
            return verified(event)
        case ev.Waiting():
            return f"{event.label}: waiting for {event.owner} ({format_seconds(event.seconds)} so far)"
        case ev.Placed():
            paths = f" ({format_count(event.paths, 'path')})" if verbose else ""
            return f"{event.model}: in place for {event.consumer}{paths}"
        case ev.Notice(level=level, message=message):
            return f"{level}: {message}" + (f" (hint: {event.hint})" if event.hint else "")
        case _:
            return None


def _started(event: ev.TransferStarted, *, verbose: bool) -> str | None:
    if isinstance(event, ev.CheckStarted):
        files = format_count(event.files, "file")
        return f"{event.label} {files}, {format_size(event.size or 0)}"
    if event.offset:
        return f"{event.label}: resuming at {format_size(event.offset)} of {format_size(event.size or 0)}"
    if not verbose and event.size is not None and event.size < WORTH_A_LINE:
        return None
    size = f", {format_size(event.size)}" if event.size is not None else ""
    return f"{event.label}: downloading{size}" + (f" from {without_query(event.source)}" if verbose else "")


def without_query(source: str) -> str:
    """A source without the query of its URL, which may hold a token."""
    return _QUERY.sub(r"\1", source)


def _again(event: ev.TransferRetrying) -> str:
    if event.attempt == 0:
        return "continuing where it stopped"
    return f"retrying in {event.delay:.0f}s (attempt {event.attempt} of {event.attempts})"


def verified(event: ev.TransferFinished) -> str:
    """The line for a file that has been downloaded and verified."""
    rate = event.fetched / event.seconds if event.seconds > 0 else 0.0
    taken = f"{format_size(event.size)} in {format_duration(event.seconds)} ({format_size(rate)}/s)"
    return f"{event.label}: verified, {taken}, {event.digest[:19]}…"
