"""The page that a benchmark run writes: a table and a plot for each race, and each target with the result."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.core.units import format_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.measure import Result
    from tests.bench.scale import Growth


@dataclass(frozen=True, kw_only=True)
class Table:
    """One race: its results, and the one that the others are compared with."""

    title: str
    note: str
    results: Mapping[str, Result]
    base: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Target:
    """A target: at least, or at most, ``wanted``."""

    what: str
    found: float | None
    wanted: float
    least: bool = True

    @property
    def met(self) -> bool | None:
        """Whether it was met; None if it could not be measured."""
        if self.found is None:
            return None
        return self.found >= self.wanted if self.least else self.found <= self.wanted


def page(
    tables: Sequence[Table],
    targets: Sequence[Target],
    missing: Mapping[str, str],
    words: Sequence[str],
    growth: Sequence[Growth] = (),
) -> str:
    """The page as Markdown."""
    lines = ["# Benchmarks", ""]
    lines += ["`make bench` writes this page: real programs side by side on one machine, in turns, each from an empty"]
    lines += [
        "target and a disk with nothing left to write. Whole processes, from start to exit; the median of the runs."
    ]
    lines += ["Every result is checked after the clock has stopped. Speeds are ratios: 2.00 is twice as fast.", ""]
    lines += [f"Machine: {machine()}.", ""]
    lines += [f"- {word}" for word in words]
    lines += [f"- **Missing: {name}.** {why}" for name, why in missing.items()] or ["- No peer was missing."]
    lines += ["", "![Speed of each program, the base of each race being 1](benchmarks.svg)", ""]
    lines += ["## What was promised", "", "| promise | wanted | found | kept |", "| --- | --- | --- | --- |"]
    lines += [_target_row(target) for target in targets]
    for table in tables:
        lines += ["", f"## {table.title}", "", table.note, ""]
        lines += ["| program | wall s | speed | CPU s | peak memory | slowest / fastest |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        base = table.results[table.base].wall if table.base in table.results else None
        for result in sorted(table.results.values(), key=lambda r: r.wall):
            speed = f"{base / result.wall:.2f}" if base else "-"
            row = (result.name, f"{result.wall:.2f}", speed, f"{result.cpu:.2f}", format_size(result.peak))
            lines.append("| " + " | ".join((*row, f"{result.spread:.2f}")) + " |")
    if growth:
        lines += [
            "",
            "## n, 2n and 4n",
            "",
            "CPU seconds of the fastest run, and the highest peak memory, against the embedded hub on the same cores.",
            "The root is in memory.",
            "",
        ]
        lines += ["| of | step | n | 2n | 4n | largest factor |", "| --- | --- | --- | --- | --- | --- |"]
        lines += [_growth_row(one) for one in growth]
    return "\n".join(lines) + "\n"


def _growth_row(growth: Growth) -> str:
    cells = [
        f"{count}: {seconds:.2f} s, {format_size(peak)}"
        for count, seconds, peak in zip(growth.counts, growth.seconds, growth.peaks, strict=True)
    ]
    return "| " + " | ".join((growth.what, growth.step, *cells, f"{growth.worst:.2f}")) + " |"


def _target_row(target: Target) -> str:
    sign = "≥" if target.least else "≤"
    found = "not measured" if target.found is None else f"{target.found:.2f}"
    kept = {True: "yes", False: "**no**", None: "-"}[target.met]
    return f"| {target.what} | {sign} {target.wanted:g} | {found} | {kept} |"


def machine() -> str:
    """What it ran on, in one line."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    python, kernel = platform.python_version(), platform.release().partition("-")[0]
    return f"{model}, {os.cpu_count()} cores, {format_size(memory)}, Linux {kernel}, Python {python}"


_WIDTH, _LEFT, _ROW = 860, 300, 22


def plot(tables: Sequence[Table]) -> str:
    """All races as bars, in SVG."""
    parts: list[str] = []
    y = 10
    for table in tables:
        base = table.results.get(table.base)
        if base is None:
            continue
        y += 24
        parts.append(f'<text x="10" y="{y}" font-weight="bold">{escape(table.title)}</text>')
        y += 8
        speeds = {name: base.wall / result.wall for name, result in table.results.items()}
        scale = (_WIDTH - _LEFT - 70) / max(speeds.values())
        for name, speed in sorted(speeds.items(), key=lambda pair: -pair[1]):
            colour = "#2563eb" if name.startswith("modelfetch") else "#9ca3af"
            parts.append(f'<text x="{_LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>')
            parts.append(f'<rect x="{_LEFT}" y="{y + 3}" width="{speed * scale:.0f}" height="15" fill="{colour}"/>')
            parts.append(f'<text x="{_LEFT + speed * scale + 6:.0f}" y="{y + 15}">{speed:.2f}</text>')
            y += _ROW
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y + 16}" font-family="sans-serif"'
    return (
        "\n".join([f'{head} font-size="13">', '<rect width="100%" height="100%" fill="#ffffff"/>', *parts, "</svg>"])
        + "\n"
    )
