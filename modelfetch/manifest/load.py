"""Load a manifest: parse and validate it, and report all of its problems at once.

A manifest may extend another (a tier by name, or a file by a relative path), which may extend a third. Each file is
checked by itself and its problems name it; budgets and conflicting paths are those of the whole.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from modelfetch.core import fs
from modelfetch.core.limits import raise_limit
from modelfetch.core.similar import nearest
from modelfetch.core.urls import is_loopback
from modelfetch.errors import ManifestError, Problem
from modelfetch.manifest import build, yaml_nodes
from modelfetch.manifest.field_types import Reader
from modelfetch.manifest.merge import Part, merge
from modelfetch.manifest.path_conflicts import claims_of, find_clashes
from modelfetch.manifest.schema import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike

    from modelfetch.manifest.composite_types import Values
    from modelfetch.manifest.model import Manifest, Position

    AllowHttp = Callable[[str, int], bool]

MAX_CHAIN = 8
"""Maximum number of files in a chain of ``extends``."""

TEXT = "<text>"
"""The file name of a manifest that was given as text."""


class FindTier(Protocol):
    """Finds the file of a tier that is extended by name, as `modelfetch.tiers.discovery.find_tier` does."""

    def __call__(self, name: str, *, behind: Path | None) -> Path | None:
        """Return the file, None if there is none; ``behind`` is the file that extends it, None for a text."""


def no_tiers(name: str, *, behind: Path | None) -> Path | None:
    """Find no tier: a manifest read this way can only extend files, by a relative path."""
    return None


def load_manifest(
    path_or_text: str | PathLike[str],
    *,
    allow_http: AllowHttp = is_loopback,
    find_tier: FindTier = no_tiers,
) -> Manifest:
    """Read and validate a manifest.

    Args:
        path_or_text: A file's path; a ``str`` that holds a newline or ``": "`` is the manifest's text itself.
        allow_http: Whether plain http is allowed for a (host, port).
        find_tier: Finds the file of a tier that is extended by name (default: none is found).

    Raises:
        ManifestError: It can't be read or is invalid; ``problems`` holds every problem.
    """
    if isinstance(path_or_text, str) and ("\n" in path_or_text or ": " in path_or_text):
        data, file, folder = path_or_text.encode("utf-8", "surrogatepass"), TEXT, Path()
    else:
        path = Path(path_or_text)
        file, folder = str(path), path.parent
        try:
            data = _read(path)
        except (OSError, ValueError) as error:
            raise unreadable(path, error) from None
    return load_bytes(data, file=file, folder=folder, allow_http=allow_http, find_tier=find_tier)


def load_bytes(
    data: bytes,
    *,
    file: str,
    folder: Path | None = None,
    allow_http: AllowHttp = is_loopback,
    find_tier: FindTier = no_tiers,
) -> Manifest:
    """Validate a manifest's bytes.

    Args:
        data: The bytes, UTF-8.
        file: The name for it in problems.
        folder: The folder for a relative ``extends`` (default: that of ``file``).
        allow_http: As for `load_manifest`.
        find_tier: As for `load_manifest`.

    Raises:
        ManifestError: As `load_manifest` does.
    """
    reader = Reader(allow_http=allow_http)
    chain = _Chain(reader=reader, find_tier=find_tier)
    chain.follow(data, file, folder if folder is not None else Path(file).parent)
    files = tuple(chain.files)
    manifest = merge(tuple(chain.parts), reader, sha256=sha256_of(chain.contents), files=files, complete=chain.complete)
    sound = tuple(model for model in manifest.models if model.position not in reader.unsound)
    reader.problems.extend(find_clashes(claims_of(replace(manifest, models=sound))))
    if reader.problems:
        raise ManifestError(tuple(dict.fromkeys(reader.problems)))
    return manifest


def sha256_of(contents: Sequence[bytes]) -> str:
    """Return a manifest's ``sha256``: that of its bytes.

    If it extends others: that of the concatenated sha256 digests of all files, itself first.
    """
    hashes = [hashlib.sha256(data) for data in contents]
    if len(hashes) == 1:
        return hashes[0].hexdigest()
    return hashlib.sha256(b"".join(one.digest() for one in hashes)).hexdigest()


def _read(path: Path) -> bytes:
    return fs.read_head(path, yaml_nodes.MAX_BYTES + 1)


def unreadable(path: Path, error: OSError | ValueError) -> ManifestError:
    """Return the error for a manifest's file that can't be read. Raises as `read_failure` does."""
    hint = "check its path, and that it may be read"
    if isinstance(error, IsADirectoryError):
        hint = f"name a file in it, such as {path / 'models.yaml'}"
    elif isinstance(error, FileNotFoundError) and (near := _similar_file(path)) is not None:
        hint = f"did you mean {near}?"
    elif not path.is_absolute():
        try:
            hint = f"paths start from {Path.cwd()}"
        except OSError:
            hint = "the current folder was deleted: change to another one, or name the file with its whole path"
    return ManifestError([Problem(str(path), 0, 0, read_failure(error))], hint=hint)


def _similar_file(path: Path) -> Path | None:
    """The manifest in the same folder whose name is most similar; None if there is none."""
    try:
        files = {file.stem: file for file in path.parent.iterdir() if file.suffix in (".yaml", ".yml")}
    except OSError:
        return None
    near = nearest(path.stem, files)
    return None if near is None else files[near]


def read_failure(error: OSError | ValueError) -> str:
    """Return why a manifest can't be read, for a message.

    Raises:
        RetryLaterError: A limit of the system is the reason.
    """
    raise_limit(error)
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "is a directory"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


@dataclass(slots=True, kw_only=True)
class _Chain:
    """The files of a manifest and of all that it extends, itself first."""

    reader: Reader
    find_tier: FindTier
    parts: list[Part] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    complete: bool = False

    def follow(self, data: bytes, file: str, folder: Path) -> None:
        """Read a file, then the one it extends, and so on."""
        seen = {} if file == TEXT else {_identity(Path(file)): file}
        while True:
            self.files.append(file)
            self.contents.append(data)
            part = _parse_file(data, file, self.reader)
            if part is None:
                return
            self.parts.append(part)
            if part.extends is None:
                self.complete = "extends" not in part.values.keys
                return
            following = self._extended_file(part.extends, part.values.at("extends"), folder, seen)
            if following is None:
                return
            path, data = following
            file, folder = str(path), path.parent

    def _extended_file(self, name: str, at: Position, folder: Path, seen: dict[Any, str]) -> tuple[Path, bytes] | None:
        """Return the extended file and its bytes; None after noting a problem."""
        path = self._find_extended(name, folder, at)
        if path is None:
            return None
        if (identity := _identity(path)) in seen:
            chain = " → ".join((*list(seen.values())[list(seen).index(identity) :], str(path)))
            self.reader.problem(at, f"circular `extends`: {chain}")
            return None
        seen[identity] = str(path)
        if len(self.files) >= MAX_CHAIN:
            self.reader.problem(at, f"extends: expected at most {MAX_CHAIN} files that extend each other, found more")
            return None
        try:
            return path, _read(path)
        except (OSError, ValueError) as error:
            self.reader.problem(at, f"extends: {path}: {read_failure(error)}")
            return None

    def _find_extended(self, name: str, folder: Path, where: Position) -> Path | None:
        if "/" in name or name.endswith((".yaml", ".yml")):
            if not name.startswith("/"):
                return folder / name
            self.reader.problem(
                where, f"extends: expected a tier's name or a relative path, found the absolute {name!r}"
            )
            return None
        behind = None if self.files[-1] == TEXT else Path(self.files[-1])
        path = self.find_tier(name, behind=behind)
        if path is None:
            found = f"the unknown {name!r}"
            if self.find_tier(name, behind=None) is not None:
                found = f"{name!r}, of which this file is the last"
            self.reader.problem(
                where, f"extends: expected a tier's name or a relative path (./{name}.yaml), found {found}"
            )
        return path


def _identity(path: Path) -> Any:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return str(path)
    return fs.inode_of(found)


def _parse_file(data: bytes, file: str, reader: Reader) -> Part | None:
    """Parse one file; None if it could not be read at all."""
    root, problems = yaml_nodes.parse(data, file)
    reader.problems.extend(problems)
    if root is None:
        return None
    values: Values = MANIFEST.read(root, "", reader)
    return build.part(values, file, reader)
