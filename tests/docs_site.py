"""MkDocs hook: pages from the top folder, and links to files outside docs/, which work on a code host only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
"""Files of the top folder that are pages of the site too."""

_LINK = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+)([^)]*)\)")
_LINK_TO_DOCS = re.compile(r"\]\(docs/([^)]*)\)")


def on_files(files: Any, *, config: Any, **_: Any) -> Any:
    """Add the pages of the top folder, whose links lead into docs/."""
    for name in PAGES:
        text = _LINK_TO_DOCS.sub(r"](\1)", (ROOT / name).read_text(encoding="utf-8"))
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Remove links that lead outside the documentation folder, to no page of the site."""
    depth = page.file.src_uri.count("/")

    def changed(match: re.Match[str]) -> str:
        text, up, target = match.groups()
        if up.count("../") <= depth:
            return match[0]
        return f"[{text}]({up[3:]}{target})" if target.partition("#")[0] in PAGES else text

    return _LINK.sub(changed, markdown)
