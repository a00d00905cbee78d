"""Append entries to a manifest's text; every other character stays. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfetch.core.urls import without_credentials
from modelfetch.manifest import yaml_nodes
from modelfetch.manifest.uri import HttpUri
from modelfetch.pinning.text_edits import line_end, line_start, locate, newline_of, scalar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from modelfetch.manifest.model import Model
    from modelfetch.manifest.uri import Uri


def new_manifest(models: Iterable[Model], schema: str) -> str:
    """The text of a manifest of these models; its first line names the schema for editors."""
    entries = "".join(f"{line}\n" for model in models for line in entry_lines(model, "  "))
    return f"# yaml-language-server: $schema={schema}\nversion: 1\nmodels:\n{entries}"


def append(text: str, models: Sequence[Model]) -> str:
    """The text with more entries behind the last one of its ``models``.

    Args:
        text: A manifest that the loader takes, without a byte order mark.
        models: What to append.

    Raises:
        ValueError: The list is written in a way that can't be continued; the message describes it.
    """
    newline = newline_of(text)
    root = locate(text)
    rows = root.get("models")
    if rows is None:
        return _at_end(text, ["models:", *(line for model in models for line in entry_lines(model, "  "))], newline)
    if not isinstance(rows, yaml_nodes.Sequence) or text[rows.start : rows.start + 1] == "*":
        raise ValueError("models is an alias")
    if not rows.flow:
        at = _end_of_entry(text, rows)
        dash = " " * (rows.start - line_start(text, rows.start))
        lines = [line for model in models for line in entry_lines(model, dash)]
        if at and text[at - 1] not in "\r\n":
            return text[:at] + newline + newline.join(lines) + text[at:]
        return text[:at] + newline.join(lines) + newline + text[at:]
    if not rows.items:
        indent = " " * (root.key("models").start - line_start(text, root.key("models").start))
        lines = [line for model in models for line in entry_lines(model, indent + "  ")]
        if root.flow:
            raise ValueError("the manifest is written in braces")
        return text[: rows.start].rstrip(" ") + newline + newline.join(lines) + text[rows.end :]
    last = rows.items[-1].end
    return text[:last] + "".join(f", {_braces(model)}" for model in models) + text[last:]


def entry_lines(model: Model, indent: str) -> list[str]:
    """The lines of an entry."""
    lines = [f"{key}: {value}" for key, value in _pairs(model)]
    if model.files is not None:
        lines.append("files:")
        for spec in model.files:
            pairs = [("path", scalar(spec.path, None))]
            pairs += [("size", str(spec.size))] if spec.size is not None else []
            pairs += [("digest", scalar(str(spec.digest), None))] if spec.digest is not None else []
            lines.append("  - {" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}")
    lines.append(f"for: [{', '.join(model.consumers)}]")
    return [f"{indent}{'- ' if number == 0 else '  '}{line}" for number, line in enumerate(lines)]


def _pairs(model: Model) -> list[tuple[str, str]]:
    """The keys of an entry that have a value, as they are to be written."""
    values = (
        ("name", model.name),
        ("kind", model.kind),
        ("task", model.task),
        ("source", _source(model.source)),
        ("size", model.size),
        ("digest", str(model.digest) if model.digest else None),
        ("filename", model.filename),
        ("path", model.path),
        ("license", model.license),
        ("allow_pickle", True if model.allow_pickle else None),
    )
    return [(key, "true" if value is True else scalar(value, None)) for key, value in values if value is not None]


def _source(source: Uri) -> str:
    """A source as it is written: what its address needs to find the file, but no credential."""
    return without_credentials(source.text) if isinstance(source, HttpUri) else str(source)


def _braces(model: Model) -> str:
    lines = entry_lines(model, "")
    pairs = [line[2:] for line in lines if not line.startswith("    - ") and line[2:] != "files:"]
    files = [line[6:] for line in lines if line.startswith("    - ")]
    if files:
        pairs.insert(-1, f"files: [{', '.join(files)}]")
    return "{" + ", ".join(pairs) + "}"


def _end_of_entry(text: str, rows: yaml_nodes.Sequence) -> int:
    """The end of the line of the last entry's last value."""
    at = rows.items[-1].end
    if at and text[at - 1] in "\r\n":
        return at  # a block of text ends with its line
    return line_end(text, at)


def _at_end(text: str, lines: Sequence[str], newline: str) -> str:
    gap = "" if not text or text[-1] in "\r\n" else newline
    return text + gap + newline.join(lines) + newline
