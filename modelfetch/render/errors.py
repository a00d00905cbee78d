"""Error lines: one line with the model, the place and the reason, then a hint."""

from __future__ import annotations

from modelfetch.errors import ManifestError, ModelfetchError
from modelfetch.render.out import note
from modelfetch.render.text import plain


def error_lines(error: ModelfetchError, command: str | None = None) -> list[str]:
    """The lines of an error; each problem of a manifest has its own.

    ``command`` replaces the word COMMAND in a hint.
    """
    if isinstance(error, ManifestError):
        lines = [f"error: {plain(str(problem))}" for problem in error.problems]
    else:
        named = error.model and error.message.startswith((f"{error.model} ", f"{error.model}:"))
        name = f"{error.model}: " if error.model and not named else ""
        lines = [f"error: {plain(name + error.message)}"]
    if error.hint:
        lines.append(f"hint: {plain(error.hint.replace(' COMMAND ', f' {command} ') if command else error.hint)}")
    return lines


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
