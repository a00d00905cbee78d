"""Putting one file, copy, text or symlink under its name: whole, atomic, with the right mode and owner."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from modelfetch.core import fs
from modelfetch.core.events import Notice
from modelfetch.core.fs import own_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from modelfetch.core.events import Sink

LINK_AT_LEAST = 64 * 1024
"""Bytes: smaller files are copied, since a service may rewrite them."""

_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class Disk:
    """Writes below one consumer's folder; what is not finished lies in modelfetch's own or under a ``.part`` name.

    Args:
        root: ROOT.
        consumer: Whose folder it is.
        owner: (uid, gid) for directories and copies, never for a shared blob.
        sink: Where warnings go.
        said: What was warned of already; shared by all that work in one run.
    """

    def __init__(
        self,
        root: Path,
        consumer: str,
        *,
        owner: tuple[int, int] | None,
        sink: Sink,
        said: set[tuple[str, str]],
    ) -> None:
        self._root = root
        self._own = own_folder(root)
        self._consumer = consumer
        self._owner = owner
        self._sink = sink
        self._serial = itertools.count()
        self._said = said
        self._touched: set[Path] = set()
        self._beside: dict[Path, tuple[Path, ...]] = {}

    def link(self, blob: Path, target: Path) -> str:
        """Give a blob the name ``target``: hardlink → reflink → copy. Returns which it became."""
        self.make_parent(target)
        try:
            self._publish(target, lambda temporary: os.link(blob, temporary, follow_symlinks=False))
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            self._say_no_link(blob, target, error)
            return self.copy(blob, target)
        return "link"

    def copy(self, blob: Path, target: Path) -> str:
        """Give ``target`` bytes of its own, by reflink where that works. Returns which it became."""
        self.make_parent(target)
        how = []

        def make(temporary: Path) -> None:
            how.append("reflink" if fs.try_reflink(blob, temporary) else "copy")
            if how[-1] == "copy":
                fs.copy_bytes(blob, temporary)
            self._finish(temporary)

        self._publish(target, make)
        return how[-1]

    def text(self, data: bytes, target: Path) -> str:
        """Write a small file of known bytes."""
        self.make_parent(target)

        def make(temporary: Path) -> None:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._finish(temporary)

        self._publish(target, make)
        return "text"

    def symlink(self, text: str, target: Path) -> str:
        """Make a symlink that says ``text``."""
        self.make_parent(target)
        self._publish(target, lambda temporary: temporary.symlink_to(text))
        return "symlink"

    def displace(self, path: Path) -> Path:
        """Move what is not ours to ``.modelfetch/displaced/DATE/PATH``, under a name that is free; returns where."""
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        relative = path.relative_to(self._root)
        for attempt in itertools.count(1):
            folder = self._own / "displaced" / (day if attempt == 1 else f"{day}.{attempt}")
            aside = folder / relative
            if not aside.exists() and not aside.is_symlink():
                break
        fs.make_directory(aside.parent)
        shutil.move(path, aside)
        fs.sync_directory(path.parent)
        return aside

    def make_parent(self, target: Path) -> None:
        """Make the folders above ``target`` (0755, owned as asked)."""
        fs.make_directory(target.parent, owner=self._owner)
        self._touched.add(target.parent)

    def sync(self) -> None:
        """Make all names that were given so far durable."""
        for folder in self._touched:
            fs.sync_directory(folder)
        self._touched.clear()

    def sweep(self, folders: Iterable[Path]) -> None:
        """Remove what a killed process left half done, in these folders too; the caller holds the consumer's lock."""
        left = [*self._scratch.glob("*.part")]
        for folder in dict.fromkeys((self._root / self._consumer, *folders)):
            left += folder.glob(".modelfetch-*.part")
        for path in left:
            with contextlib.suppress(OSError):
                path.unlink()

    @property
    def _scratch(self) -> Path:
        return self._own / "tmp" / self._consumer

    def _finish(self, temporary: Path) -> None:
        temporary.chmod(fs.COPY_MODE)
        if self._owner:
            os.chown(temporary, *self._owner)

    def _publish(self, target: Path, make: Callable[[Path], None]) -> None:
        """Make a file under a temporary name, in the first folder that takes it, then rename it to ``target``."""
        folders = self._folders_beside(target.parent)
        for folder in folders:
            temporary = folder / self._temporary_name()
            try:
                make(temporary)
                temporary.replace(target)
            except OSError as error:
                if error.errno != errno.EXDEV or folder == folders[-1]:
                    raise
            else:
                return
            finally:
                # Also after success: renaming onto another link of the same inode does nothing and leaves the name.
                with contextlib.suppress(OSError):
                    temporary.unlink()

    def _folders_beside(self, parent: Path) -> tuple[Path, ...]:
        """Where a file may be made that gets a name in ``parent``: a rename to there works, tried before any copy.

        In modelfetch's own folder; where that is another file system (or another mount), in the consumer's, outside of
        everything that it loads from; where ``parent`` is yet another mount, in there.
        """
        if parent not in self._beside:
            fs.make_directory(self._scratch)
            among = dict.fromkeys((self._scratch, self._root / self._consumer, parent))
            self._beside[parent] = tuple(
                folder for folder in among if folder == parent or self._renames(folder, parent)
            )
        return self._beside[parent]

    def _renames(self, folder: Path, parent: Path) -> bool:
        here, there = folder / self._temporary_name(), parent / self._temporary_name()
        try:
            here.touch(mode=0o600)
            here.replace(there)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return False
        finally:
            for path in (here, there):
                with contextlib.suppress(OSError):
                    path.unlink()
        return True

    def _temporary_name(self) -> str:
        return f".modelfetch-{os.getpid()}-{next(self._serial)}.part"

    def _say_no_link(self, blob: Path, target: Path, error: OSError) -> None:
        refused = error.errno in (errno.EPERM, errno.EACCES)
        kind = (self._consumer, "refused" if refused else "impossible")
        if kind in self._said:
            return
        self._said.add(kind)
        if refused:
            whose = f"blob of uid {blob.stat().st_uid}, we are uid {os.geteuid()}"
            message = f"hardlinks to {blob.parent} are refused ({error.strerror}): {whose}"
        else:
            message = f"{self._root / self._consumer} takes no hardlinks from {blob.parent} ({error.strerror})"
        self._sink(Notice(level="warning", message=f"{message}; copies are made, which take space of their own"))
