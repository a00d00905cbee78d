"""The types that a manifest's keys have: each reads a node into a value and says the same as JSON Schema.

`schema` builds its table from these, so that what the loader takes and what editors are told can't differ.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from modelfetch.errors import Problem
from modelfetch.manifest.nodes import Mapping, Node, Scalar, Sequence, describe
from modelfetch.manifest.uri import HttpUri, Uri, parse_uri
from modelfetch.units import MAX_SIZE, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Mapping as MappingABC

    from modelfetch.manifest.model import Position

EXTENSION = "x-"
"""Keys that begin with this are ignored, wherever they stand."""

_SUGGESTIONS = 20  # a document full of wrong keys is not worth a search for each
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class Missing:
    """What a reader returns for a value that is wrong; the problem is noted by then."""


MISSING: Final = Missing()


@dataclass(slots=True, kw_only=True)
class Reader:
    """What reading shares: the rule for plain http, and the problems found so far."""

    allow_http: Callable[[str, int], bool]
    problems: list[Problem] = field(default_factory=list)
    suggested: int = 0

    def problem(self, at: Position, message: str) -> None:
        """Note what is wrong at a place."""
        self.problems.append(Problem(at.file, at.line, at.column, message))

    def suggest(self, found: str, known: MappingABC[str, Any] | tuple[str, ...]) -> str:
        """``; did you mean …?`` where one of the known words is near."""
        self.suggested += 1
        if self.suggested > _SUGGESTIONS or len(found) > 40:
            return ""
        near = difflib.get_close_matches(found, known, n=1, cutoff=0.6)
        return f"; did you mean {near[0]!r}?" if near else ""


class Type(Protocol):
    """The type of a value."""

    def read(self, node: Node, where: str, reader: Reader) -> Any:
        """The value, or MISSING after noting why; ``where`` names the place, such as ``models[2].size``."""

    def json_schema(self) -> dict[str, Any]:
        """The same as JSON Schema (draft 2020-12); it may take more than `read`, never less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Text on one line (``lines``: several) that a pattern matches as a whole.

    ``check`` may refuse more, by a ``ValueError`` that says what was expected and found, and convert.
    """

    expected: str
    pattern: str | None = None
    longest: int = 1000
    lines: bool = False
    check: Callable[[str], Any] | None = None

    def read(self, node: Node, where: str, reader: Reader) -> Any:
        """The text, or what ``check`` makes of it."""
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            quote = " (in quotes it would be text)" if isinstance(node, Scalar) and node.value is not None else ""
            reader.problem(node.position, f"{where}: expected {self.expected}, found {describe(node)}{quote}")
            return MISSING
        text = node.value
        bad = not text or len(text) > self.longest or _CONTROL.search(text) or ("\n" in text and not self.lines)
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
        """The word."""
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
class Whole:
    """A whole number in a range."""

    least: int
    most: int

    def read(self, node: Node, where: str, reader: Reader) -> Any:
        """The number."""
        value = node.value if isinstance(node, Scalar) else None
        if isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most:
            return value
        span = str(self.least) if self.least == self.most else f"a whole number from {self.least} to {self.most}"
        reader.problem(node.position, f"{where}: expected {span}, found {describe(node)}")
        return MISSING

    def json_schema(self) -> dict[str, Any]:
        """An integer."""
        if self.least == self.most:
            return {"const": self.least}
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def read(self, node: Node, where: str, reader: Reader) -> Any:
        """The truth value."""
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

    least: int = 0

    def read(self, node: Node, where: str, reader: Reader) -> Any:
        """The bytes."""
        value = node.value if isinstance(node, Scalar) else None
        try:
            size = parse_size(value) if isinstance(value, str) else value
        except ValueError as error:
            reader.problem(node.position, f"{where}: {error}")
            return MISSING
        if isinstance(size, int) and not isinstance(size, bool) and self.least <= size <= MAX_SIZE:
            return size
        least = f" of at least {self.least}" if self.least else ""
        reader.problem(
            node.position, f"{where}: expected a size in bytes{least}, such as 2370 or 7.5GiB, found {describe(node)}"
        )
        return MISSING

    def json_schema(self) -> dict[str, Any]:
        """An integer, or text with a unit."""
        number = {"type": "integer", "minimum": self.least, "maximum": MAX_SIZE}
        text = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?([KMGT]?B|[KMGT]iB|[bkmgt])?$"}
        return {"anyOf": [number, text]}


@dataclass(frozen=True, slots=True)
class UriText:
    """A URI of a source or a mirror."""

    def read(self, node: Node, where: str, reader: Reader) -> Any:
        """The parsed `Uri`."""
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
        return {"type": "string", "pattern": r"^([A-Za-z]+://|[Uu][Rr][Nn]:[Aa][Ii][Rr]:)\S+$"}


def refuse_plain_http(uri: Uri, allow_http: Callable[[str, int], bool]) -> str | None:
    """Why a URI may not be asked in the clear; None when it is no plain http or its host is allowed."""
    if not isinstance(uri, HttpUri) or uri.url.startswith("https:"):
        return None
    host, port = uri.host, uri.port
    if allow_http(host, port):
        return None
    return f"expected https:// (plain http only for loopback and hosts in MODELFETCH_ALLOW_HTTP), found http://{host}:{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Many:
    """A list; ``unique`` refuses an item that occurs twice."""

    of: Type
    least: int = 0
    unique: bool = False

    def read(self, node: Node, where: str, reader: Reader) -> Any:
        """The items as a tuple of (value, position); wrong ones are left out."""
        if not isinstance(node, Sequence):
            reader.problem(node.position, f"{where}: expected a list, found {describe(node)}")
            return MISSING
        if len(node.items) < self.least:
            reader.problem(node.position, f"{where}: expected at least {self.least} item, found an empty list")
            return MISSING
        found: list[tuple[Any, Position]] = []
        seen: set[Any] = set()
        for index, item in enumerate(node.items):
            value = self.of.read(item, f"{where}[{index}]", reader)
            if value is MISSING:
                continue
            if self.unique and value in seen:
                reader.problem(
                    item.position, f"{where}[{index}]: expected each item once, found {describe(item)} again"
                )
                continue
            if self.unique:
                seen.add(value)
            found.append((value, item.position))
        return tuple(found)

    def json_schema(self) -> dict[str, Any]:
        """An array."""
        schema: dict[str, Any] = {"type": "array", "items": self.of.json_schema()}
        if self.least:
            schema["minItems"] = self.least
        return schema | ({"uniqueItems": True} if self.unique else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of a record: its type and what editors say of it."""

    type: Type
    doc: str
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """What was read of a mapping: the good values, where each key stands, and where the mapping does.

    ``whole`` tells that nothing in it was wrong.
    """

    position: Position
    values: dict[str, Any]
    keys: dict[str, Position]
    whole: bool

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, the default where it is absent or wrong."""
        return self.values.get(key, default)

    def at(self, key: str) -> Position:
        """Where a key stands; the mapping itself where it is absent."""
        return self.keys.get(key, self.position)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A mapping with known keys; ``label`` is the key whose value names it in messages."""

    keys: dict[str, Key]
    label: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def read(self, node: Node, where: str, reader: Reader) -> Any:
        """The `Values`; what is wrong with them is noted."""
        if not isinstance(node, Mapping):
            reader.problem(node.position, f"{where or 'manifest'}: expected a mapping, found {describe(node)}")
            return MISSING
        before = len(reader.problems)
        inside = self._inside(node, where)
        values: dict[str, Any] = {}
        positions: dict[str, Position] = {}
        for entry in node.entries:
            if entry.key.startswith(EXTENSION):
                continue
            if (key := self.keys.get(entry.key)) is None:
                near = reader.suggest(entry.key, self.keys)
                shown = describe(Scalar(position=entry.position, text=entry.key, value=entry.key))
                reader.problem(
                    entry.position, f"{inside}expected a key of the manifest, found the unknown key {shown}{near}"
                )
                continue
            positions[entry.key] = entry.position
            value = key.type.read(entry.value, f"{inside}{entry.key}", reader)
            if value is not MISSING:
                values[entry.key] = value
        for name, key in self.keys.items():
            if key.required and name not in positions:
                reader.problem(node.position, f"{inside}expected the key {name!r}, found none")
        whole = len(reader.problems) == before
        return Values(position=node.position, values=values, keys=positions, whole=whole)

    def _inside(self, node: Mapping, where: str) -> str:
        """``models[2] (sdxl-base) `` or ``services.ollama.``: what messages about keys begin with."""
        for entry in node.entries:
            if entry.key == self.label and isinstance(entry.value, Scalar) and isinstance(entry.value.value, str):
                name = entry.value.value
                return (
                    f"{where} ({name[:60]}): " if _CONTROL.search(name) is None and "\n" not in name else f"{where}: "
                )
        return f"{where}." if where else ""

    def json_schema(self) -> dict[str, Any]:
        """An object without other keys than these and ``x-…``."""
        properties = {name: {"description": key.doc, **key.type.json_schema()} for name, key in self.keys.items()}
        schema: dict[str, Any] = {
            "type": "object",
            "properties": properties,
            "patternProperties": {f"^{EXTENSION}": {}},
            "additionalProperties": False,
        }
        if required := [name for name, key in self.keys.items() if key.required]:
            schema["required"] = required
        return schema | self.extra


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A mapping from free names to records."""

    pattern: str
    expected: str
    of: Record

    def read(self, node: Node, where: str, reader: Reader) -> Any:
        """The names and their `Values`, in order."""
        if not isinstance(node, Mapping):
            reader.problem(node.position, f"{where}: expected a mapping, found {describe(node)}")
            return MISSING
        found: dict[str, Values] = {}
        for entry in node.entries:
            if entry.key.startswith(EXTENSION):
                continue
            if not re.fullmatch(self.pattern, entry.key):
                shown = describe(Scalar(position=entry.position, text=entry.key, value=entry.key))
                reader.problem(entry.position, f"{where}: expected {self.expected}, found {shown}")
                continue
            value = self.of.read(entry.value, f"{where}.{entry.key}", reader)
            if value is not MISSING:
                found[entry.key] = value
        return found

    def json_schema(self) -> dict[str, Any]:
        """An object whose every value is such a record."""
        return {
            "type": "object",
            "patternProperties": {f"^{EXTENSION}": {}, self.pattern: self.of.json_schema()},
            "additionalProperties": False,
        }
