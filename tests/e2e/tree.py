"""Look at files on disk."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def sha256(path: Path) -> str:
    """The digest of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, by its relative path, as the sha256 of its bytes; links are followed."""
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def store_blobs(root: Path) -> list[Path]:
    """The blobs of the store below a root."""
    blobs = sorted(path for path in (root / ".modelfetch" / "blobs" / "sha256").glob("??/*") if len(path.name) == 64)
    assert blobs, f"{root} has an empty store"
    return blobs


def assert_store_is_whole(root: Path) -> None:
    """Every blob of the store hashes to its own name."""
    wrong = {blob.name: digest for blob in store_blobs(root) if (digest := sha256(blob)) != blob.name}
    assert not wrong


def copy_tree(source: Path, target: Path) -> Path:
    """A copy with its links, modes and times, as a backup tool makes it."""
    subprocess.run([shutil.which("cp") or "cp", "-a", str(source), str(target)], check=True)
    return target
