"""Unpack zip archives: store their files as blobs, and ensure that no name leads outside the target folder.

Each file is checked like any other download: a pickle that the manifest neither pins nor allows is refused inside a zip
too. Unpacked files are always copied, since NLTK (from 3.10.3) refuses files with more than one hard link.
"""

from __future__ import annotations

import os
import stat
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING

from modelfetch.errors import IntegrityError
from modelfetch.formats.archives import (
    BROKEN_ARCHIVE,
    MAX_MEMBERS,
    ZIP_METHODS,
    has_large_directory,
    read_member,
    reraise_disk_error,
)
from modelfetch.formats.content_check import check_artifact
from modelfetch.formats.pickles import find_pickle, pickle_error
from modelfetch.manifest.paths import check_relative
from modelfetch.placement.layouts import PlacementMethod
from modelfetch.placement.placer import PlacementJob
from modelfetch.store.ingest import add_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from modelfetch.core.artifact import Artifact
    from modelfetch.placement.layouts import Placement
    from modelfetch.store import Blob, Store

MAX_BYTES = 64 * 2**30
_UNSAFE_HINT = "nothing was unpacked; report it to its publisher, or use another version"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file in an archive: its path below the target folder, its size in bytes, and its entry."""

    path: str
    size: int
    info: zipfile.ZipInfo


def unpack(store: Store, archive: Blob, placement: Placement) -> tuple[PlacementJob, ...]:
    """Put an archive's files into the store; returns the jobs that place them below ``placement.path``.

    Raises:
        IntegrityError: ``unsafe-archive``, see `list_members` and `copy_member`; nothing is placed then.
        NotAModelError: A file's content does not match its name, or it is a pickle that the manifest does not allow.
        OSError: The disk failed or is full.
    """
    with open_archive(archive.path) as opened:
        return tuple(_job(store, archive, opened, placement, member) for member in list_members(archive.path, opened))


def unpacked_size(archive: Blob) -> int:
    """Return the bytes of all files in an archive; raises as `list_members` and `open_archive`."""
    with open_archive(archive.path) as opened:
        return sum(member.size for member in list_members(archive.path, opened))


def _job(store: Store, archive: Blob, opened: zipfile.ZipFile, placement: Placement, member: Member) -> PlacementJob:
    """The job of one file of an archive; it has its own size and digest, not the archive's."""
    blob = _into_store(store, archive.path, opened, member, placement.artifact)
    artifact = replace(placement.artifact, size=blob.size, digest=blob.digest) if placement.artifact else None
    file = replace(placement, path=f"{placement.path}/{member.path}", how=PlacementMethod.COPY, artifact=artifact)
    return PlacementJob(placement=file, blob=blob, archive=str(archive.digest))


def _into_store(
    store: Store, archive: Path, opened: zipfile.ZipFile, member: Member, artifact: Artifact | None
) -> Blob:
    temporary = store.tmp()
    try:
        with temporary.open("xb") as target:
            copy_member(archive, opened, member, target)
        if artifact is not None and not artifact.allow_pickle:
            _check(temporary, member, artifact)
        return add_file(store, temporary)[0]
    finally:
        temporary.unlink(missing_ok=True)


def _check(file: Path, member: Member, artifact: Artifact) -> None:
    """Check a file of an archive whose bytes the manifest does not pin."""
    unproven = replace(artifact, path=member.path, digest=None, size=member.size, weights=False)
    with file.open("rb", buffering=0) as opened:

        def read_at(at: int, count: int) -> bytes:
            return os.pread(opened.fileno(), count, at)

        if (error := check_artifact(unproven, member.size, read_at)) is not None:
            raise error
        found = find_pickle(member.size, read_at)  # whatever its name, which the author of the archive chose
        if found is not None:
            raise pickle_error(f"{member.path} {found}", uri=artifact.uri)


def list_members(archive: Path, opened: zipfile.ZipFile) -> tuple[Member, ...]:
    """List all files of a zip and check every name; folders are implied.

    Raises:
        IntegrityError: ``unsafe-archive``: not a zip, empty, encrypted, of an unknown compression, a name that
            leads outside, a link, a duplicate name, more than `MAX_MEMBERS` files or `MAX_BYTES` bytes.
    """
    members = tuple(_checked(archive, info) for info in opened.infolist() if not info.filename.endswith("/"))
    names = {member.path.casefold() for member in members}
    if any(str(parent) in names for name in names for parent in PurePosixPath(name).parents):
        raise _unsafe(archive, "it has a file where a folder is needed")
    if not members or len(members) > MAX_MEMBERS or len(names) != len(members):
        raise _unsafe(archive, "it holds no file, too many, or one name twice")
    if sum(member.size for member in members) > MAX_BYTES:
        raise _unsafe(archive, f"it unpacks to more than {MAX_BYTES} bytes")
    return members


def copy_member(archive: Path, opened: zipfile.ZipFile, member: Member, target: IO[bytes]) -> None:
    """Copy one file of an archive; its bytes are checked against the CRC.

    Raises:
        IntegrityError: ``unsafe-archive``: the archive is damaged.
        OSError: The disk failed or is full.
    """
    try:
        for piece in read_member(opened, member.info, 1 << 20):
            target.write(piece)
    except BROKEN_ARCHIVE as error:
        reraise_disk_error(error)
        raise _unsafe(archive, f"{member.path} is damaged ({error})") from None


@contextmanager
def open_archive(archive: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip.

    Raises:
        IntegrityError: ``unsafe-archive``: it is not a zip, or damaged, or has far too many files.
        OSError: It can't be read.
    """
    with archive.open("rb", buffering=0) as file:
        if has_large_directory(archive.stat().st_size, lambda at, count: os.pread(file.fileno(), count, at)):
            raise _unsafe(archive, f"it has more than {MAX_MEMBERS} files")
    try:
        opened = zipfile.ZipFile(archive)
    except BROKEN_ARCHIVE as error:
        reraise_disk_error(error)
        raise _unsafe(archive, f"it is not a zip ({error})") from None
    with opened:
        yield opened


def _checked(archive: Path, info: zipfile.ZipInfo) -> Member:
    mode = info.external_attr >> 16
    if info.flag_bits & 1:
        raise _unsafe(archive, f"{info.filename[:120]!r} is encrypted")
    if info.compress_type not in ZIP_METHODS:
        raise _unsafe(archive, f"{info.filename[:120]!r} has a compression that modelfetch does not know")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise _unsafe(archive, f"{info.filename[:120]!r} is not a regular file")
    try:
        # Check the stored name: ZipInfo truncates names at NUL and converts backslashes only on Windows.
        check_relative(info.orig_filename)
        return Member(path=check_relative(info.filename), size=info.file_size, info=info)
    except ValueError as error:
        raise _unsafe(archive, str(error)) from None


def _unsafe(archive: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"the archive {archive.name[:12]}… can't be unpacked: {why}", code="unsafe-archive", hint=_UNSAFE_HINT
    )
