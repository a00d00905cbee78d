"""What verify, list, remove, prune and adopt show to a person."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from modelfetch.core.units import format_seconds, format_size
from modelfetch.placement.rewritten import rewriting_service
from modelfetch.render.text import table

if TYPE_CHECKING:
    from modelfetch.care.verify import Verification
    from modelfetch.core.report import Report

_ORDER = ("damaged", "changed", "foreign", "missing", "failed", "rewritten")


def verify_text(report: Report, found: Verification, *, quick: bool, quiet: bool) -> str:
    """A row for each file that is not as it should be, and one line that sums it up."""
    odd = [f for f in found.findings if f.action != "present" and (f.is_bad or not quiet)]
    rows = [
        (
            finding.model,
            finding.consumer or "store",
            _action(finding.action, finding.path),
            "?" if finding.size is None else format_size(finding.size),
            finding.path or finding.digest or finding.uri,
        )
        for finding in sorted(odd, key=lambda f: (_ORDER.index(f.action), f.model, f.path or ""))
    ]
    lines = [table(("MODEL", "FOR", "STATE", "SIZE", "PATH"), rows, right=(3,))] if rows else []
    if not quiet:
        lines.append(_verify_sum(report, found, quick=quick))
    return "\n".join(lines)


def _verify_sum(report: Report, found: Verification, *, quick: bool) -> str:
    bad = Counter(finding.action for finding in found.findings if finding.is_bad)
    seconds = f"{report.seconds:.1f}s" if report.seconds < 60 else format_seconds(report.seconds)
    looked = len(found.findings)
    if quick:
        head = f"{count(looked, 'file')} compared by size and time in {seconds}"
    else:
        head = f"{count(looked, 'file')}, {count(found.hashed, 'file')} of them hashed"
        head += f" ({format_size(found.bytes)}) in {seconds}"
    wrong = ", ".join(f"{bad[action]} {action}" for action in _ORDER if bad[action])
    return f"{head}: {wrong or 'no damage found'}"


def _action(action: str, path: str | None) -> str:
    service = rewriting_service(path) if action == "rewritten" and path else None
    return f"rewritten by {service}" if service else action


def count(number: int, thing: str) -> str:
    """``1 file``, ``3 files``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
