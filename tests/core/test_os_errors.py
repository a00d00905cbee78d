"""Errors of the operating system become typed errors."""

from __future__ import annotations

import errno
import os

import pytest

from modelfetch.core import os_errors
from modelfetch.errors import DestinationError, DiskError, ModelfetchError
from tests.cases import each


@each(
    ("number", "kind", "code", "exit_code"),
    [
        (errno.ENOSPC, DiskError, "no-space", 74),
        (errno.EDQUOT, DiskError, "no-space", 74),
        (errno.EIO, DiskError, DiskError.default_code, 74),
        (errno.ENOENT, DiskError, DiskError.default_code, 74),
        (errno.EACCES, DestinationError, DestinationError.default_code, 73),
        (errno.EROFS, DestinationError, DestinationError.default_code, 73),
        (errno.ENOTDIR, DestinationError, "foreign-file", 73),
        (errno.ELOOP, DestinationError, "foreign-file", 73),
    ],
)
def test_an_error_of_the_system_is_typed_and_names_its_path(
    number: int, kind: type[ModelfetchError], code: str, exit_code: int
) -> None:
    error = os_errors.translate(OSError(number, os.strerror(number), "/a/path"), "/another", doing="writing")
    assert (type(error), error.code, error.exit_code) == (kind, code, exit_code)
    assert str(error).startswith("writing /a/path: ")
    assert "/another" in str(os_errors.translate(OSError(number, os.strerror(number)), "/another", doing="writing"))


def test_a_name_that_the_locale_lacks_is_an_error_of_the_destination() -> None:
    error = os_errors.translate(UnicodeEncodeError("ascii", "modèle", 3, 4, "ordinal"), "x", doing="making")
    assert (error.code, error.exit_code) == ("unencodable-name", 73)
    assert "mod\\xe8le" in str(error)


@each(
    ("number", "free_inodes", "end"),
    [
        (errno.ENOSPC, 1000, "; 4.0 KiB free"),
        (errno.ENOSPC, 0, "; it has no inodes left (`df -i`)"),
        (errno.ENOSPC, 3, "; it has 3 inodes left (`df -i`)"),
        (errno.EDQUOT, 1000, f"{os.strerror(errno.EDQUOT)}; 4.0 KiB free"),
    ],
)
def test_a_full_disk_is_described_by_what_it_lacks(number: int, free_inodes: int, end: str) -> None:
    """What was made for a failed operation is removed again, so a few inodes count as none."""

    def statvfs(_path: object) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 10, 1, 1, 2000, free_inodes, free_inodes, 0, 255))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "statvfs", statvfs)
        error = os_errors.translate(OSError(number, os.strerror(number)), "/a", doing="writing")
    assert error.message.endswith(end)
