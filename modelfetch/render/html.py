"""The page of `report --html`: what is on disk, in one file without scripts, fonts or requests; light and dark."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from modelfetch.core.units import format_size
from modelfetch.render.text import day

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelfetch.care.overview import ModelRow, Overview, ServiceUse

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2530; --soft: #5d6b7a; --page: #f6f7f9; --card: #ffffff; --line: #dfe4ea;
  --good: #1f7a4d; --warn: #a15c00; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ecf2; --soft: #9aa7b5; --page: #12161b; --card: #1b2128;
  --line: #2f3842; --good: #5fd39a; --warn: #f0b35a; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 68rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 0 0 .5rem; display: flex; justify-content: space-between; gap: 1rem; flex-wrap: wrap; }
p { margin: .25rem 0; color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem; margin: 1rem 0; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; }
.facts div { border-left: .25rem solid var(--line); padding-left: .6rem; }
.facts strong { display: block; font-size: 1.2rem; }
.bar { display: flex; height: 1.1rem; border-radius: .3rem; overflow: hidden; background: var(--line);
  margin: .4rem 0; }
.bar span { min-width: 2px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
th.number, td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.number, th.number { padding-right: 1.2rem; }
td.number:last-child, th.number:last-child { padding-right: 0; }
td.name { overflow-wrap: anywhere; min-width: 5.5rem; }
.dot { display: inline-block; width: .7rem; height: .7rem; border-radius: .2rem; margin-right: .4rem; }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); font-weight: 600; }
@media (max-width: 36rem) { th.wide, td.wide { display: none; } body { padding: .6rem; } section { padding: .8rem; }
  table { font-size: .82rem; } th, td, td.number, th.number { padding-right: .45rem; } }
"""
_COLOURS = (
    "#4c78a8",
    "#f58518",
    "#54a24b",
    "#b279a2",
    "#e45756",
    "#72b7b2",
    "#eeca3b",
    "#9d755d",
    "#bab0ac",
    "#7f7fbf",
)
_GRADES = {"ready": "good", "rewritten": "good", "unknown": "warn", "damaged": "bad"}


def overview_page(overview: Overview) -> str:
    """Return the whole page."""
    sections = "".join(_service(service) for service in overview.services)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Models in {escape(overview.root)}</title><style>{_STYLE}</style></head><body>"
        f"<header><h1>Models in {escape(overview.root)}</h1>"
        f"<p>As of {overview.made.strftime('%Y-%m-%d %H:%M')} UTC"
        + (f", tier {escape(overview.tier)}" if overview.tier else "")
        + "</p></header>"
        + _facts(overview)
        + _problems(overview.problems)
        + _space_chart(overview.services)
        + sections
        + "</body></html>\n"
    )


def _facts(overview: Overview) -> str:
    damaged = sum(row.state == "damaged" for service in overview.services for row in service.rows)
    facts = (
        ("On disk", format_size(overview.bytes)),
        ("Models", str(len({row.model for service in overview.services for row in service.rows if row.is_model}))),
        ("Damaged", str(damaged)),
        ("Problems", str(len(overview.problems))),
        ("prune would free", format_size(overview.reclaimable)),
    )
    cells = "".join(f"<div>{escape(name)}<strong>{escape(text)}</strong></div>" for name, text in facts)
    return f'<section><div class="facts">{cells}</div></section>'


def _problems(problems: Sequence[tuple[str, str, str]]) -> str:
    if not problems:
        return ""
    rows = "".join(
        f'<tr><td class="name">{escape(model)}</td><td>{escape(consumer)}</td><td class="bad">{escape(state)}</td></tr>'
        for model, consumer, state in problems
    )
    return (
        '<section><h2>Missing, changed or damaged</h2><div class="scroll"><table>'
        f"<tr><th>Model</th><th>Service</th><th>State</th></tr>{rows}</table></div></section>"
    )


def _space_chart(services: Sequence[ServiceUse]) -> str:
    largest = max((service.bytes for service in services), default=0)
    if not largest:
        return ""
    bars = "".join(
        f"<p>{escape(service.name)}: {format_size(service.bytes)}</p>"
        f'<div class="bar" style="width:{max(100 * service.bytes / largest, 1):.1f}%">{_parts(service)}</div>'
        for service in services
        if service.bytes
    )
    return (
        f"<section><h2>Space</h2>{bars}<p>Files that several services share are counted for each of them.</p></section>"
    )


def _parts(service: ServiceUse) -> str:
    return "".join(
        f'<span style="flex:{row.bytes};background:{_COLOURS[number % len(_COLOURS)]}" '
        f'title="{escape(row.model)}: {format_size(row.bytes)}"></span>'
        for number, row in enumerate(service.rows)
        if row.bytes
    )


def _service(service: ServiceUse) -> str:
    rows = "".join(_row(number, row) for number, row in enumerate(service.rows))
    return (
        f"<section><h2><span>{escape(service.name)}</span><span>{format_size(service.bytes)}</span></h2>"
        '<div class="scroll"><table><tr><th>Model</th><th class="number">Size</th><th>State</th>'
        '<th class="number wide">Files</th>'
        f'<th class="wide">Tiers</th><th class="number">Verified</th></tr>{rows}</table></div></section>'
    )


def _row(number: int, row: ModelRow) -> str:
    verified = day(row.verified) if row.verified or row.is_model else "-"
    grade = _GRADES.get(row.state, "bad") if row.is_model else ""
    return (
        f'<tr><td class="name"><span class="dot" style="background:{_COLOURS[number % len(_COLOURS)]}"></span>'
        f'{escape(row.model)}</td><td class="number">{format_size(row.bytes)}</td>'
        f'<td class="{grade}">{escape(row.state)}</td><td class="number wide">{row.files}</td>'
        f'<td class="wide">{escape(", ".join(row.tiers)) or "-"}</td><td class="number">{verified}</td></tr>'
    )
