"""Build the frozen values of `model` from parsed keys, and apply the rules between the keys of one file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelfetch.manifest.merge import Part
from modelfetch.manifest.model import FileSpec, Model, Service
from modelfetch.manifest.rules import rule_violations

if TYPE_CHECKING:
    from modelfetch.manifest.composite_types import Values
    from modelfetch.manifest.field_types import Reader


def part(values: Values, file: str, reader: Reader) -> Part:
    """Build one file's part of a manifest; conflicts between its keys are noted as problems."""
    services: dict[str, Values] = values.get("services") or {}
    if "extends" not in values.keys:
        if "models" not in values.keys:
            reader.problem(values.position, "missing key 'models' (or 'extends')")
        if "drop" in values.keys:
            reader.problem(values.at("drop"), "drop: only a manifest that extends another can drop models")
    return Part(
        file=file,
        values=values,
        extends=values.get("extends"),
        services=tuple(Service(name=name, **v.values) for name, v in services.items()),
        models=_models(values, reader),
    )


def _models(values: Values, reader: Reader) -> tuple[Model, ...]:
    models: dict[str, Model] = {}
    seen: dict[str, int] = {}
    for index, (entry, at) in enumerate(values.get("models", ())):
        name = entry.get("name")
        label = f"models[{index}]" + (f" ({name[:60]})" if name is not None else "")
        if name is not None and (line := seen.setdefault(name, at.line)) and name in models:
            reader.problem(
                entry.at("name"), f"{label}: expected each name once, found {name!r} again (first: line {line})"
            )
        for where, message in rule_violations(entry):
            reader.problem(where, f"{label}: {message}")
            reader.unsound.add(entry.position)
        built = _model(entry)
        if built is not None and name not in models:
            models[name] = built
    return tuple(models.values())


def _model(v: Values) -> Model | None:
    """Build a model; None if its name, source or consumers are missing or wrong."""
    consumers = tuple(consumer for consumer, _ in v.get("for", ()))
    if v.get("name") is None or v.get("source") is None or not consumers:
        return None
    return Model(
        consumers=consumers,
        position=v.position,
        mirrors=tuple(uri for uri, _ in v.get("mirrors", ())),
        files=tuple(_file(entry) for entry, _ in v.get("files")) if v.get("files") is not None else None,
        include=tuple(glob for glob, _ in v.get("include")) if v.get("include") is not None else None,
        **{key: value for key, value in v.values.items() if key not in _LISTS},
    )


_LISTS = ("for", "mirrors", "files", "include")


def _file(v: Values) -> FileSpec:
    given: dict[str, Any] = {"path": ".", **v.values}
    return FileSpec(**given)
