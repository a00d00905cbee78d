"""What verify, list, remove, prune and adopt show to a person."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.care.inventory import Origin
from modelfetch.care.listing import bytes_of, oldest_check
from modelfetch.core.directories import own_folder
from modelfetch.core.units import format_count, format_duration, format_size
from modelfetch.placement.rewritten import rewriting_service
from modelfetch.render.text import day, known_size, stdout_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from modelfetch.care.adopt import Adopted, Adoption
    from modelfetch.care.dedupe import Deduped
    from modelfetch.care.inventory import Item
    from modelfetch.care.listing import Listing
    from modelfetch.care.overview import ModelUse
    from modelfetch.care.prune import Removed
    from modelfetch.care.verify import Verification
    from modelfetch.core.report import Report

_UNNAMED = {
    Origin.BLOB: "unused blobs",
    Origin.PARTIAL: "unfinished downloads",
    Origin.FOREIGN: "other files",
    Origin.MADE: "?",
    Origin.ADOPTED: "?",
}
_ORDER = ("damaged", "changed", "foreign", "missing", "failed", "rewritten")


def verify_text(report: Report, found: Verification, *, quick: bool, quiet: bool) -> str:
    """A row for each file with a problem, and a summary line."""
    odd = [f for f in found.findings if f.action in _ORDER and (f.is_bad or not quiet)]
    rows = [
        (
            finding.model,
            finding.consumer or "store",
            _action(finding.action, finding.path),
            known_size(finding.size),
            finding.path or finding.digest or finding.uri,
        )
        for finding in sorted(odd, key=lambda f: (_ORDER.index(f.action), f.model, f.path or ""))
    ]
    lines = [stdout_table(("MODEL", "FOR", "STATE", "SIZE", "PATH"), rows, right=(3,))] if rows else []
    if not quiet:
        lines.append(_verify_sum(report, found, quick=quick))
        if any(f.action == "missing" and f.item is None for f in found.findings):
            lines.append("run `modelfetch sync` with the same tier or manifest to place what was never placed")
    return "\n".join(lines)


def _verify_sum(report: Report, found: Verification, *, quick: bool) -> str:
    if not found.findings:
        return f"nothing to check in {report.root}"
    bad = Counter(finding.action for finding in found.findings if finding.is_bad)
    seconds = format_duration(report.seconds)
    looked = len(found.findings)
    if quick:
        head = f"{format_count(looked, 'file')} compared by size and time in {seconds}"
    else:
        head = (
            f"{format_count(looked, 'file')} hashed"
            if found.hashed == looked
            else f"{format_count(looked, 'file')}, {found.hashed} hashed"
        )
        head += f" ({format_size(found.bytes)}) in {seconds}"
    wrong = ", ".join(f"{bad[action]} {action}" for action in _ORDER if bad[action])
    return f"{head}: {wrong or 'no damage found'}"


def _action(action: str, path: str | None) -> str:
    service = rewriting_service(path) if action == "rewritten" and path else None
    return f"rewritten by {service}" if service else action


def list_table(listing: Listing, *, files: bool = False) -> str:
    """A row for each model and service (or each file), then what each service takes, and what could be freed."""
    if files:
        rows = [_row(item.path or str(item.file), item.consumer, [item]) for item in listing.entries]
    else:
        rows = [_row(items[0].model or _UNNAMED[items[0].origin], items[0].consumer, items) for items in listing.rows()]
    head = ("PATH" if files else "MODEL", "FOR", "ORIGIN", "PATHS", "SIZE", "VERIFIED", "TIERS")
    shown = rows[: listing.limit]
    lines = [stdout_table(head, shown, right=(3, 4))] if shown else []
    if len(shown) < len(rows):
        lines.append(f"{len(rows) - len(shown)} more left out by --limit")
    by_service: dict[str, list[Item]] = defaultdict(list)
    for item in listing.entries:
        by_service[item.place].append(item)
    each = ", ".join(
        f"{name} {format_size(bytes_of(items))}" + (f" in {listing.folders[name]}" if name in listing.folders else "")
        for name, items in sorted(by_service.items())
    )
    lines.append(f"{format_size(listing.bytes)} in {listing.root}" + (f": {each}" if each else ""))
    if listing.reclaimable:
        own_store = listing.store == str(own_folder(Path(listing.root)))
        words = ["modelfetch", "prune", "--root", listing.root, *([] if own_store else ["--store", listing.store])]
        lines.append(f"{format_size(listing.reclaimable)} can be freed: {shlex.join(words)}")
    return "\n".join(lines)


def _row(name: str, consumer: str | None, items: Sequence[Item]) -> tuple[str, ...]:
    origins = sorted({str(item.origin) for item in items})
    tiers = dict.fromkeys(tier for item in items for tier in item.tiers)
    return (
        name,
        consumer or "-",
        "+".join(origins),
        str(len(items)),
        format_size(bytes_of(items)),
        verified_text(items),
        ", ".join(tiers) or "-",
    )


def verified_text(items: Iterable[Item]) -> str:
    """The day of the oldest check among files that have a digest; ``damaged`` if one is."""
    known = [item for item in items if item.digest is not None]
    if any(item.is_damaged for item in known):
        return "damaged"
    if not known:
        return "-"
    return day(oldest_check(known))


def removal_text(found: Removed, *, quiet: bool = False) -> str:
    """A row for each model, what stayed and why, the bytes that are free, and what would bring removed models back."""
    groups: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in found.items:
        groups[item.model or _UNNAMED[item.origin], item.place].append(item)
    rows = [
        (name, consumer, str(len(items)), format_size(bytes_of(items))) for (name, consumer), items in groups.items()
    ]
    lines = [stdout_table(("MODEL", "FOR", "FILES", "SIZE"), rows, right=(2, 3))] if rows and not quiet else []
    reasons: dict[tuple[str, str, str], list[Item]] = defaultdict(list)
    for kept in found.plan.kept:
        reasons[kept.item.model or _UNNAMED[kept.item.origin], kept.item.place, kept.reason].append(kept.item)
    lines += [
        f"kept: {name} for {consumer}, {format_count(len(items), 'file')}: {reason}"
        for (name, consumer, reason), items in reasons.items()
    ]
    done = "would be freed" if found.dry_run else "freed"
    lines.append(f"{format_size(found.freed)} {done} in {found.inventory.root}" if rows else "nothing to remove")
    return "\n".join(lines)


def restore_hint(found: Removed) -> str:
    """Which manifests would place the removed models again."""
    tiers: dict[str, dict[str, None]] = defaultdict(dict)
    for item in found.items:
        for tier in item.tiers:
            tiers[tier][item.model or "?"] = None
    return "\n".join(
        f"{', '.join(models)}: still in {tier}, the next sync of it places {'it' if len(models) == 1 else 'them'} again"
        for tier, models in tiers.items()
    )


def use_text(use: ModelUse) -> str:
    """``2026-11-28``, ``never``, or ``2 damaged``."""
    return f"{use.damaged} damaged" if use.damaged else day(use.verified)


def adopt_text(found: Adopted, *, verbose: bool = False) -> str:
    """A row for each folder, what could not be shared, and how far the tiers are; ``verbose``: also each file."""
    rows = []
    files = [(one.result, format_size(one.candidate.size), one.how or "-", one.candidate.name) for one in found.files]
    for folder, kind in found.kinds:
        mine = [one for one in found.files if one.folder == folder]
        by_result = {result: [one for one in mine if one.result == result] for result in _RESULTS}
        rows.append((str(folder), kind, *(_files_and_size(by_result[result]) for result in _RESULTS)))
    lines = [stdout_table(("RESULT", "SIZE", "HOW", "FILE"), files, right=(1,)), ""] if verbose and files else []
    head = ("FOLDER", "KIND", "ADOPTED", "RECORDED", "KNOWN", "ELSEWHERE", "FAILED")
    lines.append(stdout_table(head, rows))
    elsewhere = [one for one in found.files if one.result == "elsewhere"]
    if any(one.how for one in elsewhere):
        lines.append(
            "ELSEWHERE: files of another user can't be hardlinked; nothing was copied. `--in-place` records them, or "
            "run this as their owner"
        )
    if any(one.how is None for one in elsewhere):
        lines.append(
            "ELSEWHERE: on a file system whose files the store can't share; nothing was copied. `--in-place` records "
            "them, `--store DIR` puts the store next to them"
        )
    lines += [f"tier {one.tier}: {one.complete} of {one.models} models on disk" for one in found.tiers if one.complete]
    return "\n".join(lines)


_RESULTS = ("adopted", "recorded", "present", "elsewhere", "failed")


def _files_and_size(files: Sequence[Adoption]) -> str:
    return f"{len(files)} ({format_size(sum(one.candidate.size for one in files))})" if files else "-"


def dedupe_text(found: Deduped) -> str:
    """A row for each duplicate, and the space that it frees."""
    rows = [(one.result, format_size(one.size), one.reason or "-", str(one.file)) for one in found.duplicates]
    lines = [stdout_table(("RESULT", "SIZE", "WHY NOT", "FILE"), rows, right=(1,))] if rows else []
    if found.applied:
        lines.append(f"{format_size(found.freed)} freed")
    else:
        lines.append(f"{format_size(found.freed)} would be freed; add --no-dry-run to link the files")
    return "\n".join(lines)
