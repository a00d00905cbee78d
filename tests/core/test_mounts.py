"""The mount and the file system of a folder, as the kernel lists it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.core import mounts

if TYPE_CHECKING:
    import pytest

LINES = (
    r"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw",
    r"30 22 8:1 / /media/usb\040stick rw - vfat /dev/sda1 rw",
    r"31 22 0:40 / /media/usb\040stick/inner rw - tmpfs tmpfs rw",
    r"32 22 0:41 / /media/usb rw - xfs /dev/sdb rw",
)


def test_the_innermost_mount_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_text("\n".join(LINES))
    monkeypatch.setattr(mounts, "_MOUNTS", table)
    found = {
        folder: str(mounts.find_mount(Path(folder)))
        for folder in ("/", "/media/usb stick/a", "/media/usb stick/inner/b", "/media/usb", "/media/usb2")
    }
    assert list(found.values()) == [
        "/ (ext4)",
        "/media/usb stick (vfat)",
        "/media/usb stick/inner (tmpfs)",
        "/media/usb (xfs)",
        "/ (ext4)",
    ]
    assert mounts.largest_file(Path("/media/usb stick")) == 2**32 - 1
    assert mounts.largest_file(Path("/media/usb")) is None


def test_without_a_table_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "_MOUNTS", tmp_path / "nothing")
    assert mounts.find_mount(tmp_path) is None
