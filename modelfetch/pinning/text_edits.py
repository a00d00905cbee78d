"""Write pins into a manifest's text: keys that change are written, every other character stays. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelfetch.manifest import core_schema, yaml_nodes
from modelfetch.manifest.yaml_nodes import ALIAS, Mapping, Node, Scalar, items_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from modelfetch.manifest.model import FileSpec, Model

Value = str | int
Pair = tuple[str, "Value | tuple[FileSpec, ...]"]

_PLAIN = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_./+@=-]*\Z")
_PLAIN_URI = re.compile(r"[A-Za-z][A-Za-z0-9]*:[A-Za-z0-9_./+@=%-]*[A-Za-z0-9_/]\Z")
_COMMENT = re.compile(r"(?:(?<=\s)|^)#[^\r\n]*")
_BREAK = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True, order=True)
class _Edit:
    start: int
    end: int
    text: str


def locate(text: str) -> Mapping:
    """Parse a valid manifest's text, without a byte order mark, into nodes.

    Raises:
        ValueError: It is not a mapping.
    """
    root, _ = yaml_nodes.parse(text.encode("utf-8"), "")
    if root is None:
        raise ValueError("it is not a manifest")
    return root


def rewrite(text: str, changes: Iterable[tuple[Model, Model]]) -> str:
    """Return the text with each model changed.

    Args:
        text: A valid manifest, without a byte order mark.
        changes: Models of this text (not of one that it extends), before and after. They may differ in source, size,
            digest and files; existing files may only gain or change pins.

    Raises:
        ValueError: It can't be done without changing more; the message gives the reason.
    """
    root = locate(text)
    writer = _Writer(text, root)
    tables: dict[str, Mapping] = {}
    for item in items_of(root.get("models")):
        if isinstance(item, Mapping) and isinstance(name := item.get("name"), Scalar):
            tables[name.text] = item
    for old, new in changes:
        writer.model(tables[old.name], old, new)
    return writer.result()


class _Writer:
    """Collects the edits of one text."""

    def __init__(self, text: str, root: Mapping) -> None:
        self._text = text
        self._edits: set[_Edit] = set()
        models = root.get("models")
        tables = [item for item in items_of(models) if isinstance(item, Mapping)]
        files = [item for table in tables for item in items_of(table.get("files"))]
        self._block_files = any(isinstance(item, Mapping) and not item.flow for item in files)
        self._dash = self._dash_offset(root, models)
        self._newline = newline_of(text)

    def result(self) -> str:
        """The text with all edits in it."""
        parts: list[str] = []
        at = inserted = -1
        for edit in sorted(self._edits):
            insertion = edit.start if edit.start == edit.end else -1
            if edit.start < at or (insertion == inserted != -1):
                raise ValueError("two entries share by an alias a value that would differ")
            parts += [self._text[max(at, 0) : edit.start], edit.text]
            at, inserted = edit.end, insertion
        return "".join([*parts, self._text[max(at, 0) :]])

    def model(self, table: Mapping, old: Model, new: Model) -> None:
        """Write the differences between the two."""
        if new.source.text != old.source.text:
            self._put(table, "source", new.source.text)
        self._pins(table, "source", old, new)
        if new.files is None or new.files == old.files:
            return
        if old.files is not None:
            self._files(table, old.files, new.files)
        elif "include" in table:
            self._instead_of_include(table, new.files)
        else:
            self._insert(table, "source", [("files", new.files)])

    # -- values ----------------------------------------------------------------------------------------------------

    def _pins(self, table: Mapping, after: str, old: Model | FileSpec, new: Model | FileSpec) -> None:
        """Write size and digest: in place if they exist, else behind the key that they belong to."""
        missing: list[Pair] = []
        for key in ("size", "digest"):
            before, value = getattr(old, key), getattr(new, key)
            if value is None or value == before:
                continue
            written = value if isinstance(value, int) else str(value)
            if key in table:
                self._put(table, key, written)
            else:
                missing.append((key, written))
        if missing:
            neighbour = "size" if "size" in table and missing[0][0] == "digest" else after
            self._insert(table, neighbour, missing)

    def _files(self, table: Mapping, old: Sequence[FileSpec], new: Sequence[FileSpec]) -> None:
        for item, before, after in zip(items_of(table.get("files")), old, new, strict=True):
            if isinstance(item, Mapping):
                self._pins(item, "path", before, after)

    def _put(self, table: Mapping, key: str, value: Value) -> None:
        """Replace a value: a number plain, text in the same quotes."""
        leaf = table.get(key)
        if not isinstance(leaf, Scalar) or leaf.style not in (None, "'", '"', ALIAS):
            raise ValueError(f"{key} is written as a block of text")
        if isinstance(value, int) or leaf.style is None:
            written = str(value)  # a commit or a digest needs no quotes where there were none
        else:
            written = scalar(value, None if leaf.style == ALIAS else leaf.style)
        self._edits.add(_Edit(leaf.start, leaf.end, written))

    # -- new keys --------------------------------------------------------------------------------------------------

    def _insert(self, table: Mapping, after: str, pairs: Sequence[Pair]) -> None:
        """Insert new keys behind an existing one, in the layout of its mapping."""
        key, leaf = table.key(after), table.get(after)
        if not isinstance(leaf, Scalar) or leaf.style in ("|", ">"):
            raise ValueError(f"{after} is written as a block of text")
        indent = self._indent(table) if not table.flow else self._own_line(key)
        if indent is None:
            text = "".join(", " + self._inline(name, value, key.style) for name, value in pairs)
            self._edits.add(_Edit(leaf.end, leaf.end, text))
            return
        if table.flow:
            lines = [line for pair in pairs for line in self._flow_lines(pair, indent, key.style, ())]
            self._after_comma(leaf.end, lines)
        else:
            self._after_line(leaf.end, [line for pair in pairs for line in self._block_lines(pair, indent, key.style)])

    def _instead_of_include(self, table: Mapping, files: tuple[FileSpec, ...]) -> None:
        """Replace globs by the files that they match; comments between the globs are kept."""
        key, globs = table.key("include"), table.get("include")
        assert globs is not None  # noqa: S101 - the caller checked that it exists
        comments = tuple(self._comments(key.end, globs))
        pair: Pair = ("files", files)
        if table.flow:
            indent = self._own_line(key)
            if comments or indent is not None:
                lines = self._flow_lines(pair, indent or self._line_indent(key.start), key.style, comments)
                text = self._newline.join(lines).lstrip(" ")
            else:
                text = self._inline("files", files, key.style)
            self._edits.add(_Edit(key.start, globs.end, text))
            return
        indent = self._indent(table)
        end = line_end(self._text, globs.end)
        head, *items = self._block_lines(pair, indent, key.style)
        notes = [f"{items[0][: len(items[0]) - len(items[0].lstrip())]}{comment}" for comment in comments]
        first = head[len(indent) :] + self._text[globs.end : end]
        self._edits.add(_Edit(key.start, end, self._newline.join([first, *notes, *items])))

    def _after_line(self, at: int, lines: Sequence[str]) -> None:
        """Insert whole lines below the one that a value ends on."""
        end = line_end(self._text, at)
        new = self._newline.join(lines)
        found = _BREAK.match(self._text, end)
        if found:
            self._edits.add(_Edit(found.end(), found.end(), new + found[0]))
        else:
            self._edits.add(_Edit(end, end, self._newline + new))

    def _after_comma(self, at: int, lines: Sequence[str]) -> None:
        """Insert lines of a mapping in braces below a value's line, with commas between them."""
        comma = re.compile(r"[ \t]*,").match(self._text, at)
        joined = ("," + self._newline).join(lines)
        if comma:
            self._after_line(comma.end(), [joined + ","])
        else:
            self._edits.add(_Edit(at, at, ","))
            self._after_line(at, [joined])

    # -- forms -----------------------------------------------------------------------------------------------------

    def _block_lines(self, pair: Pair, indent: str, quotes: str | None) -> list[str]:
        """The lines of a key; a list of files has one line, or one block, for each."""
        name, value = pair
        key = indent + scalar(name, quotes)
        if isinstance(value, str | int):
            return [f"{key}: {scalar(value, quotes if isinstance(value, str) else None)}"]
        dash = indent + " " * self._dash
        lines = [f"{key}:"]
        for spec in value:
            if self._block_files:
                first, *others = (_pair(name, value, quotes) for name, value in _file_pairs(spec))
                lines += [f"{dash}- {first}", *(f"{dash}  {other}" for other in others)]
            else:
                lines.append(f"{dash}- {_braces(spec, quotes)}")
        return lines

    def _flow_lines(self, pair: Pair, indent: str, quotes: str | None, comments: Sequence[str]) -> list[str]:
        """The same within braces; what is one item of the result is one key with its value."""
        name, value = pair
        if isinstance(value, str | int):
            return [indent + _pair(name, value, quotes)]
        inner = self._newline + indent + "  "
        notes = "".join(inner + comment for comment in comments)
        files = ",".join(inner + _braces(spec, quotes) for spec in value)
        return [f"{indent}{scalar(name, quotes)}: [{notes}{files}{self._newline}{indent}]"]

    def _inline(self, name: str, value: Value | tuple[FileSpec, ...], quotes: str | None) -> str:
        if isinstance(value, str | int):
            return _pair(name, value, quotes)
        return f"{scalar(name, quotes)}: [{', '.join(_braces(spec, quotes) for spec in value)}]"

    # -- the text around -------------------------------------------------------------------------------------------

    def _line_indent(self, at: int) -> str:
        line = self._text[line_start(self._text, at) : at]
        return line[: len(line) - len(line.lstrip(" "))]

    def _indent(self, table: Mapping) -> str:
        first = table.entries[0].node.start
        return " " * (first - line_start(self._text, first))

    def _own_line(self, key: Scalar) -> str | None:
        """The indentation of a key in braces that begins its line and is alone on it; None for any other."""
        before = self._text[line_start(self._text, key.start) : key.start]
        if before.strip(" ") or not before:
            return None
        rest = self._text[key.end : line_end(self._text, key.end)]
        alone = re.fullmatch(r"""\s*:\s*("[^"]*"|'[^']*'|[^\s,{}\[\]"']+|\[[^\[\]{}]*)\s*(\]\s*)?,?\s*(#.*)?""", rest)
        return before if alone else None

    def _dash_offset(self, root: Mapping, models: Node | None) -> int:
        """How far the file indents the dashes of a list below the list's key."""
        if (
            not isinstance(models, yaml_nodes.Sequence)
            or models.flow
            or self._text[models.start : models.start + 1] != "-"
        ):
            return 2
        key = root.key("models")
        offset = (models.start - line_start(self._text, models.start)) - (key.start - line_start(self._text, key.start))
        return offset if 0 <= offset <= 8 else 2

    def _comments(self, at: int, spot: Node) -> Iterator[str]:
        """The comments from ``at`` to the end of a list, in order."""
        items = items_of(spot)
        if items and items[0].start < at:
            return  # an alias: its comments stay where the list is
        for item in items:
            yield from _COMMENT.findall(self._text, at, item.start)
            at = item.end
        yield from _COMMENT.findall(self._text, at, max(at, spot.end))


def _file_pairs(spec: FileSpec) -> list[tuple[str, Value]]:
    pairs: list[tuple[str, Value]] = [("path", spec.path)]
    if spec.size is not None:
        pairs.append(("size", spec.size))
    if spec.digest is not None:
        pairs.append(("digest", str(spec.digest)))
    return pairs


def newline_of(text: str) -> str:
    """Return the line break that a text uses first."""
    first = _BREAK.search(text)
    return first[0] if first else "\n"


def line_start(text: str, at: int) -> int:
    """Return where the line of a position begins."""
    return max(text.rfind("\n", 0, at), text.rfind("\r", 0, at)) + 1


def line_end(text: str, at: int) -> int:
    """Return where the line of a position ends, before its break."""
    found = _BREAK.search(text, at)
    return found.start() if found else len(text)


def _braces(spec: FileSpec, quotes: str | None) -> str:
    return "{" + ", ".join(_pair(name, value, quotes) for name, value in _file_pairs(spec)) + "}"


def _pair(name: str, value: Value, quotes: str | None) -> str:
    return f"{scalar(name, quotes)}: {scalar(value, quotes if isinstance(value, str) else None)}"


def scalar(value: Value, style: str | None) -> str:
    """A value in the given quotes; without any where that is still the same value to every reader of YAML."""
    text = str(value)
    if style == "'" and "'" not in text:
        return f"'{text}'"
    safe = _PLAIN_URI.match(text) or (_PLAIN.match(text) and core_schema.resolve(text) == text)
    if style is None and (safe or isinstance(value, int)):
        return text
    return json.dumps(text, ensure_ascii=False)
