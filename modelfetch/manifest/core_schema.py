"""Resolve plain scalars as YAML 1.2's core schema does.

Source: the YAML 1.2.2 specification, section 10.3.2 (tag resolution). So ``yes``, ``1_000``, dates and sexagesimals
are text, unlike in YAML 1.1.
"""

from __future__ import annotations

import re

Value = str | int | float | bool | None

MAX_NUMBER = 64
"""Maximum characters of a number; nothing in a manifest needs a longer one."""

_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+\Z")
_OCTAL = re.compile(r"0o[0-7]+\Z")
_HEX = re.compile(r"0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_INFINITY = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z")
_NAN = re.compile(r"\.(?:nan|NaN|NAN)\Z")
_NUMBER = re.compile(r"[-+.0-9]")


def resolve(text: str) -> Value:
    """Return the value of a plain scalar.

    Raises:
        ValueError: It is a number of more than ``MAX_NUMBER`` characters.
    """
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if not _NUMBER.match(text):
        return text
    for pattern, base in ((_INT, 10), (_OCTAL, 8), (_HEX, 16)):
        if pattern.match(text):
            return int(_short(text).removeprefix("0o") if base == 8 else _short(text), base)
    if _INFINITY.match(text):
        return float(text.replace(".", "").lower())
    if _NAN.match(text):
        return float("nan")
    return float(_short(text)) if _FLOAT.match(text) else text


def _short(number: str) -> str:
    if len(number) > MAX_NUMBER:
        raise ValueError(f"expected a number of at most {MAX_NUMBER} characters, found one of {len(number)}")
    return number
