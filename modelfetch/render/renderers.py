"""Choose how progress is shown on stderr: bars, lines, JSON, or warnings only."""

from __future__ import annotations

import json
import os
import sys

from modelfetch.core import events as ev
from modelfetch.render.progress import Progress
from modelfetch.render.sentence import without_query


class Json(Progress):
    """Each event as one JSON object on one line."""

    def show(self, event: ev.Event) -> None:
        """Show an event."""
        fields = event.as_dict()
        if isinstance(fields.get("source"), str):
            fields["source"] = without_query(fields["source"])
        self.write(json.dumps(fields))


class Quiet(Progress):
    """Warnings only."""

    def show(self, event: ev.Event) -> None:
        """Show a warning."""
        if isinstance(event, ev.Notice) and event.level == "warning":
            super().show(event)


def make_progress(kind: str, *, verbose: bool, quiet: bool) -> Progress:
    """The renderer for ``--progress``; ``auto`` means bars on a terminal that can move its cursor, else lines."""
    if quiet and kind == "auto":
        return Quiet()
    if kind == "bar" or (kind == "auto" and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"):
        from modelfetch.render.bars import Bars

        return Bars(verbose=verbose)
    if kind == "json":
        return Json()
    if kind == "none":
        return Quiet()
    from modelfetch.render.log import Log

    return Log(verbose=verbose)
