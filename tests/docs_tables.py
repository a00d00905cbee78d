"""The tables of the documentation that are computed: what each tier has and needs, and how near measurements are.

`make docs-tables` writes them into the pages; a test checks that they are current. They come from headers with the
real shapes and sizes (tests/fitting/catalog.py) and from published measurements (tests/bench/fit.py), without network.
"""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.core.units import format_size
from modelfetch.manifest.budget import together
from modelfetch.render.fit import render_table
from tests.bench import fit as measurements
from tests.fitting.catalog import TIERS, report
from tests.fitting.world import shipped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from modelfetch.fitting.types import Estimate, ServiceFit
    from modelfetch.manifest.model import Manifest, Service

PAGES = Path(__file__).parent.parent / "docs" / "reference"
_BLOCK = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
_IMAGES = ("comfyui", "stable-diffusion")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    rule = ["---:" if column in right else "---" for column in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows)) + "\n"


def _gib(size: int | None) -> str:
    return "" if not size else f"{size / 2**30:.2f}"


# ── tiers ──
def _short(size: int | None) -> str:
    return f"{(size or 0) / 2**30:.2f}".rstrip("0").rstrip(".")


def _service(manifest: Manifest, *names: str) -> Service | None:
    return next((service for service in manifest.services if service.name in names), None)


def _chat(manifest: Manifest) -> str:
    ollama = _service(manifest, "ollama")
    assert ollama is not None
    return f"`{ollama.model}`, {ollama.context} tokens"


def _images(manifest: Manifest) -> str:
    service = _service(manifest, *_IMAGES)
    assert service is not None
    names = [s.name for s in manifest.services if s.name in _IMAGES]
    size = (service.resolution or "").replace("x", " x ")
    return f"`{service.model}`, {size}" + (", ComfyUI only" if names == ["comfyui"] else "")


def _speech(manifest: Manifest) -> str:
    whisper = _service(manifest, "whisper")
    assert whisper is not None
    return f"Whisper {whisper.model}, {whisper.compute_type}" + (" on the CPU" if whisper.device == "cpu" else "")


def _budgets(manifest: Manifest) -> str:
    seen: dict[str, int] = {}
    for service in manifest.services:
        if service.vram:
            seen["images" if service.name in _IMAGES else service.name] = service.vram
    return ", ".join(f"{name} {_short(size)}" for name, size in seen.items())


def tiers() -> str:
    """One row for each tier: its models and its budgets."""
    head = ("tier", "chat", "images", "speech", "VRAM budgets in GiB", "together / usable")
    rows = []
    for name in TIERS:
        manifest = shipped(name)
        total = f"{_short(together(manifest.services))} / {_short(manifest.usable)}"
        columns = (_chat(manifest), _images(manifest), _speech(manifest), _budgets(manifest), total)
        rows.append((f"`{name}`", *columns))
    return _table(head, rows)


_CALLED = {"header": "header", "size": "file size", "table": "table"}


def _model_row(fit: ServiceFit, model: Estimate) -> tuple[str, ...]:
    parts = (model.weights, model.kv, model.compute, model.overhead, model.margin)
    return ("", model.name, *map(_gib, parts), "", "", _CALLED[model.method])


def needs() -> str:
    """A table for each tier: what `modelfetch fit` computes for each service and model."""
    head = ("service", "model", "weights", "cache", "compute", "driver", "free", "needs", "budget", "from")
    parts = []
    for name in TIERS:
        found = report(name)
        rows: list[tuple[str, ...]] = []
        for fit in found.services:
            taken = ("CPU", "") if fit.on_cpu else (_gib(fit.needed), _gib(fit.budget))
            turn = " (in turn)" if fit.exclusive else ""
            rows.append((f"**{fit.service}**{turn}", "", "", "", "", "", "", *taken, ""))
            rows += [_model_row(fit, model) for model in fit.models]
        rows.append(("**together**", "", "", "", "", "", "", _gib(found.needed), _gib(found.usable), ""))
        parts.append(f"### `{name}` in numbers\n\n" + _table(head, rows, right=range(2, 9)))
    return "\n".join(parts)


def sizes() -> str:
    """What each tier takes on disk."""
    rows = []
    for name in TIERS:
        manifest = shipped(name)
        known = {
            file.digest: file.size
            for model in manifest.models
            for file in (model.files if model.files is not None else (model,))
            if file.digest is not None
        }
        rows.append((f"`{name}`", format_size(sum(size or 0 for size in known.values()))))
    return _table(("tier", "on disk"), rows, right=(1,))


# ── fit ──
def example() -> str:
    """What `modelfetch fit --tier 8g` prints."""
    return f"```text\n{render_table(report('8g'), width=110)}```\n"


def _percent(line: measurements.Line) -> str:
    return "" if line.error is None else f"{line.error:+.0%}"


def measured() -> str:
    """The measured totals and the estimates, and the median error."""
    found = [line for line in measurements.lines() if line.row["kind"] in measurements.MEASURED and line.error]
    median = statistics.median(abs(line.error or 0) for line in found)
    text = f"{len(found)} measured totals; the median error is {median:.1%}.\n\n"
    return text + _beside_ours(found, "gpu", "card", "measured, MiB")


def others() -> str:
    """Figures of other kinds and the estimates: estimates of schedulers, vendors' tables, users' reports."""
    found = [line for line in measurements.lines() if line.row["kind"] not in measurements.MEASURED and line.error]
    return _beside_ours(found, "kind", "kind", "theirs, MiB")


def _beside_ours(lines: Sequence[measurements.Line], column: str, title: str, figure: str) -> str:
    """A table of published figures and the estimates; ``column`` of the measurements is shown under ``title``."""
    head = ("model", "settings", title, figure, "ours, MiB", "off", "why")
    rows = [
        (
            f"{line.row['model']} {line.row['quant_or_dtype']}",
            line.row["settings"],
            line.row[column],
            f"{line.theirs / 2**20:.0f}",
            f"{(line.ours or 0) / 2**20:.0f}",
            _percent(line),
            line.reason or "",
        )
        for line in lines
    ]
    return _table(head, rows, right=(3, 4, 5))


TABLES: dict[str, Callable[[], str]] = {
    "tiers": tiers,
    "needs": needs,
    "sizes": sizes,
    "example": example,
    "measured": measured,
    "others": others,
}


def pages() -> list[Path]:
    """The pages that have tables of `TABLES`."""
    return sorted(page for page in PAGES.glob("*.md") if _BLOCK.search(page.read_text()))


def renewed(text: str) -> str:
    """A page with its tables computed again."""
    return _BLOCK.sub(lambda match: f"{match[1]}\n{TABLES[match[2]]()}\n{match[3]}", text)


def main() -> None:
    for page in pages():
        page.write_text(renewed(page.read_text()))


if __name__ == "__main__":
    main()
