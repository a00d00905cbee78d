"""A report as text."""

from __future__ import annotations

import posixpath
from collections import Counter
from typing import TYPE_CHECKING

from modelfetch.core.units import format_count, format_duration, format_size
from modelfetch.render.text import known_size, stdout_table, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelfetch.core.report import ModelReport, Report
    from modelfetch.pipeline.preflight import SpaceRequirement


def summary(report: Report) -> str:
    """``16g: 5 models in place in files/ai-models; 6.46 GiB downloaded in 3m 02s, 12 requests``."""
    ready = sum(model.ok for model in report.models)
    left = f" ({len(report.models) - ready} optional left out)" if ready < len(report.models) else ""
    tier = f"{report.tier}: " if report.tier else ""
    head = f"{tier}{format_count(ready, 'model')} verified and in place in {report.root}{left}"
    requests = format_count(report.requests, "request")
    seconds = format_duration(report.seconds)
    fetched = (
        f"{format_size(report.bytes_fetched)} downloaded in {seconds}"
        if report.bytes_fetched
        else f"nothing to download, {seconds}"
    )
    return f"{head}; {fetched}, {requests}"


def placed_table(report: Report, width: int | None = None) -> str | None:
    """What is in place for which service after a `sync`; None if nothing was downloaded or adopted.

    Args:
        report: The report of the `sync`.
        width: Columns of the terminal, None if nothing has to be folded.
    """
    changed = {"fetched", "resumed", "adopted"}
    if not any(artifact.action in changed for model in report.models for artifact in model.artifacts):
        return None
    rows = sorted(row for model in report.models for row in _placed_rows(model))
    return table(("SERVICE", "MODEL", "FILES", "SIZE", "ACTION", "WHERE"), rows, right=(2, 3), width=width)


def _placed_rows(model: ModelReport) -> list[tuple[str, str, str, str, str, str]]:
    """A row for each service: its files, their size, what was done, and their folder below its own."""
    rows = []
    services = dict.fromkeys(path.partition("/")[0] for a in model.artifacts for path in a.placements)
    for service in services:
        files = [(a, p) for a in model.artifacts for p in a.placements if p.partition("/")[0] == service]
        artifacts = {a.uri: a for a, _ in files}.values()
        actions = Counter(a.action for a in artifacts)
        action = next((name for name in ("fetched", "resumed", "adopted") if actions[name]), "present")
        paths = [path for _, path in files]
        where = paths[0] if len(paths) == 1 else posixpath.commonpath([posixpath.dirname(path) for path in paths])
        where = where.removeprefix(f"{service}/")
        rows.append((service, model.name, str(len(artifacts)), _sum([a.size for a in artifacts]), action, where))
    return rows


def plan_table(report: Report, needed: Sequence[SpaceRequirement], *, verbose: bool = False) -> str:
    """What would be done for each model, and the space that it needs; ``verbose`` adds the files and their paths."""
    rows = [_plan_row(model) for model in report.models]
    lines = [stdout_table(("MODEL", "ACTION", "FILES", "SIZE", "TO FETCH"), rows, right=(2, 3, 4))]
    if verbose:
        files = [
            (a.action, known_size(a.size), model.name, path)
            for model in report.models
            for a in model.artifacts
            for path in a.placements or ("-",)
        ]
        lines += [
            "",
            stdout_table(("ACTION", "SIZE", "MODEL", "PATH"), files, right=(1,)),
            "",
        ]
    for need in needed:
        free = "unknown" if need.free is None else format_size(need.free)
        copies = f", {format_size(need.copies)} of it copies, since no link is possible" if need.copies else ""
        lines.append(f"{need.folder}: {format_size(need.bytes)} needed{copies}; {free} free")
    return "\n".join(lines)


def _plan_row(model: ModelReport) -> tuple[str, str, str, str, str]:
    known = [a.size for a in model.artifacts]
    to_fetch = [a.size for a in model.artifacts if a.action == "would-fetch"]
    actions = Counter(a.action for a in model.artifacts)
    action = next((name for name in ("failed", "would-fetch", "adopted", "present") if actions[name]), "-")
    if action == "present" and not model.ok:
        action = "would-place"
    return model.name, action, str(len(model.artifacts)), _sum(known), _sum(to_fetch) if to_fetch else "-"


def _sum(sizes: Sequence[int | None]) -> str:
    """``5.0 GiB``, ``5.0 GiB + ?`` where some are not known, ``?`` where none is."""
    known = [size for size in sizes if size is not None]
    if not known:
        return "?"
    return format_size(sum(known)) + ("" if len(known) == len(sizes) else " + ?")
