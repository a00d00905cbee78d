"""Composite types of manifest values: lists, mappings with known keys, mappings with free names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modelfetch.manifest.field_types import CONTROL, EXTENSION, MISSING, Reader, Type
from modelfetch.manifest.yaml_nodes import Mapping, Node, Scalar, Sequence, describe

if TYPE_CHECKING:
    from modelfetch.manifest.model import Position

_MERGE = "; YAML 1.2 has no merge keys"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOf:
    """A list; with ``unique`` no item may occur twice."""

    of: Type
    minimum: int = 0
    unique: bool = False

    def read(self, node: Node, where: str, reader: Reader) -> Any:
        """Return the valid items as a tuple of (value, position)."""
        if not isinstance(node, Sequence):
            brackets = (
                " (in brackets it would be one)" if isinstance(node, Scalar) and isinstance(node.value, str) else ""
            )
            reader.problem(node.position, f"{where}: expected a list, found {describe(node)}{brackets}")
            return MISSING
        if len(node.items) < self.minimum:
            reader.problem(node.position, f"{where}: expected at least {self.minimum} item, found an empty list")
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
        if self.minimum:
            schema["minItems"] = self.minimum
        return schema | ({"uniqueItems": True} if self.unique else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of a record: its type and its description for editors."""

    type: Type
    doc: str
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """The parsed keys of a mapping: the valid values, the position of each key and of the mapping."""

    position: Position
    values: dict[str, Any]
    keys: dict[str, Position]

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or the default if it is absent or wrong."""
        return self.values.get(key, default)

    def at(self, key: str) -> Position:
        """Return the position of a key, or of the mapping if it is absent."""
        return self.keys.get(key, self.position)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A mapping with known keys; ``label`` is the key whose value names the mapping in messages."""

    keys: dict[str, Key]
    label: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def read(self, node: Node, where: str, reader: Reader) -> Any:
        """Return the `Values`; problems are noted."""
        if not isinstance(node, Mapping):
            reader.problem(node.position, f"{where or 'manifest'}: expected a mapping, found {describe(node)}")
            return MISSING
        inside = self._inside(node, where)
        values: dict[str, Any] = {}
        positions: dict[str, Position] = {}
        for entry in node.entries:
            if entry.key.startswith(EXTENSION):
                continue
            if (key := self.keys.get(entry.key)) is None:
                near = _MERGE if entry.key == "<<" else reader.suggest(entry.key, self.keys)
                reader.problem(entry.position, f"{inside}unknown key {describe(entry.node)}{near}")
                continue
            positions[entry.key] = entry.position
            value = key.type.read(entry.value, f"{inside}{entry.key}", reader)
            if value is not MISSING:
                values[entry.key] = value
        for name, key in self.keys.items():
            if key.required and name not in positions:
                reader.problem(node.position, f"{inside}missing key {name!r}")
        return Values(position=node.position, values=values, keys=positions)

    def _inside(self, node: Mapping, where: str) -> str:
        """Return the beginning of messages about keys: ``models[2] (sdxl-base): `` or ``services.ollama: ``."""
        for entry in node.entries:
            if entry.key == self.label and isinstance(entry.value, Scalar) and isinstance(entry.value.value, str):
                name = entry.value.value
                return f"{where} ({name[:60]}): " if CONTROL.search(name) is None and "\n" not in name else f"{where}: "
        return f"{where}: " if where else ""

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
class MapOf:
    """A mapping from free names to records."""

    pattern: str
    expected: str
    of: Record

    def read(self, node: Node, where: str, reader: Reader) -> Any:
        """Return the names and their `Values`, in order."""
        if not isinstance(node, Mapping):
            reader.problem(node.position, f"{where}: expected a mapping, found {describe(node)}")
            return MISSING
        found: dict[str, Values] = {}
        for entry in node.entries:
            if entry.key.startswith(EXTENSION):
                continue
            if not re.fullmatch(self.pattern, entry.key):
                reader.problem(entry.position, f"{where}: expected {self.expected}, found {describe(entry.node)}")
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
