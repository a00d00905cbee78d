"""Status as a table for a person and as metrics for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfetch.core.units import format_size
from modelfetch.render.text import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelfetch.core.report import Report
    from modelfetch.pipeline.status import Line

_STATES = ("ready", "missing", "changed", "foreign")


def status_table(report: Report, lines: Sequence[Line], *, only_bad: bool = False) -> str:
    """A row for each model and service, and one line that sums it up; ``only_bad``: rows that are not ready, if any."""
    ready = sum(line.state == "ready" for line in lines)
    end = f"{ready} of {len(lines)} ready in {report.root}"
    end += "; the rest is optional" if report.ok and ready < len(lines) else ""
    if only_bad:
        lines = [line for line in lines if line.state != "ready"]
        if not lines:
            return ""
    rows = [
        (
            line.model,
            line.consumer,
            line.state if line.state == "ready" or not line.optional else f"{line.state} (optional)",
            str(line.files or "?"),
            "?" if line.size is None else format_size(line.size),
            "unpinned" if line.unpinned else "pinned",
        )
        for line in lines
    ]
    return table(("MODEL", "FOR", "STATE", "FILES", "SIZE", "PIN"), rows, right=(3, 4)) + "\n" + end


def prometheus(report: Report, lines: Sequence[Line]) -> str:
    """The text format of Prometheus (source: prometheus docs, exposition formats)."""
    tier = report.tier or ""
    out = [
        "# HELP modelfetch_model_state Whether a model is in this state for a service (1) or not (0).",
        "# TYPE modelfetch_model_state gauge",
    ]
    for line in lines:
        labels = f'tier="{_escape(tier)}",model="{_escape(line.model)}",consumer="{line.consumer}"'
        out += [f'modelfetch_model_state{{{labels},state="{state}"}} {int(line.state == state)}' for state in _STATES]
    out += ["# HELP modelfetch_model_bytes The size of a model's files.", "# TYPE modelfetch_model_bytes gauge"]
    for line in lines:
        if line.size is not None:
            labels = f'tier="{_escape(tier)}",model="{_escape(line.model)}",consumer="{line.consumer}"'
            out.append(f"modelfetch_model_bytes{{{labels}}} {line.size}")
    out += ["# HELP modelfetch_ready Whether all models are ready that must be.", "# TYPE modelfetch_ready gauge"]
    out.append(f'modelfetch_ready{{tier="{_escape(tier)}"}} {int(report.ok)}')
    return "\n".join(out)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
