"""Parse YAML text into frozen nodes with their positions.

The text is read as ruamel.yaml's stream of events: no object is ever constructed from a tag, and every limit is
checked while the text is read, not after. What is wrong with the document as such (syntax, tags, duplicate keys,
size) becomes a `Problem` here; what the keys mean is decided in `schema`.

Positions are used in messages (line and column) and for edits: ``text[start:end]`` is a node as written, without its
anchor. ruamel.yaml's round trip would rewrite the whole file: it folds flow lists that were laid out by hand, aligns
comments, and has one indentation and one line ending for all. So pins are inserted at these positions, and nothing else
is changed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from modelfetch.errors import Problem
from modelfetch.manifest import core_schema
from modelfetch.manifest.model import Position

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 2**20
"""Maximum size of a manifest in bytes; the largest sensible tiers are below a tenth of it."""
MAX_DEPTH = 64
"""Maximum depth of nested lists and mappings, aliases followed."""
MAX_NODES = 100_000
"""Maximum number of keys and values of a document, aliases followed: this stops alias bombs."""

_CACHED_BYTES = 2**16
"""Maximum size of a document whose nodes are kept for another call."""

# Source: YAML 1.2.2, production c-printable; U+FEFF only counts as a byte order mark at the very start.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_LINE_BREAK = re.compile("\r\n|[\n\r]")


ALIAS = "*"
"""The style of a value that is written as an alias of one elsewhere."""
_ANCHOR = re.compile(r"&\S+\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalar:
    """One value; ``value`` is what the core schema makes of its ``text``.

    ``style`` is the quotes or the sign of a block of text (``|``, ``>``), None for plain text, `ALIAS` for an alias.
    """

    count: ClassVar[int] = 1
    height: ClassVar[int] = 0
    position: Position
    text: str
    value: core_schema.Value
    start: int
    end: int
    style: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Collection:
    """``count`` and ``height`` are those of all that it holds, aliases followed; ``flow``: in brackets or braces."""

    position: Position
    count: int
    height: int
    start: int
    end: int
    flow: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence(_Collection):
    """A list."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MappingEntry:
    """A key of a mapping, its node, its position, and its value."""

    key: str
    node: Scalar
    position: Position
    value: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping(_Collection):
    """A mapping; each key occurs once."""

    entries: tuple[MappingEntry, ...]

    def __contains__(self, name: str) -> bool:
        return any(entry.key == name for entry in self.entries)

    def get(self, name: str) -> Node | None:
        """A key's value, None if there is no such key."""
        return next((entry.value for entry in self.entries if entry.key == name), None)

    def key(self, name: str) -> Scalar:
        """The node of a key.

        Raises:
            KeyError: There is no such key.
        """
        for entry in self.entries:
            if entry.key == name:
                return entry.node
        raise KeyError(name)


Node = Scalar | Sequence | Mapping


def items_of(node: Node | None) -> tuple[Node, ...]:
    """The items of a list; none of anything else."""
    return node.items if isinstance(node, Sequence) else ()


class _InvalidYamlError(Exception):
    def __init__(self, position: Position, message: str) -> None:
        super().__init__(message)
        self.position = position


def parse(data: bytes, file: str) -> tuple[Mapping | None, tuple[Problem, ...]]:
    """Read one YAML document that is a mapping.

    Returns:
        The mapping (None if nothing could be read) and the document's problems. If there are problems, the mapping
        holds what could be read nevertheless, so that its keys can be checked as well.
    """
    return _parse_cached(data, file) if len(data) <= _CACHED_BYTES else _parse(data, file)


def _parse(data: bytes, file: str) -> tuple[Mapping | None, tuple[Problem, ...]]:
    builder = _Builder(file)
    try:
        text = _decode(data, file)
        root = builder.document(text, _events(text, file))
    except _InvalidYamlError as error:
        builder.problem(error.position, str(error))
        root = None
    return root, tuple(builder.problems)


_parse_cached = lru_cache(maxsize=64)(_parse)
"""A command that reads several tiers parses the same files again, as choices and as extended files."""


def describe(node: Node) -> str:
    """Describe a value for a message: ``'abc'``, ``the number 5``, ``nothing``, ``a list``."""
    if isinstance(node, Sequence):
        return "a list"
    if isinstance(node, Mapping):
        return "a mapping"
    match node.value:
        case None:
            return "nothing"
        case bool():
            return f"the truth value {node.text}"
        case int() | float():
            return f"the number {node.text}"
    return repr(node.text) if len(node.text) <= 80 else f"{node.text[:80]!r}…"


def _decode(data: bytes, file: str) -> str:
    start = Position(file=file, line=1, column=1)
    if len(data) > MAX_BYTES:
        raise _InvalidYamlError(start, f"expected a manifest of at most {MAX_BYTES // 2**20} MiB, found a larger file")
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        raise _InvalidYamlError(
            _locate(before, file), f"expected UTF-8 text, found the byte 0x{data[error.start]:02x}"
        ) from None
    if bad := _UNPRINTABLE.search(text):
        where = _locate(text[: bad.start()], file)
        raise _InvalidYamlError(where, f"expected YAML text, found the control character U+{ord(bad[0]):04X}")
    return text


def _locate(before: str, file: str) -> Position:
    """Return the position just behind some text."""
    breaks = list(_LINE_BREAK.finditer(before))
    column = len(before) - (breaks[-1].end() if breaks else 0) + 1
    return Position(file=file, line=len(breaks) + 1, column=column)


def _events(text: str, file: str) -> Iterator[Any]:
    """Yield ruamel.yaml's events for a text; its exceptions are translated here."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    latest = None
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            latest = event.end_mark
            yield event
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark or latest
        raise _InvalidYamlError(_position(mark, file), f"invalid YAML: {_describe_error(error, mark, text)}") from None
    except Exception as error:  # ruamel.yaml lets some of Python's own through
        what = " ".join(str(error).split())[:200]
        raise _InvalidYamlError(_position(latest, file), f"invalid YAML: {what}") from None


_DESCRIPTIONS = (
    (r"found character '\\t'", "a tab at the beginning of a line; indent with spaces"),
    (r"found character '(.)' that cannot start", r"text that begins with \1 must be in quotes"),
    (r"found unexpected end of stream", "a quote is not closed"),
    (r"but found '<scalar>'", "text after a closing quote; put the whole value in quotes"),
    (r"expected <block end>", "the indentation does not match the lines above"),
    (r"expected ',' or '\]'", "a list in [ ] is not closed, or a comma is missing"),
    (r"expected ',' or '\}'", "a mapping in { } is not closed, or a comma is missing"),
    (r"could not find expected ':'", "a line that is neither `key: value` nor part of a list or text"),
)
"""ruamel.yaml's messages for common mistakes, and simpler wordings."""


def _describe_error(error: Any, mark: Any, text: str) -> str:
    """Describe a syntax error for readers who don't know the YAML specification."""
    problem = error.problem or ""
    if problem.startswith("mapping values are not allowed") and mark is not None:
        before = text[max(text.rfind("\n", 0, mark.index), text.rfind("\r", 0, mark.index)) + 1 : mark.index]
        if re.search(r":\s", before):
            return "a colon in a value; put the whole value in quotes"
        return "this key is indented too deep, or the line above needs a colon"
    for pattern, words in _DESCRIPTIONS:
        if (found := re.search(pattern, problem)) is not None:
            return found.expand(words)
    return " ".join(", ".join(part for part in (error.context, problem) if part).split())


def _position(mark: Any, file: str) -> Position:
    if mark is None:
        return Position(file=file, line=1, column=1)
    return Position(file=file, line=mark.line + 1, column=mark.column + 1)


class _Builder:
    """Builds nodes from events; problems that leave a document readable are collected."""

    def __init__(self, file: str) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._anchors: dict[str, Node | None] = {}
        self._count = 0
        self._text = ""
        self._events: Iterator[Any] = iter(())

    def problem(self, position: Position, message: str) -> None:
        self.problems.append(Problem(position.file, position.line, position.column, message))

    def document(self, text: str, events: Iterator[Any]) -> Mapping | None:
        from ruamel.yaml.events import DocumentStartEvent, StreamEndEvent

        self._text = text
        self._events = events
        next(events)
        start = next(events)
        if isinstance(start, StreamEndEvent):
            raise _InvalidYamlError(
                Position(file=self._file, line=1, column=1), "expected a manifest, found an empty file"
            )
        if start.version is not None and tuple(start.version) != (1, 2):
            found = ".".join(map(str, start.version))
            self.problem(
                Position(file=self._file, line=1, column=1), f"expected YAML 1.2, found a directive for {found}"
            )
        root = self._node(next(events), 0)
        next(events)
        if isinstance(after := next(events), DocumentStartEvent):
            self.problem(_position(after.start_mark, self._file), "expected one YAML document, found a second one")
        if isinstance(root, Mapping):
            return root
        self.problem(root.position, f"expected a mapping with version and models, found {describe(root)}")
        return None

    def _node(self, event: Any, depth: int) -> Node:
        from ruamel.yaml.events import AliasEvent, ScalarEvent, SequenceStartEvent

        position = _position(event.start_mark, self._file)
        if isinstance(event, AliasEvent):
            return self._alias(event, position, depth)
        if event.ctag is not None:
            self.problem(position, f"expected no YAML tag, found {str(event.ctag)[:80]!r}")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._grow(1, position)
        start = event.start_mark.index
        if event.anchor is not None and (anchor := _ANCHOR.match(self._text, start)):
            start = anchor.end()
        if isinstance(event, ScalarEvent):
            node: Node = self._scalar(event, position, start)
        else:
            self._check_depth(depth + 1, position)
            build = self._sequence if isinstance(event, SequenceStartEvent) else self._mapping
            node = build(position, depth + 1, start, flow=bool(event.flow_style))
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: Any, position: Position, depth: int) -> Node:
        """Return the node that an alias names, with the alias's own place in the text."""
        name = event.anchor
        if name not in self._anchors:
            raise _InvalidYamlError(
                position, f"expected an alias of an anchor that was set before, found *{name[:80]} (a glob is quoted)"
            )
        node = self._anchors[name]
        if node is None:
            raise _InvalidYamlError(
                position, f"expected no recursion, found the alias *{name[:80]} inside its own anchor"
            )
        self._grow(node.count, position)
        self._check_depth(depth + node.height, position)
        start, end = event.start_mark.index, event.end_mark.index
        if isinstance(node, Scalar):
            return replace(node, start=start, end=end, style=ALIAS)
        return replace(node, start=start, end=end)

    def _scalar(self, event: Any, position: Position, start: int) -> Scalar:
        value: core_schema.Value = event.value
        if not event.style and event.ctag is None:
            try:
                value = core_schema.resolve(event.value)
            except ValueError as error:
                self.problem(position, str(error))
        end = max(start, event.end_mark.index)
        return Scalar(position=position, text=event.value, value=value, start=start, end=end, style=event.style or None)

    def _sequence(self, position: Position, depth: int, start: int, *, flow: bool) -> Sequence:
        from ruamel.yaml.events import SequenceEndEvent

        before, items = self._count, []
        while not isinstance(event := next(self._events), SequenceEndEvent):
            items.append(self._node(event, depth))
        height = 1 + max((item.height for item in items), default=0)
        end = event.end_mark.index if flow or not items else items[-1].end
        count = 1 + self._count - before
        return Sequence(
            position=position, items=tuple(items), count=count, height=height, start=start, end=end, flow=flow
        )

    def _mapping(self, position: Position, depth: int, start: int, *, flow: bool) -> Mapping:
        from ruamel.yaml.events import MappingEndEvent

        before, entries = self._count, dict[str, MappingEntry]()
        height, end = 1, start
        while not isinstance(event := next(self._events), MappingEndEvent):
            where = _position(event.start_mark, self._file)
            key = self._node(event, depth)
            value = self._node(next(self._events), depth)
            if isinstance(value, Scalar) and not value.text and value.value is None:
                value = replace(value, position=where)  # ruamel.yaml gives an empty value the next line
            height, end = max(height, 1 + key.height, 1 + value.height), value.end
            if not isinstance(key, Scalar) or not isinstance(key.value, str):
                self.problem(where, f"expected a key that is text, found {describe(key)}")
            elif first := entries.get(key.value):
                at = f"line {first.position.line}, column {first.position.column}"
                self.problem(where, f"expected each key once, found {describe(key)} again (first: {at})")
            else:
                entries[key.value] = MappingEntry(key=key.value, node=key, position=where, value=value)
        count = 1 + self._count - before
        if flow or end == start:
            end = event.end_mark.index
        return Mapping(
            position=position,
            entries=tuple(entries.values()),
            count=count,
            height=height,
            start=start,
            end=end,
            flow=flow,
        )

    def _grow(self, count: int, position: Position) -> None:
        self._count += count
        if self._count > MAX_NODES:
            raise _InvalidYamlError(
                position, f"expected at most {MAX_NODES:,} keys and values (aliases followed), found more"
            )

    def _check_depth(self, depth: int, position: Position) -> None:
        if depth > MAX_DEPTH:
            raise _InvalidYamlError(position, f"expected at most {MAX_DEPTH} levels of lists and mappings, found more")
