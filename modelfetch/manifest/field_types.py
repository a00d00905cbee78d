"""Types of manifest keys: each parses a node into a value and describes itself as JSON Schema.

`schema` builds its table from these, so the loader and the schema for editors can't differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from modelfetch.core.similar import nearest
from modelfetch.core.units import MAX_SIZE, parse_size
from modelfetch.errors import Problem
from modelfetch.manifest.uri import MAX_URI, HttpUri, Uri, parse_uri
from modelfetch.manifest.yaml_nodes import Node, Scalar, describe

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Mapping as MappingABC

    from modelfetch.manifest.model import Position

EXTENSION = "x-"
"""Keys that begin with this are ignored everywhere."""

_SUGGESTIONS = 20  # searching for each key of a document full of invalid ones would take long
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class Missing:
    """Marks an invalid value whose problem was already recorded."""


MISSING: Final = Missing()


@dataclass(slots=True, kw_only=True)
class Reader:
    """State shared while a manifest is parsed: the rule for plain http, the problems, the models that break a rule."""

    allow_http: Callable[[str, int], bool]
    problems: list[Problem] = field(default_factory=list)
    suggested: int = 0
    unsound: set[Position] = field(default_factory=set)

    def problem(self, at: Position, message: str) -> None:
        """Note a problem at a position."""
        self.problems.append(Problem(at.file, at.line, at.column, message))

    def suggest(self, found: str, known: MappingABC[str, Any] | tuple[str, ...]) -> str:
        """Return ``; did you mean …?`` if a known word is similar, else nothing."""
        self.suggested += 1
        if self.suggested > _SUGGESTIONS or len(found) > 40:
            return ""
        near = nearest(found, known)
        return f"; did you mean {near!r}?" if near else ""


class Type(Protocol):
    """The type of a value."""

    def read(self, node: Node, where: str, reader: Reader) -> Any:
        """Return the value, or MISSING after noting the problem; ``where`` is a path such as ``models[2].size``."""

    def json_schema(self) -> dict[str, Any]:
        """Return the type as JSON Schema (draft 2020-12); it may accept more than `read`, never less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Text on one line (``lines``: several) that a pattern matches as a whole.

    ``check`` may convert it, or reject it with a ``ValueError`` that names the expected and the found value.
    """

    expected: str
    pattern: str | None = None
    longest: int = 1000
    lines: bool = False
    check: Callable[[str], Any] | None = None

    def read(self, node: Node, where: str, reader: Reader) -> Any:
        """Return the text, or what ``check`` converts it to."""
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            quote = " (in quotes it would be text)" if isinstance(node, Scalar) and node.value is not None else ""
            reader.problem(node.position, f"{where}: expected {self.expected}, found {describe(node)}{quote}")
            return MISSING
        text = node.value
        bad = not text or len(text) > self.longest or CONTROL.search(text) or ("\n" in text and not self.lines)
        if bad or (self.pattern and not re.fullmatch(self.pattern, text)):
            reader.problem(node.position, f"{where}: expected {self.expected}, found {describe(node)}")
            return MISSING
        try:
            return self.check(text) if self.check else text
        except ValueError as error:
            reader.problem(node.position, f"{where}: {error}")
            return MISSING

    def json_schema(self) -> dict[str, Any]:
        """A string."""
        schema: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": self.longest}
        return schema | ({"pattern": self.pattern} if self.pattern else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of some words."""

    values: tuple[str, ...]

    def read(self, node: Node, where: str, reader: Reader) -> Any:
        """Return the word."""
        if isinstance(node, Scalar) and isinstance(node.value, str) and node.value in self.values:
            return node.value
        near = (
            reader.suggest(node.value, self.values) if isinstance(node, Scalar) and isinstance(node.value, str) else ""
        )
        expected = self.values[0] if len(self.values) == 1 else "one of " + ", ".join(self.values)
        reader.problem(node.position, f"{where}: expected {expected}, found {describe(node)}{near}")
        return MISSING

    def json_schema(self) -> dict[str, Any]:
        """An enumeration."""
        return {"enum": list(self.values)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Integer:
    """A whole number in a range."""

    minimum: int
    maximum: int

    def read(self, node: Node, where: str, reader: Reader) -> Any:
        """Return the number."""
        value = node.value if isinstance(node, Scalar) else None
        if isinstance(value, int) and not isinstance(value, bool) and self.minimum <= value <= self.maximum:
            return value
        span = (
            str(self.minimum)
            if self.minimum == self.maximum
            else f"a whole number from {self.minimum} to {self.maximum}"
        )
        reader.problem(node.position, f"{where}: expected {span}, found {describe(node)}")
        return MISSING

    def json_schema(self) -> dict[str, Any]:
        """An integer."""
        if self.minimum == self.maximum:
            return {"const": self.minimum}
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def read(self, node: Node, where: str, reader: Reader) -> Any:
        """Return the truth value."""
        if isinstance(node, Scalar) and isinstance(node.value, bool):
            return node.value
        reader.problem(node.position, f"{where}: expected true or false, found {describe(node)}")
        return MISSING

    def json_schema(self) -> dict[str, Any]:
        """A boolean."""
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A size in bytes; ``least`` bytes or more."""

    minimum: int = 0

    def read(self, node: Node, where: str, reader: Reader) -> Any:
        """Return the size in bytes."""
        value = node.value if isinstance(node, Scalar) else None
        try:
            size = parse_size(value) if isinstance(value, str) else value
        except ValueError as error:
            reader.problem(node.position, f"{where}: {error}")
            return MISSING
        if isinstance(size, int) and not isinstance(size, bool) and self.minimum <= size <= MAX_SIZE:
            return size
        least = f" of at least {self.minimum}" if self.minimum else ""
        reader.problem(
            node.position, f"{where}: expected a size in bytes{least}, such as 2370 or 7.5GiB, found {describe(node)}"
        )
        return MISSING

    def json_schema(self) -> dict[str, Any]:
        """An integer, or text with a unit."""
        number = {"type": "integer", "minimum": self.minimum, "maximum": MAX_SIZE}
        text = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?([KMGT]?B|[KMGT]iB|[bkmgt])?$"}
        return {"anyOf": [number, text]}


@dataclass(frozen=True, slots=True)
class UriText:
    """A URI of a source or a mirror."""

    def read(self, node: Node, where: str, reader: Reader) -> Any:
        """Return the parsed `Uri`."""
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            reader.problem(node.position, f"{where}: expected a URI, found {describe(node)}")
            return MISSING
        try:
            uri = parse_uri(node.value)
        except ValueError as error:
            reader.problem(node.position, f"{where}: {error}")
            return MISSING
        if message := refuse_plain_http(uri, reader.allow_http):
            reader.problem(node.position, f"{where}: {message}")
            return MISSING
        return uri

    def json_schema(self) -> dict[str, Any]:
        """A string that looks like a URI."""
        return {"type": "string", "maxLength": MAX_URI, "pattern": r"^\S.*[:/ ]"}


def refuse_plain_http(uri: Uri, allow_http: Callable[[str, int], bool]) -> str | None:
    """Return why plain http is refused for a URI; None if it is not plain http or its host is allowed."""
    if not isinstance(uri, HttpUri) or uri.url.startswith("https:"):
        return None
    host, port = uri.host, uri.port
    if allow_http(host, port):
        return None
    return f"expected https:// (plain http only for loopback and hosts in MODELFETCH_ALLOW_HTTP), found http://{host}:{port}"
