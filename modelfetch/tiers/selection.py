"""Select the manifests of a command, from tiers, files and the environment, in the contract's order."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.core.events import Notice, Sink, discard
from modelfetch.core.similar import nearest
from modelfetch.core.units import format_size
from modelfetch.errors import ManifestError, Problem, SettingError, UsageError
from modelfetch.manifest.path_conflicts import claims_of, find_clashes
from modelfetch.tiers.discovery import find_tier, list_tiers, normalise_tier
from modelfetch.tiers.gpu import auto_tier
from modelfetch.tiers.loader import read_manifest
from modelfetch.tiers.overrides import apply_overrides

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from modelfetch.config.settings import Settings
    from modelfetch.manifest.model import Manifest


DEFAULT_MANIFEST = Path("models.yaml")
"""The default manifest if neither a tier nor a manifest is named."""

AUTO = "auto"
"""The tier name that selects a tier by GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The selected tier's name, if any, and the manifest files to read."""

    tier: str | None
    files: tuple[Path, ...]


def select_manifests(
    *,
    tier: str | None,
    manifests: Sequence[Path],
    settings: Settings,
    environ: Mapping[str, str],
    tier_variable: str | None = None,
    sink: Sink = discard,
) -> Selection:
    """Select the manifest files to read.

    Args:
        tier: The requested tier, from an argument or a variable, in any of the spellings that `normalise_tier` knows;
            ``auto`` selects by GPU.
        manifests: The requested manifest files; they take precedence over a tier from a variable.
        settings: Settings with the folders to search for tiers.
        environ: The environment, for ``GPU_VRAM_DEFAULT`` (used if nothing else is given) and for ``auto``.
        tier_variable: The variable that set ``tier``; None if the caller did.
        sink: Receives a notice of the tier that ``auto`` chose.

    Raises:
        UsageError: The caller's tier does not exist, or neither a tier nor a manifest was given.
        SettingError: A variable's tier does not exist; or ``auto`` found no GPU, or no tier that fits it.
    """
    if manifests:
        return Selection(tier=None, files=tuple(dict.fromkeys(manifests)))
    if tier is None and (default := environ.get("GPU_VRAM_DEFAULT", "").strip()):
        tier, tier_variable = default, "GPU_VRAM_DEFAULT"
    if tier is None and DEFAULT_MANIFEST.is_file():
        return Selection(tier=None, files=(DEFAULT_MANIFEST,))
    if tier is None:
        raise UsageError(
            "no tier and no manifest was named",
            hint="`modelfetch add LINK` starts ./models.yaml; or name a manifest FILE, or --tier NAME, one of: "
            f"{_names(settings)}",
        )
    wanted = _auto(settings, environ, sink) if normalise_tier(tier) == AUTO else tier
    if (path := find_tier(wanted, settings.tiers_dir)) is not None:
        return Selection(tier=path.stem, files=(path,))
    if tier_variable is None and (tier.endswith((".yaml", ".yml")) or "/" in tier):
        hint = f"a file is named by --manifest: modelfetch COMMAND --manifest {shlex.quote(tier)}"
        raise UsageError(f"there is no tier {tier[:80]!r}", code="unknown-tier", hint=hint)
    near = nearest(tier, [name for name, _ in list_tiers(settings.tiers_dir)])
    hint = f"did you mean {near}? " if near else ""
    hint += f"known tiers: {_names(settings)}; or auto, which reads the GPU"
    if tier_variable is not None:
        raise SettingError(f"{tier_variable}={tier[:80]}: there is no such tier", code="unknown-tier", hint=hint)
    raise UsageError(f"there is no tier {tier[:80]!r}", code="unknown-tier", hint=hint)


def load_selected(
    choice: Selection, *, settings: Settings, environ: Mapping[str, str], sink: Sink = discard
) -> tuple[Manifest, ...]:
    """Load the selected manifests and apply the stack's variables.

    Raises:
        ManifestError: A file is invalid (with all problems of all files); or two files, or a variable's model
            and another model, need the same path.
        SettingError: A variable has a value that can't be used.
    """
    found: list[Manifest] = []
    problems: list[Problem] = []
    hints: set[str | None] = set()
    for file in choice.files:
        try:
            found.append(read_manifest(file, settings))
        except ManifestError as error:
            problems.extend(error.problems)
            tier = None if os.path.lexists(file) else find_tier(str(file), settings.tiers_dir)
            hints.add(f"for a tier, write: modelfetch COMMAND --tier {tier.stem}" if tier else error.hint)
    if problems:
        raise ManifestError(problems, hint=hints.pop() if len(hints) == 1 else None)
    whole = tuple(
        apply_overrides(
            manifest if choice.tier is None else replace(manifest, tier=choice.tier),  # not that of an extended tier
            environ,
            allow_http=settings.allows_http,
            other_tiers=lambda: (other for _, other in all_tiers(settings)),
            sink=sink,
        )
        for manifest in found
    )
    if clashes := find_clashes(claim for manifest in whole for claim in claims_of(manifest)):
        raise ManifestError(clashes)
    return whole


def all_tiers(settings: Settings) -> Iterator[tuple[str, Manifest]]:
    """The tiers that can be read, by name; invalid tiers are skipped, since they do not affect this run."""
    for name, path in list_tiers(settings.tiers_dir):
        try:
            found = read_manifest(path, settings)
        except ManifestError:
            continue
        yield name, replace(found, tier=name)


def _auto(settings: Settings, environ: Mapping[str, str], sink: Sink) -> str:
    chosen = auto_tier(all_tiers(settings), environ)
    sink(Notice(level="info", message=f"{chosen.gpu}, {format_size(chosen.usable)} usable: tier {chosen.tier}"))
    return chosen.tier


def _names(settings: Settings) -> str:
    return ", ".join(name for name, _ in list_tiers(settings.tiers_dir)) or "none found"
