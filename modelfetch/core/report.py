"""The report of a command: the result for each file, and every error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelfetch.errors import ModelfetchError, exit_code_of, raise_decisive

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactReport:
    """One file: its source (None: nothing was fetched), digest, size in bytes, and the action taken.

    ``action`` is one of fetched, resumed, adopted, present, missing, changed, damaged, foreign, would-fetch,
    would-remove, removed, failed, skipped; ``placements`` are paths below the root.
    """

    uri: str
    served_by: str | None = None
    digest: str | None = None
    size: int | None = None
    action: str
    bytes_fetched: int = 0
    placements: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``served_by`` becomes ``from``."""
        return {
            "uri": self.uri,
            "from": self.served_by,
            "digest": self.digest,
            "size": self.size,
            "action": self.action,
            "bytes_fetched": self.bytes_fetched,
            "placements": list(self.placements),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """One model of the manifest; ``ok`` if all of it is present, verified and in place."""

    name: str
    ok: bool
    artifacts: tuple[ArtifactReport, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {"name": self.name, "ok": self.ok, "artifacts": [artifact.as_dict() for artifact in self.artifacts]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of a command. ``seconds`` of wall time; ``bytes_fetched`` over the network; ``requests`` sent."""

    ok: bool
    exit_code: int
    tier: str | None
    root: str
    seconds: float = 0.0
    bytes_fetched: int = 0
    requests: int = 0
    models: tuple[ModelReport, ...] = ()
    errors: tuple[ModelfetchError, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary, as ``--json`` prints it."""
        return {
            "ok": self.ok,
            "exit_code": self.exit_code,
            "tier": self.tier,
            "root": self.root,
            "seconds": round(self.seconds, 3),
            "bytes_fetched": self.bytes_fetched,
            "requests": self.requests,
            "models": [model.as_dict() for model in self.models],
            "errors": [single.as_dict() for error in self.errors for single in error.each()],
        }

    def raise_for_error(self) -> Report:
        """Return the report if it contains no error, else raise the error that determines the exit code."""
        raise_decisive(self.errors, self.exit_code)
        return self


def failed(errors: Iterable[ModelfetchError], *, tier: str | None, root: str, seconds: float = 0.0) -> Report:
    """Return the report of a command that failed before it processed any model."""
    found = tuple(errors)
    return Report(ok=False, exit_code=exit_code_of(found), tier=tier, root=root, seconds=seconds, errors=found)
