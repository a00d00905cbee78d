"""Error lines: one line with the model, the place and the reason, then a hint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from modelfetch.core.urls import hide_secrets
from modelfetch.errors import ManifestError, ModelfetchError
from modelfetch.render.out import note
from modelfetch.render.text import plain

if TYPE_CHECKING:
    from typing import Protocol

    class Reportable(Protocol):
        """A report of any command."""

        def as_dict(self) -> dict[str, Any]:
            """Return the report, with its ``errors``."""


def report_json(report: Reportable, command: str | None) -> str:
    """A report as JSON, with the hints that `error_lines` shows."""
    values = report.as_dict()
    if values.get("tier"):
        values["tier"] = hide_secrets(values["tier"])  # it may be the name of none
    for error in values["errors"]:
        error["message"] = hide_secrets(error["message"])
        error["hint"] = hide_secrets(_named(error["hint"] or "", command)) or None
    return json.dumps(values)


def error_lines(error: ModelfetchError, command: str | None = None) -> list[str]:
    """The lines of an error; each problem of a manifest has its own.

    ``command`` replaces the word COMMAND in a hint.
    """
    if isinstance(error, ManifestError):
        lines = [f"error: {plain(hide_secrets(str(problem)))}" for problem in error.problems]
    else:
        named = error.model and error.message.startswith((f"{error.model} ", f"{error.model}:"))
        name = f"{error.model}: " if error.model and not named else ""
        lines = [f"error: {plain(hide_secrets(name + error.message))}"]
    if error.hint:
        lines.append(f"hint: {plain(hide_secrets(_named(error.hint, command)))}")
    return lines


def _named(hint: str, command: str | None) -> str:
    return hint.replace(" COMMAND ", f" {command} ") if command else hint


def show_error(error: ModelfetchError, command: str | None = None) -> None:
    """Print an error on stderr."""
    note("\n".join(error_lines(error, command)))


def show_errors(errors: tuple[ModelfetchError, ...], command: str | None = None) -> None:
    """Print errors on stderr; a hint that several share is printed once, after the last of them."""
    for number, error in enumerate(errors):
        following = errors[number + 1] if number + 1 < len(errors) else None
        lines = error_lines(error, command)
        if error.hint and following is not None and following.hint == error.hint:
            lines = lines[:-1]
        note("\n".join(lines))
