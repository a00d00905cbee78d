"""Take flock, and check whether it works on this file system."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from modelfetch.core.fs import open_regular

if TYPE_CHECKING:
    from pathlib import Path


def take_flock(fd: int) -> bool:
    """Take flock if it is free; True also if the file system does not support it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # not supported here: the heartbeat decides
    return True


def flock_works(path: Path) -> bool:
    """Return whether another open file is denied the lock that this process holds."""
    fd = open_regular(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False
