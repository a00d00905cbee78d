"""The values of `add`: what to add, what was found, and the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelfetch.errors import ModelfetchError, exit_code_of, raise_decisive
from modelfetch.tiers.selection import DEFAULT_MANIFEST

if TYPE_CHECKING:
    from pathlib import Path

    from modelfetch.fitting.types import FitReport
    from modelfetch.manifest.model import Model

Choose = Callable[[str, Sequence[str]], str]
"""Prompts with a question and its answers; returns the chosen one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddRequest:
    """The links to add, and the caller's choices.

    Attributes:
        links: Links or URIs.
        manifest: The file that takes the entries; made when it is missing.
        kind: The kind of all of them; None to detect each one's.
        consumers: The services that they are for; empty to detect them.
        name: The name of the only link's entry.
        dry_run: Write nothing.
        choose: Called with a question that detection can't answer; None to fail instead.
    """

    links: tuple[str, ...]
    manifest: Path = DEFAULT_MANIFEST
    kind: str | None = None
    consumers: tuple[str, ...] = ()
    name: str | None = None
    dry_run: bool = False
    choose: Choose | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """One link: its entry, what was found out about it, and whether the manifest had it already.

    ``size`` is in bytes, of all its files together; None if it is not known.
    """

    model: Model
    family: str | None = None
    why: str = ""
    is_new: bool = True
    fit: FitReport | None = None
    size: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        model = self.model
        return {
            "name": model.name,
            "kind": model.kind,
            "for": list(model.consumers),
            "source": str(model.source),
            "size": self.size,
            "digest": str(model.digest) if model.digest else None,
            "license": model.license,
            "family": self.family,
            "detected_by": self.why or None,
            "added": self.is_new,
            "fit": self.fit.as_dict() if self.fit is not None else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AddReport:
    """The result of `add`: each link's entry in order, and whether the manifest was written."""

    manifest: str
    added: tuple[Added, ...] = ()
    written: bool = False
    errors: tuple[ModelfetchError, ...] = ()
    seconds: float = 0.0
    requests: int = 0

    @property
    def exit_code(self) -> int:
        """The exit code of the first error by precedence, 0 without one."""
        return exit_code_of(self.errors)

    @property
    def ok(self) -> bool:
        """Whether every link is in the manifest, or would be without ``dry_run``."""
        return not self.errors

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "ok": self.ok,
            "exit_code": self.exit_code,
            "manifest": self.manifest,
            "written": self.written,
            "seconds": round(self.seconds, 3),
            "requests": self.requests,
            "models": [one.as_dict() for one in self.added],
            "errors": [error.as_dict() for error in self.errors],
        }

    def raise_for_error(self) -> AddReport:
        """Return the report if it contains no error, else raise the error that determines the exit code."""
        raise_decisive(self.errors, self.exit_code)
        return self
