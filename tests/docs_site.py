"""MkDocs hook: links to files outside docs/ work on a code host but not on the site, so they become plain text."""

from __future__ import annotations

import re
from typing import Any

_LINK = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+[^)]*)\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Remove links that lead outside the documentation folder."""
    depth = page.file.src_uri.count("/")

    def unlink(match: re.Match[str]) -> str:
        leaves = match[2].count("../") > depth
        return match[1] if leaves else match[0]

    return _LINK.sub(unlink, markdown)
