"""The Debian mirror that this machine's own apt uses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.cache import PeerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

SUITE = "bookworm"
_APT_LISTS = Path("/etc/apt")
_URI = re.compile(r"(?:^URIs:\s*|^deb(?:-src)?\s+(?:\[[^]]*\]\s+)?)(\S+?)/?(?:\s+(\S+))?\s*(?:#.*)?$", re.MULTILINE)


def debian_mirror() -> str:
    """Where this machine's own apt gets Debian from."""
    for address, suite in _sources():
        if "security" not in address and suite in (None, SUITE):
            return address
    raise PeerUnavailableError("apt knows no Debian mirror on this machine")


def _sources() -> Iterator[tuple[str, str | None]]:
    files = [_APT_LISTS / "sources.list", *sorted((_APT_LISTS / "sources.list.d").glob("*"))]
    for file in files:
        if file.is_file() and ("debian" in file.name or file.name == "sources.list"):
            for match in _URI.finditer(file.read_text(errors="replace")):
                yield match[1], match[2]
