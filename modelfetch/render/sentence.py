"""What happens, as lines for a person."""

from __future__ import annotations

import re

from modelfetch.core import events as ev
from modelfetch.core.units import format_seconds, format_size

WORTH_A_LINE = 16 * 2**20
"""Bytes: the beginning and end of smaller files are said only to those who want to hear more."""

NEXT = "; trying the next mirror"
_QUERY = re.compile(r"\A(https?://[^?#]*)[?#].*", re.DOTALL)
_LONG_ADDRESS = re.compile(r"(https?://[^/\s]+/)\S{24,}")
"""An address of a CDN: its host tells a person enough, its path fills three lines."""


def sentence(event: ev.Event, *, verbose: bool) -> str | None:
    """An event as a line for a person; None where it says nothing on its own."""
    match event:
        case ev.Planned(artifacts=count) if count:
            files = "1 file" if count == 1 else f"{count} files"
            return f"{files} to fetch, {format_size(event.bytes)}; {event.present} already here"
        case ev.TransferStarted():
            return _started(event, verbose=verbose)
        case ev.TransferRetrying():
            reason = event.reason if verbose else _LONG_ADDRESS.sub(r"\1…", event.reason)
            return f"{event.label}: {reason}; {_again(event)}"
        case ev.SourceFailed():
            return f"{event.label}: {without_query(event.source)} failed ({event.reason}){NEXT}"
        case ev.TransferFinished() if verbose or event.size >= WORTH_A_LINE:
            return _verified(event)
        case ev.Waiting():
            return f"{event.label}: waiting for {event.owner} ({format_seconds(event.seconds)} so far)"
        case ev.Placed():
            return f"{event.model}: in place for {event.consumer} ({event.paths} path{'' if event.paths == 1 else 's'})"
        case ev.Notice(level=level, message=message):
            return f"{level}: {message}" + (f" (hint: {event.hint})" if event.hint else "")
        case _:
            return None


def _started(event: ev.TransferStarted, *, verbose: bool) -> str | None:
    if isinstance(event, ev.CheckStarted):
        files = "1 file" if event.files == 1 else f"{event.files} files"
        return f"{event.label} {files}, {format_size(event.size or 0)}"
    if event.offset:
        return f"{event.label}: resuming at {format_size(event.offset)} of {format_size(event.size or 0)}"
    if not verbose and event.size is not None and event.size < WORTH_A_LINE:
        return None
    size = f", {format_size(event.size)}" if event.size is not None else ""
    return f"{event.label}: fetching{size}" + (f" from {without_query(event.source)}" if verbose else "")


def without_query(source: str) -> str:
    """A source as it is shown: where some people keep a token, in an address's query, nothing is."""
    return _QUERY.sub(r"\1", source)


def _again(event: ev.TransferRetrying) -> str:
    if event.attempt == 0:
        return "going on where it stopped"
    return f"again in {event.delay:.0f}s (try {event.attempt} of {event.attempts})"


def _verified(event: ev.TransferFinished) -> str:
    rate = event.fetched / event.seconds if event.seconds > 0 else 0.0
    taken = f"{format_size(event.size)} in {event.seconds:.1f}s ({format_size(rate)}/s)"
    return f"{event.label}: verified, {taken}, {event.digest[:19]}…"
