"""The verdict as a table."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from modelfetch.core.units import format_size

if TYPE_CHECKING:
    from modelfetch.fitting.types import Estimate, FitReport, ServiceFit

_WIDE, _NARROW, _SHORT = 40, 12, 5
"""Characters of a bar, and of shorter ones for terminals of 80 and of 50 columns."""
_ROOMY = 112
_FULL, _ROOM, _OVER, _EMPTY = "█", "░", "▓", "·"
_PLAIN = str.maketrans({_FULL: "#", _ROOM: "-", _OVER: "!", _EMPTY: "."})


def render_table(report: FitReport, *, ascii_only: bool = False, width: int | None = None) -> str:
    """The report as text without colour: a bar for each service, its models below it, then what is wrong.

    A full bar is the tier's usable memory (or, where that is not known, all that is needed): ``█`` is needed, ``▓``
    needed beyond the budget, ``░`` budget that is left. With ``ascii_only`` these are ``#``, ``!`` and ``-``.
    ``width`` is the terminal's, in columns; where there is none (None), lines are as long as they are.
    """
    scale = max(report.usable or 0, report.needed) or 1
    bar = _WIDE if width is None or width >= _ROOMY else _NARROW
    lines = [_heading(report), ""]
    names = [fit.service for fit in report.services]
    column = max([len(name) for name in names] + [len("together")])
    if width is not None and any(len(_service_line(fit, column, scale, bar)) > width for fit in report.services):
        bar = _SHORT
    for fit in report.services:
        lines += _wrapped(_service_line(fit, column, scale, bar), width)
        lines += [part for model in fit.models for line in _model_lines(model) for part in _wrapped(f"  {line}", width)]
    lines.append(_total_line(report, column, scale, bar))
    for error in report.errors:
        lines += ["", f"problem: {error.message}"]
        lines += [f"hint: {error.hint}"] if error.hint else []
    text = "\n".join(line.rstrip() for line in lines) + "\n"
    return text.translate(_PLAIN) if ascii_only else text


def _heading(report: FitReport) -> str:
    usable = f", {format_size(report.usable)} usable" if report.usable is not None else ""
    return f"{subject(report)}{usable}: {_verdict(report)}"


def subject(report: FitReport) -> str:
    """What the report is about: a tier, a manifest or one model."""
    if report.tier:
        return f"tier {report.tier}"
    return "this model" if sum(len(fit.models) for fit in report.services) == 1 else "this manifest"


def _verdict(report: FitReport) -> str:
    if any(error.code == "does-not-fit" for error in report.errors):
        return "does not fit"
    if report.errors:
        return "unknown whether it fits"
    if report.usable is None:
        return f"needs {format_size(report.needed)}"
    return f"fits, but only {format_size(report.usable - report.needed)} are left" if report.tight else "fits"


def _wrapped(line: str, width: int | None) -> list[str]:
    if width is None or len(line) <= width:
        return [line]
    return textwrap.wrap(line, width, subsequent_indent=" " * 6, break_on_hyphens=False)


def _bar(needed: int, budget: int | None, scale: int, width: int) -> str:
    """The bar; a need above 0 has at least one character, so that a small one is visible."""
    end = min(width, max(1, round(needed / scale * width))) if needed else 0
    limit = end if budget is None else min(width, round(budget / scale * width))
    over = end - limit if budget is not None and needed > budget else 0
    over = max(over, 1) if budget is not None and needed > budget and end else max(over, 0)
    room = max(0, limit - end)
    return (_FULL * (end - over) + _OVER * over + _ROOM * room).ljust(width, _EMPTY)


def _service_line(fit: ServiceFit, column: int, scale: int, width: int) -> str:
    budget = f"of {format_size(fit.budget)}" if fit.budget is not None else ""
    least = "at least " if not fit.sure else ""
    needed = "on the CPU" if fit.on_cpu else f"{least}{format_size(fit.needed)}"
    group = f" (in turn: {fit.exclusive})" if fit.exclusive else ""
    word = "" if fit.budget is None and fit.sure else "fits" if fit.fits else "unknown" if not fit.sure else "too much"
    return f"{fit.service:<{column}}  {_bar(fit.needed, fit.budget, scale, width)}  {needed} {budget}  {word}{group}"


def _total_line(report: FitReport, column: int, scale: int, width: int) -> str:
    usable = f"of {format_size(report.usable)}" if report.usable is not None else ""
    bar = _bar(report.needed, report.usable, scale, width)
    return f"{'together':<{column}}  {bar}  {format_size(report.needed)} {usable}"


def _model_lines(model: Estimate) -> list[str]:
    parts = [
        f"{word} {'unknown' if size is None else format_size(size)}"
        for word, size in (
            ("weights", model.weights),
            ("KV cache", model.kv),
            ("compute", model.compute),
            ("driver", model.overhead),
        )
        if size != 0
    ]
    lines = [f"{model.name}: {' + '.join(parts)}  [{_how(model)}]"]
    if model.margin:
        lines.append(f"  {format_size(model.margin)} more must be free while it loads, or layers run on the CPU")
    if model.most is not None:
        lines.append(f"  between {format_size(model.known)} and {format_size(model.most)}")
    elif model.unknown:
        lines.append(f"  at least {format_size(model.known)}; there is no upper bound")
    lines += [f"  note: {note}" for note in model.assumptions.get("notes", ())]
    return lines


def _how(model: Estimate) -> str:
    """The method and the most important settings, in short."""
    method = {"header": "from its header", "size": "weights bounded by the file's size", "table": "from a table"}
    known = model.assumptions
    words = [method[model.method]]
    if "context" in known:
        flash = ", flash attention" if known["flash_attention"] else ""
        words.append(f"{known['context']} tokens x {known['parallel']}, {known['kv_type']}{flash}")
    settings = ("resolution", "offload", "compute_type")
    words += [f"{key.replace('_', ' ')} {known[key]}" for key in settings if key in known]
    return "; ".join(words)
