"""The recorded folders of consumers outside ROOT: where the last `sync` with ``--consumer-dir`` placed files.

``.modelfetch/consumer-dirs/CONSUMER.json`` contains the absolute path of the folder. It is separate from the receipt
because every command reads it, and because an older version would drop it when it writes the receipt.

A record leads outside ROOT, so it is followed only if its author could also have named the folder on the command line:
it must belong to the user of this process or to root, and must not be writable by anyone else.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.core import directories, fs, temp_files
from modelfetch.core.events import Notice
from modelfetch.core.limits import raise_limit
from modelfetch.errors import DestinationError
from modelfetch.placement.receipts import read_receipt

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from modelfetch.core.events import Sink

_VERSION = 1
_MAX_BYTES = 16 * 1024
_OTHERS_MAY_WRITE = 0o022


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedFolder:
    """A consumer's folder according to its record, ``file``; None if the record is damaged or not to be trusted."""

    consumer: str
    file: Path
    folder: Path | None

    def require_usable(self, root: Path) -> Path:
        """Return the folder.

        Raises:
            DestinationError: It is not known (``consumer-dir-unknown``) or does not exist (``consumer-dir-missing``).
        """
        name = f"name the folder that {self.consumer} has now: --consumer-dir"
        if self.folder is None:
            raise DestinationError(
                f"{self.file} names the folder of {self.consumer}, but it is damaged, or other users can write it",
                code="consumer-dir-unknown",
                hint=f"{name} {self.consumer}=DIR (or MODELFETCH_CONSUMER_DIR)",
            )
        if not self.folder.is_dir():
            raise DestinationError(
                f"{self.consumer} was placed in {self.folder}, which does not exist: is its disk mounted?",
                code="consumer-dir-missing",
                hint=f"mount it, or {name} {shlex.quote(f'{self.consumer}={root / self.consumer}')}",
            )
        return self.folder


def find_consumer_dirs(
    root: Path, named: Mapping[str, Path], *, consumers: Collection[str], sink: Sink
) -> dict[str, Path]:
    """Return the folder of each consumer outside ROOT: as named by the user, otherwise as recorded.

    A named folder that is not the recorded one is used, with a warning. A record that can't be used does not matter if
    nothing was placed for its consumer, or if the command works on other consumers.

    Args:
        root: ROOT.
        named: The folders that the user named.
        consumers: The consumers that the command works on; empty for all.
        sink: Receives the warnings.

    Raises:
        DestinationError: See `RecordedFolder.require_usable`.
    """
    found = dict(named)
    for record in read_consumer_dirs(root):
        consumer = record.consumer
        if consumer in named:
            if record.folder not in (None, named[consumer]):
                message = f"{consumer}: using {named[consumer]}, as named; the last sync filled {record.folder}"
                sink(Notice(level="warning", message=message, hint=f"what is in {record.folder} stays there"))
            continue
        try:
            found[consumer] = record.require_usable(root)
        except DestinationError:
            if (not consumers or consumer in consumers) and read_receipt(root, consumer).entries:
                raise
    return {consumer: folder for consumer, folder in found.items() if not _is_below(root, consumer, folder)}


def read_consumer_dirs(root: Path) -> Iterator[RecordedFolder]:
    """Yield the records of all consumers."""
    try:
        names = sorted(os.listdir(_records(root)))  # noqa: PTH208 - names are enough
    except OSError as error:
        raise_limit(error)
        return
    for consumer in (name.removesuffix(".json") for name in names if name.endswith(".json")):
        file = consumer_dir_file(root, consumer)
        yield RecordedFolder(consumer=consumer, file=file, folder=_read(file, consumer))


def record_consumer_dirs(root: Path, folders: Mapping[str, Path | None]) -> None:
    """Record the folders of consumers durably, None for one below ROOT; writes only what changed.

    Raises:
        OSError: A record can't be written.
    """
    known = {record.consumer: record.folder for record in read_consumer_dirs(root)}
    for consumer, folder in folders.items():
        file = consumer_dir_file(root, consumer)
        if folder is None:
            if consumer in known:
                file.unlink(missing_ok=True)
        elif known.get(consumer) != folder:
            directories.make_directory(file.parent)
            text = json.dumps({"version": _VERSION, "consumer": consumer, "folder": str(folder)})
            temp_files.write_atomically(file, f"{text}\n".encode("ascii"), mode=fs.PUBLIC_MODE)


def consumer_dir_file(root: Path, consumer: str) -> Path:
    """The path of a consumer's record."""
    return _records(root) / f"{consumer}.json"


def _records(root: Path) -> Path:
    return directories.own_folder(root) / "consumer-dirs"


def _read(file: Path, consumer: str) -> Path | None:
    """The folder in a record; None without a record that is whole and that only this user or root can have written."""
    try:
        fd = fs.open_regular(file)
        with os.fdopen(fd, "rb") as stream:
            found = os.fstat(fd)
            raw = json.loads(stream.read(_MAX_BYTES))
        folder = Path(raw["folder"])
        fits = (raw["version"], raw["consumer"]) == (_VERSION, consumer) and folder.is_absolute()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    trusted = found.st_uid in (0, os.geteuid()) and not found.st_mode & _OTHERS_MAY_WRITE
    return folder if fits and trusted else None


def _is_below(root: Path, consumer: str, folder: Path) -> bool:
    """Whether a folder is the one that the consumer has below ROOT, and no symlink leads out of it."""
    return os.path.realpath(folder) == os.path.join(os.path.realpath(root), consumer)  # noqa: PTH118 - realpath's form
