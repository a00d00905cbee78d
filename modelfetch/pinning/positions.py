"""Where each key and value of a manifest stands in its text, so that one can be changed and the rest left alone.

ruamel.yaml's round trip would write the whole file anew: it folds flow lists that were laid out by hand, aligns
comments, and knows one indentation and one kind of line end for all of it. Its events know the place of each value to
the character, so the pins are put there and nothing else is touched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ALIAS = "*"
"""The style of a value that is written as an alias of one elsewhere."""

_ANCHOR = re.compile(r"&\S+\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalarNode:
    """One value; ``text[start:end]`` is how it is written (without its anchor), ``style`` in which quotes."""

    start: int
    end: int
    value: str
    style: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeqNode:
    """A list; ``flow`` tells that it is written in brackets."""

    start: int
    end: int
    flow: bool
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MapNode:
    """A mapping; ``flow`` tells that it is written in braces."""

    start: int
    end: int
    flow: bool
    entries: tuple[tuple[ScalarNode, Node], ...]

    def key(self, name: str) -> ScalarNode:
        """The key itself; raises KeyError."""
        return self._entry(name)[0]

    def get(self, name: str) -> Node | None:
        """A key's value, None where there is no such key."""
        return self._entry(name)[1] if name in self else None

    def __contains__(self, name: str) -> bool:
        return any(key.value == name for key, _ in self.entries)

    def _entry(self, name: str) -> tuple[ScalarNode, Node]:
        for entry in self.entries:
            if entry[0].value == name:
                return entry
        raise KeyError(name)


Node = ScalarNode | SeqNode | MapNode


def locate(text: str) -> MapNode:
    """The places of a manifest that the loader takes.

    Args:
        text: The manifest, without a byte order mark.

    Raises:
        TypeError: It is no mapping.
    """
    from ruamel.yaml import YAML

    root = _Places(text, YAML(typ="safe", pure=True).parse(text)).document()
    if not isinstance(root, MapNode):
        raise TypeError("expected a mapping")
    return root


class _Places:
    def __init__(self, text: str, events: Iterator[Any]) -> None:
        self._text = text
        self._events = events
        self._anchors: dict[str, Node] = {}

    def document(self) -> Node:
        next(self._events)  # the stream
        next(self._events)  # the document
        root = self._spot(next(self._events))
        for _ in self._events:
            pass
        return root

    def _spot(self, event: Any) -> Node:
        from ruamel.yaml.events import AliasEvent, ScalarEvent, SequenceStartEvent

        start, end = event.start_mark.index, event.end_mark.index
        if isinstance(event, AliasEvent):
            known = self._anchors[event.anchor]
            written = {"start": start, "end": end}
            return (
                replace(known, **written, style=ALIAS) if isinstance(known, ScalarNode) else replace(known, **written)
            )
        if event.anchor is not None and (anchor := _ANCHOR.match(self._text, start)):
            start = anchor.end()
        spot: Node
        if isinstance(event, ScalarEvent):
            spot = ScalarNode(start=start, end=max(start, end), value=event.value, style=event.style or None)
        elif isinstance(event, SequenceStartEvent):
            spot = self._row(start, flow=bool(event.flow_style))
        else:
            spot = self._table(start, flow=bool(event.flow_style))
        if event.anchor is not None:
            self._anchors[event.anchor] = spot
        return spot

    def _row(self, start: int, *, flow: bool) -> SeqNode:
        from ruamel.yaml.events import SequenceEndEvent

        items: list[Node] = []
        while not isinstance(event := next(self._events), SequenceEndEvent):
            items.append(self._spot(event))
        end = event.end_mark.index if flow or not items else items[-1].end
        return SeqNode(start=start, end=end, flow=flow, items=tuple(items))

    def _table(self, start: int, *, flow: bool) -> MapNode:
        from ruamel.yaml.events import MappingEndEvent

        entries: list[tuple[ScalarNode, Node]] = []
        while not isinstance(event := next(self._events), MappingEndEvent):
            key, value = self._spot(event), self._spot(next(self._events))
            if isinstance(key, ScalarNode):
                entries.append((key, value))
        end = event.end_mark.index if flow or not entries else entries[-1][1].end
        return MapNode(start=start, end=end, flow=flow, entries=tuple(entries))
