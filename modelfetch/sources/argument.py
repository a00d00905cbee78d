"""A URI that was given on a command line or to a function."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.config.settings import plain_http_error
from modelfetch.errors import UsageError
from modelfetch.manifest.field_types import refuse_plain_http
from modelfetch.manifest.paste import AmbiguousPasteError
from modelfetch.manifest.uri import HttpUri, Uri, parse_uri

if TYPE_CHECKING:
    from modelfetch.config.settings import Settings


def parse_argument(text: str, otherwise: str, settings: Settings) -> Uri:
    """Parse a URI, or a form of one that people paste.

    Args:
        text: What was given.
        otherwise: The hint for a text that does not resemble a URI.
        settings: The hosts for which plain HTTP is allowed.

    Raises:
        UsageError: It is not a URI; the hint shows what to write.
        SettingError: It is plain HTTP to a host for which that is not allowed (``insecure-http``).
    """
    uri = _parse(text, otherwise)
    if isinstance(uri, HttpUri) and refuse_plain_http(uri, settings.allows_http):
        raise plain_http_error(str(uri), uri.host)
    return uri


def _parse(text: str, otherwise: str) -> Uri:
    try:
        return parse_uri(text)
    except AmbiguousPasteError as error:
        raise UsageError(error.problem, hint=_local(text.strip()) or error.advice) from None
    except ValueError as error:
        raise UsageError(str(error), hint=_local(text.strip()) or otherwise) from None


def _local(text: str) -> str | None:
    """How a local path is written as a URI; None for other texts."""
    path = text.removeprefix("file://")
    looks_local = path != text or path.startswith((".", "/", "~")) or os.path.lexists(path)
    if not looks_local or "://" in path:
        return None
    absolute = Path(os.path.abspath(os.path.expanduser(path)))  # noqa: PTH100, PTH111 - links stay as they are
    missing = "" if os.path.lexists(absolute) else ", but there is no such file"
    return f"a local file is written {absolute.as_uri()}{missing}"
