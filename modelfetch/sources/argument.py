"""A URI that was given on a command line or to a function."""

from __future__ import annotations

import os
import re
from pathlib import Path

from modelfetch.errors import UsageError
from modelfetch.manifest.paste import AmbiguousPasteError
from modelfetch.manifest.uri import Uri, parse_uri

_BARE_NAME = re.compile(r"(?:[A-Za-z0-9][\w-]*/)?[A-Za-z0-9][\w.-]*(?::[\w.-]+)?\Z", re.ASCII)
_BARE_ADDRESS = re.compile(r"[\w-]+(?:\.[\w-]+)*\.[a-z]+(?::[0-9]+)?/\S+\Z", re.ASCII | re.IGNORECASE)
_FILE_NAME = re.compile(r"\.[A-Za-z][A-Za-z0-9]*\Z")


def parse_argument(text: str, otherwise: str) -> Uri:
    """Parse a URI, or a form of one that people paste.

    Args:
        text: What was given.
        otherwise: The hint for a text that resembles none.

    Raises:
        UsageError: It is no URI; the hint says what to write.
    """
    try:
        return parse_uri(text)
    except AmbiguousPasteError as error:
        raise UsageError(error.problem, hint=error.advice) from None
    except ValueError as error:
        raise UsageError(str(error), hint=_suggestion(text.strip()) or otherwise) from None


def _suggestion(text: str) -> str | None:
    """How a local path or a bare name is written as a URI; None for other texts."""
    path = text.removeprefix("file://")
    looks_local = path != text or path.startswith((".", "/", "~")) or os.path.lexists(path)
    if looks_local and "://" not in path:
        absolute = Path(os.path.abspath(os.path.expanduser(path)))  # noqa: PTH100, PTH111 - links stay as they are
        missing = "" if os.path.lexists(absolute) else ", but there is no such file"
        return f"a local file is written {absolute.as_uri()}{missing}"
    if _BARE_ADDRESS.match(text):
        return f"a file on a web server is written https://{text}; an artifact of a container registry: oci://{text}"
    if not _BARE_NAME.match(text) or _FILE_NAME.search(text):
        return None
    hub = f"; a repo of the hub: hf://{text}" if "/" in text else ""
    return f"a model of Ollama's library is written ollama://{text}{hub}"
