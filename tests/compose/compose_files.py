"""The compose files as values, without Docker: with their defaults, or with some variables set."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REPOSITORY = Path(__file__).resolve().parents[2]
INCLUDED = ("compose/docker-compose.ai.yml", "compose/docker-compose.media.yml")
HWACCEL = "compose/hwaccel.yml"
INIT = "compose/init.yml"
FILES = ("compose.yaml", *INCLUDED, HWACCEL, INIT)
OVERRIDES = ("secrets.yml", "ca.yml", "registry-login.yml", "selinux.yml", "podman.yml")
VENDORS = ("nvidia", "amd", "intel", "cpu")

_OPENING = re.compile(r"\$\$|\$\{([A-Z0-9_]+)(:?[-+])?|\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One `${NAME…}` of a file: ``operator`` is one of ``:- - :+ +`` or empty, ``word`` what follows it, as written."""

    name: str
    operator: str
    word: str


@dataclass(slots=True)
class _Open:
    name: str
    operator: str
    parts: list[str] = field(default_factory=list)


def uses(text: str) -> Iterator[Use]:
    """Every variable of a text, the inner ones of nested uses first."""
    open_uses: list[tuple[str, str, int]] = []
    for match in _OPENING.finditer(text):
        if match[0] == "$$":
            continue
        if match[0] != "}":
            open_uses.append((match[1], match[2] or "", match.end()))
        elif open_uses:
            name, operator, start = open_uses.pop()
            yield Use(name=name, operator=operator, word=text[start : match.start()])


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """A text with its variables, as compose reads it."""
    stack = [_Open("", "")]
    end = 0
    for match in _OPENING.finditer(text):
        stack[-1].parts.append(text[end : match.start()])
        end = match.end()
        if match[0] == "$$":
            stack[-1].parts.append("$")
        elif match[0] != "}":
            stack.append(_Open(match[1], match[2] or ""))
        elif len(stack) == 1:
            stack[-1].parts.append("}")
        else:
            closed = stack.pop()
            stack[-1].parts.append(_value(closed, "".join(closed.parts), variables))
    stack[-1].parts.append(text[end:])
    assert len(stack) == 1, f"an open ${{ in {text!r}"
    return "".join(stack[0].parts)


def _value(use: _Open, word: str, variables: Mapping[str, str]) -> str:
    value = variables.get(use.name)
    there = bool(value) if use.operator.startswith(":") else value is not None
    if use.operator.endswith("+"):
        return word if there else ""
    return value or "" if there else word


def read(name: str, variables: Mapping[str, str] | None = None) -> Any:
    """A compose file with its variables replaced."""
    return _replaced(_document(name), variables or {})


@cache
def _document(name: str) -> Any:
    return YAML(typ="safe").load(REPOSITORY / name)


def _replaced(node: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _replaced(value, variables) for key, value in node.items()}
    if isinstance(node, list):
        return [_replaced(value, variables) for value in node]
    return interpolate(node, variables) if isinstance(node, str) else node


def services(**variables: str) -> dict[str, dict[str, Any]]:
    """All services, each with the parts that it extends: ``device`` is the part from hwaccel.yml alone."""
    shared = {name: read(name, variables)["services"] for name in (HWACCEL, INIT)}
    found: dict[str, dict[str, Any]] = {}
    for name in INCLUDED:
        for service, body in read(name, variables)["services"].items():
            extends = body.get("extends")
            base = shared[extends["file"]][extends["service"]] if extends else {}
            environment = {**base.get("environment", {}), **body.get("environment", {})}
            device = base if extends and extends["file"] == HWACCEL else {}
            found[service] = {**base, **body, "environment": environment, "device": device}
    return found


def example_settings() -> dict[str, str]:
    """The variables of `.env.example`, those in comments too."""
    found: dict[str, str] = {}
    text, _, others = (REPOSITORY / ".env.example").read_text().partition("# --- The other tiers")
    assert others
    for line in text.splitlines():
        if match := re.match(r"#?([A-Z][A-Z0-9_]*)=(.*)\Z", line):
            found[match[1]] = match[2].strip('"')
    return found
