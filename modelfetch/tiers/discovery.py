"""Find tiers by name, and normalise tier names."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.core.limits import raise_limit
from modelfetch.manifest.schema import NAME_PATTERN

if TYPE_CHECKING:
    from modelfetch.config.settings import Settings
    from modelfetch.manifest.load import FindTier

_NAME = re.compile(NAME_PATTERN)
_GIB = re.compile(r"([1-9][0-9]{0,3}) ?(?:g|gb|gib)?\Z", re.IGNORECASE | re.ASCII)


def is_tier_name(name: str) -> bool:
    """Whether a name is a valid tier name: letters, digits, dots, ``_`` and ``-``, and no path to another folder."""
    return bool(_NAME.fullmatch(name))


def normalise_tier(text: str) -> str:
    """Normalise the name of a tier: ``16``, ``16G``, ``16GB``, ``16 GB`` and ``16GiB`` become ``16g``.

    ``auto`` is not case-sensitive. Any other text is only stripped of white space.
    """
    text = text.strip()
    match = _GIB.match(text)
    if match:
        return f"{match[1]}g"
    return text.lower() if text.lower() == "auto" else text


def shipped_dir() -> Path | None:
    """The folder of the shipped tiers: inside an installed package, otherwise in the checkout."""
    package = Path(__file__).resolve().parent.parent
    if (inside := package / "_tiers").is_dir():
        return inside
    checkout = package.parent
    return checkout / "manifests" if (checkout / "pyproject.toml").is_file() else None


def tier_dirs(tiers_dir: Path | None = None) -> tuple[Path, ...]:
    """The folders to search for tiers, in order: ``tiers_dir``, ``./manifests``, the shipped tiers."""
    dirs = (tiers_dir, Path("manifests"), shipped_dir())
    return tuple(folder for folder in dirs if folder is not None)


def tier_finder(settings: Settings) -> FindTier:
    """Return the function that finds the tiers which a manifest extends, under the given settings."""
    return partial(find_tier, tiers_dir=settings.tiers_dir)


def find_tier(name: str, tiers_dir: Path | None = None, *, behind: Path | None = None) -> Path | None:
    """Find the file of a tier: ``NAME.yaml`` in the first of `tier_dirs` that has it.

    Args:
        name: The tier's name, as written or as `normalise_tier` writes it (a tier of one's own may be named ``16``, or
            ``16GB``); a name that could lead to another folder is never found.
        tiers_dir: ``$MODELFETCH_TIERS_DIR``, if it is set.
        behind: The file that refers to this tier. If it has the same name and is in one of the folders, it hides the
            tier that it refers to, so the next one after it is returned.
    """
    spellings = (_find(one, tiers_dir, behind) for one in dict.fromkeys((name, normalise_tier(name))))
    return next((path for path in spellings if path is not None), None)


def _find(name: str, tiers_dir: Path | None, behind: Path | None) -> Path | None:
    if not is_tier_name(name):
        return None
    files = [file for folder in tier_dirs(tiers_dir) if _is_file(file := folder / f"{name}.yaml")]
    if behind is not None and behind.name == f"{name}.yaml":
        same = [is_same_file(file, behind) for file in files]
        after = same.index(True) if True in same else 0
        files = [file for file, itself in zip(files[after:], same[after:], strict=True) if not itself]
    return files[0] if files else None


def list_tiers(tiers_dir: Path | None = None) -> tuple[tuple[str, Path], ...]:
    """All tiers and their files, each name once (as `find_tier` finds it), by number and then by name."""
    found: dict[str, Path] = {}
    for folder in tier_dirs(tiers_dir):
        try:
            files = sorted(folder.glob("*.yaml"))
        except (OSError, ValueError) as error:
            raise_limit(error)
            continue
        for file in files:
            if is_tier_name(file.stem) and _is_file(file):
                found.setdefault(file.stem, file)
    return tuple(sorted(found.items(), key=lambda item: _order(item[0])))


def _is_file(path: Path) -> bool:
    """Whether a file exists; False if its folder can't be accessed."""
    try:
        return path.is_file()
    except (OSError, ValueError) as error:
        raise_limit(error)
        return False


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same file."""
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


def _order(name: str) -> tuple[int, str]:
    match = re.match(r"[0-9]{1,9}", name)
    return (int(match[0]) if match else 10**9, name)
