"""``modelfetch env``: generate the block of a tier, and replace it in a ``.env`` atomically."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.config.settings import Settings
from modelfetch.core import directories, fs, os_errors, temp_files
from modelfetch.errors import DestinationError, SettingError
from modelfetch.tiers.discovery import find_tier, is_same_file, is_tier_name, normalise_tier
from modelfetch.tiers.dotenv.cards import card_values
from modelfetch.tiers.dotenv.render import TierText, render_block
from modelfetch.tiers.dotenv.update import BlockError, update_block
from modelfetch.tiers.dotenv.values import shares, tier_values, unsupported_embedder
from modelfetch.tiers.selection import all_tiers, load_selected, select_manifests

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from modelfetch.manifest.model import Manifest

_MAX_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The block of a tier, and the other tiers shown in it; ``misplaced``: why the stack does not find the tier."""

    tier: TierText
    others: tuple[TierText, ...]
    misplaced: str | None = None

    @property
    def text(self) -> str:
        """The block as `modelfetch env` prints it."""
        return render_block(self.tier, self.others)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about values that the stack or a service can't use."""
        return tuple(problem for problem in (self.misplaced, unsupported_embedder(self.tier.values)) if problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """The result of a rewrite (see `modelfetch.tiers.dotenv.update.Updated`); ``written``: the file was changed."""

    written: bool
    changed: tuple[tuple[str, str, str], ...] = ()
    twice: tuple[tuple[str, int], ...] = ()


def env_block(
    tier: str | None,
    environ: Mapping[str, str],
    *,
    tier_variable: str | None = None,
    manifests: Sequence[Path] = (),
    compute: tuple[int, int] | None = None,
) -> Block:
    """Build the block for a tier or a custom manifest, with all other tiers as examples.

    Args:
        tier: The tier's name; None for the one of ``GPU_VRAM_DEFAULT``.
        environ: The environment, for settings; its model variables have no effect here.
        tier_variable: The variable that set the tier.
        manifests: One manifest file instead of a tier.
        compute: The CUDA compute capability of the card, which some images depend on; None if there is none.

    Raises:
        UsageError, SettingError, ManifestError: The tier does not exist, or is invalid.
    """
    settings = Settings.from_env(environ)
    choice = select_manifests(
        tier=tier, manifests=manifests, settings=settings, environ=environ, tier_variable=tier_variable
    )
    if len(choice.files) != 1:
        raise SettingError("a .env is for one tier, and several manifests were named")
    (manifest,) = load_selected(choice, settings=settings, environ={})
    name, misplaced = (choice.tier, None) if choice.tier else _tier_of(choice.files[0], manifest, settings)
    others = (_text(other, found) for other, found in all_tiers(settings) if found.services and other != "demo")
    text = replace(_text(name, manifest), card=card_values(compute))
    return Block(tier=text, others=tuple(other for other in others if other.name != name), misplaced=misplaced)


def _tier_of(file: Path, manifest: Manifest, settings: Settings) -> tuple[str, str | None]:
    """The tier's name for ``GPU_VRAM_DEFAULT``, and a warning if that name does not lead to this file."""
    names = [name for name in (file.stem, manifest.tier) if name and is_tier_name(name)]
    for name in names:
        found = find_tier(name, settings.tiers_dir)
        if found is not None and normalise_tier(name) == name and is_same_file(found, file):
            return name, None
    name = names[-1] if names else "custom"
    place = (settings.tiers_dir or Path("manifests")) / f"{name}.yaml"
    return (
        name,
        f"GPU_VRAM_DEFAULT={name} is not {file}: the stack looks for that tier in {place}, so copy the file there",
    )


def _text(name: str, manifest: Manifest) -> TierText:
    values = tier_values(manifest, tier=name)
    return TierText(name=name, values=values, description=manifest.description or "", shares=shares(manifest))


def rewrite(file: Path, block: Block) -> Rewritten:
    """Replace the block in a file; a missing file is created.

    The new content is written to a temporary file and renamed, so the file is always complete. Mode and owner are kept,
    and a symlink remains a symlink.

    Raises:
        SettingError: The markers of the old block are ambiguous; the file is unchanged.
        DestinationError, DiskError: The file can't be written.
    """
    target = Path(os.path.realpath(file))
    try:
        directories.require_parent(target if file.is_symlink() else file)
        found = target.stat() if target.exists() else None
        if found is not None and not stat.S_ISREG(found.st_mode):
            raise DestinationError(f"{file} is not a file", code="foreign-file", hint="name the .env file")
        if found is not None and found.st_size > _MAX_BYTES:
            raise DestinationError(
                f"{file} is larger than 1 MiB, which no .env is", code="foreign-file", hint="name the .env file"
            )
        old = fs.read_head(target, _MAX_BYTES) if found is not None else None
        new = update_block(old or b"", block.tier, block.others)
        if found is not None and new.data == old:
            return Rewritten(written=False, twice=new.twice)
        _replace(target, new.data, old, found)
    except BlockError as error:
        raise SettingError(
            f"{file}: {error}", hint="remove the superfluous lines, or the whole block: it is written again"
        ) from None
    except OSError as error:
        raise os_errors.translate(error, file, doing="rewriting") from error
    return Rewritten(written=True, changed=new.changed, twice=new.twice)


def _replace(target: Path, data: bytes, old: bytes | None, found: os.stat_result | None) -> None:
    mode = stat.S_IMODE(found.st_mode) if found else fs.mode_of_new_file()
    other = found is not None and os.geteuid() == 0 and (found.st_uid, found.st_gid) != (0, os.getegid())
    owner = (found.st_uid, found.st_gid) if found is not None and other else None
    try:
        temp_files.replace_document(target, data, before=old, mode=mode, owner=owner)
    except OSError as error:
        error.filename = str(target.parent)  # the name of the temporary file would mean nothing to the user
        raise
