"""Status as a table for a person and as metrics for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfetch.render.text import known_size, plain, stdout_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from modelfetch.care.overview import DiskUse
    from modelfetch.core.report import Report
    from modelfetch.pipeline.status import ModelStatus

_STATES = ("ready", "missing", "changed", "damaged", "foreign", "rewritten", "touched")
_WELL = ("ready", "rewritten", "touched")
_MAX_PATHS = 20


def status_table(
    report: Report,
    lines: Sequence[ModelStatus],
    *,
    only_bad: bool = False,
    checks: Mapping[tuple[str, str], str] | None = None,
) -> str:
    """A row for each model and service, and a summary line.

    Args:
        report: The report.
        lines: A line for each model and service.
        only_bad: Show only rows that are not ready, if any.
        checks: When each model of each service was last verified.
    """
    ready = sum(line.state in _WELL for line in lines)
    end = f"{ready} of {len(lines)} ready in {report.root}"
    end += "; the rest is optional" if report.ok and ready < len(lines) else ""
    if only_bad:
        lines = [line for line in lines if line.state not in _WELL]
        if not lines:
            return ""
    rows = [
        (
            line.model,
            line.consumer,
            _state(line),
            str(line.files or "?"),
            known_size(line.size),
            "unpinned" if line.unpinned else "pinned",
            (checks or {}).get((line.model, line.consumer), "-"),
        )
        for line in lines
    ]
    head = ("MODEL", "FOR", "STATE", "FILES", "SIZE", "PIN", "VERIFIED")
    return f"{stdout_table(head, rows, right=(3, 4))}{_paths(lines)}\n{end}"


def _paths(lines: Sequence[ModelStatus]) -> str:
    """The paths that are not as modelfetch left them, one a line."""
    named = list(dict.fromkeys(f"{state}: {plain(path)}" for line in lines for path, state in line.paths))
    more = [f"… and {len(named) - _MAX_PATHS} more paths"] if len(named) > _MAX_PATHS else []
    return "".join(f"\n{text}" for text in (*named[:_MAX_PATHS], *more))


def _state(line: ModelStatus) -> str:
    if line.state == "rewritten":
        return f"rewritten by {line.consumer}"
    if line.state == "touched":
        return "touched, not re-checked"
    return line.state if line.state == "ready" or not line.optional else f"{line.state} (optional)"


def prometheus(report: Report, lines: Sequence[ModelStatus], disk: DiskUse | None = None) -> str:
    """The text format of Prometheus (source: prometheus docs, exposition formats); ``disk`` adds the disk use."""
    tier = report.tier or ""
    out = [
        "# HELP modelfetch_model_state Whether a model is in this state for a service (1) or not (0).",
        "# TYPE modelfetch_model_state gauge",
    ]
    for line in lines:
        labels = _labels(tier, line)
        out += [f'modelfetch_model_state{{{labels},state="{state}"}} {int(line.state == state)}' for state in _STATES]
    out += ["# HELP modelfetch_model_bytes The size of a model's files.", "# TYPE modelfetch_model_bytes gauge"]
    for line in lines:
        if line.size is not None:
            labels = _labels(tier, line)
            out.append(f"modelfetch_model_bytes{{{labels}}} {line.size}")
    paths = [(line, path, state) for line in lines for path, state in line.paths]
    if paths:
        out += [
            "# HELP modelfetch_path_state A path that is not as modelfetch left it.",
            "# TYPE modelfetch_path_state gauge",
        ]
    for line, path, state in paths:
        labels = _labels(tier, line)
        out.append(f'modelfetch_path_state{{{labels},path="{_escape(plain(path))}",state="{state}"}} 1')
    out += ["# HELP modelfetch_ready Whether all models are ready that must be.", "# TYPE modelfetch_ready gauge"]
    out.append(f'modelfetch_ready{{tier="{_escape(tier)}"}} {int(report.ok)}')
    if disk is not None:
        out += _disk_metrics(tier, lines, disk)
    return "\n".join(out)


def _disk_metrics(tier: str, lines: Sequence[ModelStatus], disk: DiskUse) -> list[str]:
    ages, damaged = [], []
    for line in lines:
        use = disk.models.get((line.model, line.consumer))
        if use is None:
            continue
        labels = f"{{{_labels(tier, line)}}}"
        damaged.append(f"modelfetch_model_damaged_files{labels} {use.damaged}")
        if use.check_age is not None:
            ages.append(f"modelfetch_model_check_age_seconds{labels} {use.check_age:.0f}")
    return [
        "# HELP modelfetch_model_check_age_seconds Age of the oldest full check among a model's files.",
        "# TYPE modelfetch_model_check_age_seconds gauge",
        *ages,
        "# HELP modelfetch_model_damaged_files Files that the last check found damaged.",
        "# TYPE modelfetch_model_damaged_files gauge",
        *damaged,
        "# HELP modelfetch_disk_bytes Bytes on disk.",
        "# TYPE modelfetch_disk_bytes gauge",
        *(f'modelfetch_disk_bytes{{consumer="{_escape(name)}"}} {size}' for name, size in sorted(disk.bytes.items())),
        "# HELP modelfetch_reclaimable_bytes Bytes that prune without a tier would free.",
        "# TYPE modelfetch_reclaimable_bytes gauge",
        f"modelfetch_reclaimable_bytes {disk.reclaimable}",
    ]


def _labels(tier: str, line: ModelStatus) -> str:
    return f'tier="{_escape(tier)}",model="{_escape(line.model)}",consumer="{line.consumer}"'


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
