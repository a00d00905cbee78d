"""Options that take their value from the command line, then the environment, with the contract's precedence."""

from __future__ import annotations

import math
import os
import re
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from modelfetch.core.units import parse_age, parse_size
from modelfetch.errors import SettingError
from modelfetch.manifest.model import CONSUMERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class EnvOption(click.Option):
    """An option that ``MODELFETCH_<COMMAND>_<OPTION>`` and ``MODELFETCH_<OPTION>`` set as well.

    An empty variable is an unset one, lists split at commas, and a bad value is a bad setting (exit 78), where the
    same value on the command line would be wrong usage (exit 2).
    """

    def variables(self, ctx: click.Context) -> tuple[str, str]:
        """The names of the variables, the more specific one first."""
        option = max(self.opts, key=len).lstrip("-").replace("-", "_").upper()
        command = (ctx.info_name or "").replace("-", "_").upper()
        return f"MODELFETCH_{command}_{option}", f"MODELFETCH_{option}"

    def found(self, ctx: click.Context) -> tuple[str, str] | None:
        """The variable that is set, and its value."""
        for name in self.variables(ctx):
            if value := os.environ.get(name, "").strip():
                return name, value
        return None

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The value that the environment gives."""
        found = self.found(ctx)
        return found[1] if found else None

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """The value, as a list where the option may be repeated."""
        value = self.resolve_envvar_value(ctx)
        if value is not None and self.multiple:
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Parse as click does; what the environment got wrong is a setting's error."""
        try:
            return super().handle_parse_result(ctx, opts, args)
        except click.BadParameter as error:
            found = self.found(ctx)
            if found is None or ctx.get_parameter_source(self.name or "") is not ParameterSource.ENVIRONMENT:
                raise
            raise SettingError(f"{found[0]}={found[1]}: {error.format_message()}") from None


class Count(click.IntRange):
    """A whole number within bounds, whose messages call it so."""

    name = "whole number"


class Seconds(click.FloatRange):
    """Seconds, which not-a-number is none of: every comparison with it is false, so a wait would have no end."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Text to a number."""
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return seconds


class Folder(click.ParamType[str]):
    """A folder's path. An empty one is a variable of a script that was never set, so it is no folder at all."""

    name = "folder"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The path as it was given."""
        if not str(value).strip():
            self.fail("expected a folder, found nothing", param, ctx)
        return str(value)


class Size(click.ParamType[int]):
    """A number of bytes, ``50MB`` or ``7.5GiB``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Text to bytes."""
        if isinstance(value, int):
            return value
        try:
            size = parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if size <= 0:
            self.fail(f"expected more than nothing, found {value!r}", param, ctx)
        return size


class Age(click.ParamType[float]):
    """How old something must be, as ``30d`` or ``12h``; its value is in seconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Text to seconds."""
        if isinstance(value, float):
            return value
        try:
            return parse_age(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Owner(click.ParamType[tuple[int, int]]):
    """``UID:GID`` as numbers."""

    name = "uid:gid"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Text to (uid, gid)."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", value)
        if not match:
            self.fail(f"expected UID:GID as numbers, found {value!r}", param, ctx)
        return int(match[1]), int(match[2])


def option(*names: str, **attributes: Any) -> Callable[[Any], Any]:
    """An option of `EnvOption`'s kind."""
    return click.option(*names, cls=EnvOption, **attributes)


def combined(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several decorators as one, in reading order."""

    def decorate(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


which = combined(
    option("--tier", metavar="NAME", help="The tier to work on, such as 16g (`modelfetch tiers` lists them)."),
    option(
        "--manifest", "manifests", metavar="FILE", multiple=True, help="A manifest file instead of a tier; repeatable."
    ),
)
"""Which manifests a command is about."""

where = combined(
    option(
        "--root",
        metavar="DIR",
        type=Folder(),
        default="./files/ai-models",
        show_default=True,
        help="Where the models go.",
    ),
    option("--store", metavar="DIR", type=Folder(), help="Where verified blobs are kept.  [default: ROOT/.modelfetch]"),
    option(
        "--for",
        "consumers",
        metavar="CONSUMER",
        multiple=True,
        type=click.Choice(CONSUMERS),
        help="Only what this service needs; repeatable.",
    ),
)
"""Where a command works and for whom."""

how = combined(
    option("--offline", is_flag=True, help="Ask nobody: fail where something is missing."),
    option("--refresh", is_flag=True, help="Resolve again what the manifest leaves open."),
    option("--require-digests", is_flag=True, help="Refuse entries whose bytes the manifest does not pin."),
    option("--keep-going", is_flag=True, help="Go on with the other models when one fails."),
)
"""How strict a command is."""

moving = combined(
    option("--jobs", metavar="N", type=Count(1, 64), default=4, show_default=True, help="Files fetched at once."),
    option(
        "--connections",
        metavar="N",
        type=Count(1, 64),
        default=8,
        show_default=True,
        help="Connections per file at most.",
    ),
    option("--limit-rate", metavar="SIZE", type=Size(), help="Bytes per second for the whole process, such as 50MB."),
    option(
        "--retries",
        metavar="N",
        type=Count(0, 100),
        default=5,
        show_default=True,
        help="Tries in a row without progress.",
    ),
    option("--lock-timeout", metavar="SECONDS", type=Seconds(0), help="Wait for another process at most so long."),
)
"""How bytes are moved."""

transfers = combined(
    moving,
    option("--chown", metavar="UID:GID", type=Owner(), help="Owner of directories and copies."),
)
"""How bytes are moved, and whose they are in the end."""

removal = combined(
    option("--dry-run", is_flag=True, help="Show what would be removed, with sizes; remove nothing."),
    option(
        "--keep-tier",
        "keep_tiers",
        metavar="NAME",
        multiple=True,
        help="Keep what this tier asks for; repeatable.",
    ),
    option("--older-than", metavar="AGE", type=Age(), help="Remove only what is older than this, such as 30d."),
    option("--lock-timeout", metavar="SECONDS", type=Seconds(0), help="Maximum time to wait for another process."),
)
"""What may be removed."""

output = combined(
    option(
        "--progress",
        type=click.Choice(["auto", "bar", "log", "json", "none"]),
        default="auto",
        show_default=True,
        help="How progress is shown on stderr.",
    ),
    option("--json", "as_json", is_flag=True, help="The report as JSON on stdout."),
    option("-v", "--verbose", is_flag=True, help="Say more."),
    option("-q", "--quiet", is_flag=True, help="Say only what went wrong."),
)
"""What a command says."""
