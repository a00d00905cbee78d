"""The picture of `fit --plot`: the card's memory as stacked bars, one SVG without scripts, fonts or requests."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from modelfetch.core.units import format_size
from modelfetch.render.fit import subject
from modelfetch.render.text import cut, display_width, plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from modelfetch.fitting.types import FitReport, ServiceFit

    Part = tuple[str, str, int]
    """The class of a part (its colour), its description, and its size in bytes."""

_WIDTH, _LEFT, _BAR = 760, 170, 400
"""Pixels: of the picture, of the names, and of the longest bar."""
_ROW, _HEIGHT, _TOP = 44, 22, 92
_NAME = 20
"""Columns of the longest name that is shown whole."""
_STYLE = """
text { font: 14px system-ui, sans-serif; fill: #1c2530 }
.page { fill: #ffffff } .soft { fill: #5d6b7a }
.small { font-size: 12px } .inside { fill: #ffffff; font-size: 12px } .title { font-size: 17px; font-weight: 600 }
.budget { fill: none; stroke: #5d6b7a; stroke-width: 1.5; stroke-dasharray: 4 3 }
.limit { stroke: #b3261e; stroke-width: 2 } .bad { fill: #b3261e; font-weight: 600 }
.weights { fill: #4c78a8 } .kv { fill: #f58518 } .compute { fill: #54a24b } .driver { fill: #8a6fb0 }
.reserve { fill: #b8c0c9 } .together { fill: #4c78a8; stroke: #ffffff }
@media (prefers-color-scheme: dark) {
text { fill: #e7ecf2 } .page { fill: #12161b } .soft { fill: #9aa7b5 } .budget { stroke: #9aa7b5 }
.limit { stroke: #ff8a80 } .bad { fill: #ff8a80 } .reserve { fill: #55606c } .together { stroke: #12161b } }
"""
_LEGEND = (
    ("weights", "weights"),
    ("kv", "KV cache"),
    ("compute", "compute"),
    ("driver", "driver"),
    ("reserve", "free while loading"),
)


def fit_picture(report: FitReport) -> str:
    """The whole picture: a bar for each service against its budget, then all of them against the card."""
    scale = max([report.usable or 0, report.needed, *(max(f.needed, f.budget or 0) for f in report.services)]) or 1
    height = _TOP + _ROW * (len(report.services) + 1) + 12
    name = subject(report)
    usable = f", {format_size(report.usable)} usable" if report.usable is not None else ""
    rows = [_service(fit, _TOP + _ROW * number, scale) for number, fit in enumerate(report.services)]
    rows.append(_together(report, _TOP + _ROW * len(report.services), scale))
    title = escape(plain(f"VRAM of {name}{usable}"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="{title}"><style>{_STYLE}</style>'
        f'<rect class="page" width="{_WIDTH}" height="{height}" rx="8"/>'
        f'<text class="title" x="16" y="32">{title}</text>{_legend()}{"".join(rows)}</svg>\n'
    )


def _legend() -> str:
    entries, x = [], 16
    for kind, word in _LEGEND:
        entries.append(f'<rect class="{kind}" x="{x}" y="50" width="14" height="14" rx="3"/>')
        entries.append(f'<text class="soft" x="{x + 20}" y="62">{word}</text>')
        x += 44 + 8 * len(word)
    return "".join(
        [*entries, f'<path class="budget" d="M{x} 57h24"/><text class="soft" x="{x + 30}" y="62">budget</text>']
    )


def _service(fit: ServiceFit, top: int, scale: int) -> str:
    budget = "" if fit.budget is None else f" of {format_size(fit.budget)}"
    needed = "on the CPU" if fit.on_cpu else f"{'' if fit.sure else 'at least '}{format_size(fit.needed)}{budget}"
    outline = "" if fit.budget is None else f'<rect class="budget" {_box(0, fit.budget, top - 2, scale, _HEIGHT + 4)}/>'
    turns = f"in turn: {fit.exclusive}" if fit.exclusive else ""
    return (
        _name(fit.service, top, turns)
        + _stack(_parts(fit), top, scale)
        + outline
        + _verdict(needed, top, good=fit.fits)
    )


def _together(report: FitReport, top: int, scale: int) -> str:
    parts: list[Part] = [
        ("together", f"{fit.service}: {format_size(fit.needed)}", fit.needed) for fit in _counted(report)
    ]
    usable = "" if report.usable is None else f" of {format_size(report.usable)}"
    fits = report.usable is None or report.needed <= report.usable
    limit = ""
    if report.usable is not None:
        x = _LEFT + _BAR * report.usable / scale
        limit = f'<path class="limit" d="M{x:.1f} {top - 8}V{top + _HEIGHT + 8}"/>'
    return (
        _name("together", top)
        + _stack(parts, top, scale)
        + _labels(report, top, scale)
        + limit
        + _verdict(f"{format_size(report.needed)}{usable}", top, good=fits)
    )


def _labels(report: FitReport, top: int, scale: int) -> str:
    """The names of the services inside their parts of the last bar, if they fit there."""
    shown, start = [], 0
    for fit in _counted(report):
        x, room = _LEFT + _BAR * start / scale + 6, _BAR * fit.needed / scale - 12
        if 8 * display_width(fit.service) <= room:
            shown.append(f'<text class="inside" x="{x:.1f}" y="{top + 16}">{escape(plain(fit.service))}</text>')
        start += fit.needed
    return "".join(shown)


def _counted(report: FitReport) -> Iterator[ServiceFit]:
    """The services that count: of those that take turns, the one that needs the most."""
    for number, fit in enumerate(report.services):
        turns = [(other.needed, -at) for at, other in enumerate(report.services) if other.exclusive == fit.exclusive]
        if fit.exclusive is None or max(turns) == (fit.needed, -number):
            yield fit


def _parts(fit: ServiceFit) -> Sequence[Part]:
    """What a service's memory is made of; of models that are not loaded together, the largest one's parts."""
    together = sum(model.known for model in fit.models) <= fit.needed
    models = fit.models if together else (max(fit.models, key=lambda model: model.needed),)
    parts = [
        (kind, f"{model.name}, {word}: {format_size(size)}", size)
        for model in models
        for (kind, word), size in zip(_LEGEND, (model.weights, model.kv, model.compute, model.overhead), strict=False)
        if size
    ]
    rest = fit.needed - sum(size for _, _, size in parts)
    return [*parts, ("reserve", f"free while loading: {format_size(rest)}", rest)] if rest > 0 else parts


def _stack(parts: Sequence[Part], top: int, scale: int) -> str:
    shown, start = [], 0
    for kind, text, size in parts:
        box = _box(start, size, top, scale, _HEIGHT)
        shown.append(f'<rect class="{kind}" {box}><title>{escape(plain(text))}</title></rect>')
        start += size
    return "".join(shown)


def _box(start: int, size: int, top: int, scale: int, height: int) -> str:
    x, width = _LEFT + _BAR * start / scale, max(_BAR * size / scale, 1)
    return f'x="{x:.1f}" y="{top}" width="{width:.1f}" height="{height}"'


def _name(name: str, top: int, below: str = "") -> str:
    shown = escape(cut(plain(name), _NAME))
    whole = f"<title>{escape(plain(name))}</title>" if display_width(name) > _NAME else ""
    small = f'<text class="soft small" x="16" y="{top + 31}">{escape(plain(below))}</text>' if below else ""
    return f'<text x="16" y="{top + (12 if below else 16)}">{shown}{whole}</text>{small}'


def _verdict(text: str, top: int, *, good: bool) -> str:
    kind = "soft" if good else "bad"
    return f'<text class="{kind}" x="{_LEFT + _BAR + 14}" y="{top + 16}">{escape(text)}</text>'
