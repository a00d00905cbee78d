"""Read and replace a manifest's file; a replacement may differ in its pins or new entries only."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelfetch.core import fs, os_errors, temp_files
from modelfetch.errors import DestinationError, ManifestError, SettingError
from modelfetch.manifest.load import load_bytes, unreadable
from modelfetch.manifest.model import Position
from modelfetch.manifest.yaml_nodes import MAX_BYTES
from modelfetch.pinning.append import append
from modelfetch.pinning.text_edits import rewrite
from modelfetch.tiers.discovery import tier_finder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from modelfetch.config.settings import Settings
    from modelfetch.manifest.model import Manifest, Model

_BOM = "\ufeff"
_NOWHERE = Position(file="", line=0, column=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A manifest and the bytes of its file."""

    path: Path
    data: bytes
    manifest: Manifest

    @property
    def models(self) -> tuple[Model, ...]:
        """The models of this file, without those of files that it extends."""
        return tuple(model for model in self.manifest.models if model.position.file == str(self.path))


def read_document(path: Path, settings: Settings) -> Document:
    """Read and validate a manifest's file.

    Raises:
        ManifestError: It can't be read or is invalid.
    """
    try:
        data = fs.read_head(path, MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    return Document(path=path, data=data, manifest=load_text(path, data, settings))


def load_text(path: Path, data: bytes, settings: Settings) -> Manifest:
    """Validate what a manifest's file would hold.

    Raises:
        ManifestError: It is invalid.
    """
    return load_bytes(
        data,
        file=str(path),
        folder=path.parent,
        allow_http=settings.allows_http,
        find_tier=tier_finder(settings),
    )


def check_writable(document: Document) -> None:
    """Check that the file can be replaced.

    Raises:
        DestinationError: It can't.
    """
    real = Path(os.path.realpath(document.path))
    if not real.is_file():
        raise DestinationError(f"{document.path} is not a regular file, so pins can't be written into it")
    if not (os.access(real, os.W_OK) and os.access(real.parent, os.W_OK | os.X_OK)):
        raise DestinationError(
            f"{document.path} can't be written", hint=f"file and folder must be writable for uid {os.geteuid()}"
        )


def with_pins(document: Document, models: Mapping[str, Model], settings: Settings) -> bytes:
    """Return the file's bytes with these models; nothing else may differ.

    Args:
        document: The file as it was read.
        models: By name, each as it should be.
        settings: For checking the result.

    Raises:
        SettingError: That can't be done in this text, or the result would be no valid manifest.
    """
    changes = [(old, models[old.name]) for old in document.models if old.name in models and models[old.name] != old]
    after = tuple(models.get(model.name, model) for model in document.manifest.models)
    return _changed(document, lambda text: rewrite(text, changes), after, settings, what="the pins")


def with_entries(document: Document, models: Sequence[Model], settings: Settings) -> bytes:
    """Return the file's bytes with more entries; nothing else may differ.

    Raises:
        SettingError: That can't be done in this text, or the result would be no valid manifest.
    """
    after = (*document.manifest.models, *models)
    return _changed(document, lambda text: append(text, models), after, settings, what="the entries")


def _changed(
    document: Document, change: Callable[[str], str], after: tuple[Model, ...], settings: Settings, *, what: str
) -> bytes:
    """Change the file's text and check that its models are then those of ``after`` and nothing else changed."""
    text = document.data.decode("utf-8")
    mark = _BOM if text.startswith(_BOM) else ""
    try:
        data = (mark + change(text.removeprefix(_BOM))).encode("utf-8")
        found = load_text(document.path, data, settings)
    except ManifestError as error:
        problems = "; ".join(problem.message for problem in error.problems[:3])
        hint = "the file is unchanged: correct the entry that this names, or write the new one by hand"
        raise _refused(document, what, f"it would be invalid with them: {problems}", hint) from None
    except ValueError as error:
        raise _refused(document, what, str(error)) from None
    if _meaning(found) != _meaning(replace(document.manifest, models=after)):
        raise _refused(document, what, f"more than {what} would change")
    return data


_ALIASES = "the file is unchanged: write these entries out in full, without aliases, and pin them together"


def _refused(document: Document, what: str, why: str, hint: str = _ALIASES) -> SettingError:
    return SettingError(f"{document.path}: {what} can't be written, {why}", code="invalid-manifest", hint=hint)


def _meaning(manifest: Manifest) -> Any:
    """Return a manifest without positions and hash, for comparison."""
    return replace(manifest, sha256="", models=tuple(replace(model, position=_NOWHERE) for model in manifest.models))


def write_document(document: Document, data: bytes) -> None:
    """Replace the file, at once: a link stays a link, mode and owner stay as they are.

    Raises:
        DestinationError: It can't be written, or it was changed since it was read.
        DiskError: The disk failed or is full.
    """
    real = Path(os.path.realpath(document.path))
    with os_errors.translated(document.path, doing="writing"):
        found = real.stat()
        if fs.read_head(real, MAX_BYTES + 1) != document.data:
            raise DestinationError(
                f"{document.path} was changed while its models were resolved, so it was not overwritten",
                hint="run it again",
            )
        owner = (found.st_uid, found.st_gid) if os.geteuid() == 0 else None
        temp_files.replace_document(real, data, before=document.data, mode=found.st_mode & 0o7777, owner=owner)
