"""Command-line options that can also be set in the environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from modelfetch.cli import complete
from modelfetch.config.options import PARSERS, Options
from modelfetch.core.root import CONSUMERS, DEFAULT_ROOT
from modelfetch.core.similar import nearest
from modelfetch.core.urls import hide_secrets
from modelfetch.errors import SettingError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from click.shell_completion import CompletionItem

    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # generic from click 8.4 on


_DEFAULTS = Options()


class EnvOption(click.Option):
    """An option that ``MODELFETCH_<COMMAND>_<OPTION>`` or ``MODELFETCH_<OPTION>`` can also set.

    An empty variable counts as unset, and lists are separated by commas. An invalid value is a `SettingError` (exit
    code 78) in a variable, and a usage error (2) on the command line.
    """

    def variables(self, ctx: click.Context) -> tuple[str, str]:
        """The names of the variables, the more specific one first."""
        option = max(self.opts, key=len).lstrip("-").replace("-", "_").upper()
        command = (ctx.info_name or "").replace("-", "_").upper()
        return f"MODELFETCH_{command}_{option}", f"MODELFETCH_{option}"

    def found(self, ctx: click.Context) -> tuple[str, str] | None:
        """The variable that is set and its value; None if neither is."""
        for name in self.variables(ctx):
            if value := os.environ.get(name, "").strip():
                return name, value
        return None

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The value from the environment."""
        found = self.found(ctx)
        return found[1] if found else None

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """The value, as a list if the option may be repeated."""
        value = self.resolve_envvar_value(ctx)
        if value is not None and self.multiple:
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Parse as click does; an invalid variable raises `SettingError`."""
        try:
            return super().handle_parse_result(ctx, opts, args)
        except click.BadParameter as error:
            found = self.found(ctx)
            if found is None or ctx.get_parameter_source(self.name or "") is not ParameterSource.ENVIRONMENT:
                raise
            hint = error.hint if isinstance(error, RefusedValue) else None
            reason = "expected true or false" if self.is_flag else error.message
            raise SettingError(f"{found[0]}={hide_secrets(found[1]):.80}: {reason}", hint=hint) from None


class NamesOption(EnvOption):
    """A repeatable option whose names may be separated by commas on the command line too."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Split, then convert as click does; an empty name stays, and is refused."""
        return super().type_cast_value(ctx, [name.strip() for part in value or () for name in part.split(",")])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the last name of a list."""
        before, comma, last = incomplete.rpartition(",")
        items = super().shell_complete(ctx, last)
        for item in items:
            item.value = f"{before}{comma}{item.value}"
        return items


class RefusedValue(click.BadParameter):
    """An invalid value of an option; ``hint``: what to write instead, if known."""

    hint: str | None = None


class OneOf(click.Choice[str]):
    """One of several words; a misspelled one is suggested."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the word; raises `RefusedValue`."""
        if value in self.choices:
            return str(value)
        error = RefusedValue(f"{str(value)[:80]!r} is not one of {', '.join(self.choices)}", ctx, param)
        near = nearest(str(value), self.choices)
        error.hint = f"did you mean {near}?" if near else None
        raise error


class Parsed(_ParamType):
    """A parameter type that uses a parser of `modelfetch.config.options`."""

    def __init__(self, name: str, parse: Callable[[object], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse a value."""
        try:
            return self._parse(value)
        except UsageError as error:
            refused = RefusedValue(error.message, ctx, param)
            refused.hint = error.hint
            raise refused from None
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Let the shell complete files and folders."""
        if self.name == "path":
            return complete.files(ctx, param, incomplete)
        return complete.folders(ctx, param, incomplete) if self.name in ("root", "store") else []


def value(name: str) -> Parsed:
    """The parameter type for the option ``name`` of `modelfetch.config.options`."""
    return Parsed(name, PARSERS[name])


def option(*names: str, **attributes: Any) -> Callable[[Any], Any]:
    """Declare an `EnvOption`; if ``modelfetch.config.options`` has a parser or default for its name, it gets these."""
    name = next((name for name in names if not name.startswith("-")), max(names, key=len).lstrip("-").replace("-", "_"))
    if name in PARSERS and not (attributes.get("is_flag") or attributes.get("multiple")):
        attributes = {"type": value(name), **attributes}
    if "default" not in attributes and isinstance(default := getattr(_DEFAULTS, name, None), int) and default:
        attributes |= {"default": default, "show_default": True}
    return click.option(*names, **{"cls": EnvOption, **attributes})


def accept_hidden(decorate: Callable[[Any], Any], *, keep: Sequence[str] = ()) -> Callable[[Any], Any]:
    """Accept options that have no effect on a command, since variables and shared scripts set them; help omits them.

    ``keep`` names those that help lists nevertheless.
    """

    def mark(function: Any) -> Any:
        before = len(getattr(function, "__click_params__", ()))
        function = decorate(function)
        for parameter in function.__click_params__[before:]:
            parameter.hidden = parameter.name not in keep
        return function

    return mark


def combined(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Combine several decorators into one, in reading order."""

    def decorate(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


files = click.argument("paths", metavar="[FILE]...", nargs=-1, type=value("file"), shell_complete=complete.files)
"""Manifests as positional arguments."""


manifest_options = combined(
    option(
        "--tier",
        metavar="NAME",
        shell_complete=complete.tiers,
        help="Tier to work on, such as 16g; auto chooses by the GPU (see `modelfetch tiers`).",
    ),
    option(
        "--manifest",
        "manifests",
        metavar="FILE",
        multiple=True,
        type=value("path"),
        help="Manifest file instead of a tier; repeatable.",
    ),
)
"""Which manifests a command works on."""

root = option(
    "--root",
    metavar="DIR",
    default=DEFAULT_ROOT,
    show_default=True,
    help="Folder for the models.",
)
store = option("--store", metavar="DIR", help="Folder that keeps each verified file once.  [default: ROOT/.modelfetch]")

hash_store = option(
    "--store",
    metavar="DIR",
    help="Folder for files that must be downloaded to be hashed.  [default: the user's cache]",
)

folder_options = combined(
    root,
    store,
    option(
        "--for",
        "consumers",
        cls=NamesOption,
        metavar="CONSUMER",
        multiple=True,
        type=OneOf(CONSUMERS),
        help="Only what this service needs; repeatable or comma-separated.",
    ),
    option(
        "--consumer-dir",
        "consumer_dirs",
        metavar="CONSUMER=DIR",
        multiple=True,
        type=value("consumer_dir"),
        help="Folder of a service outside ROOT; repeatable.",
    ),
)
"""The folders and services that a command works on."""

offline = option("--offline", is_flag=True, help="Disable network access; fail if anything is missing.")
refresh = option("--refresh", is_flag=True, help="Look for new versions of entries that are not pinned.")
retries = option(
    "--retries",
    metavar="N",
    help="Maximum consecutive attempts without progress, 0 to 100.",
)
lock_timeout = option(
    "--lock-timeout",
    metavar="SECONDS",
    help="Maximum time to wait for another process's lock.  [default: no limit]",
)
require_digests = option("--require-digests", is_flag=True, help="Refuse entries without a digest in the manifest.")

strict_options = combined(
    offline,
    refresh,
    require_digests,
    option("--keep-going", is_flag=True, help="Continue with the other models when one fails."),
)
"""How strict a command is."""

download_options = combined(
    option(
        "--jobs",
        metavar="N",
        help="Files to download at once, 1 to 64.",
    ),
    option(
        "--connections",
        metavar="N",
        help="Maximum connections per file, 1 to 64.",
    ),
    option(
        "--limit-rate",
        metavar="SIZE",
        help="Maximum rate of the whole process in bytes per second, such as 50MB.",
    ),
    retries,
    lock_timeout,
)
"""How bytes are transferred."""

transfer_options = combined(
    download_options,
    option("--chown", metavar="UID:GID", help="Owner of directories and copies."),
    option(
        "--min-free",
        metavar="SIZE",
        help="Space to leave free on each disk, such as 20GiB.",
    ),
)
"""How bytes are transferred, and who owns the files."""

removal_options = combined(
    option("--dry-run", is_flag=True, help="Show what would be removed, with sizes; remove nothing."),
    option(
        "--keep-tier",
        "keep_tiers",
        cls=NamesOption,
        metavar="NAME",
        multiple=True,
        shell_complete=complete.tiers,
        help="Keep what this tier needs; repeatable.",
    ),
    option(
        "--older-than",
        metavar="AGE",
        help="Remove only what is older than this, such as 30d.",
    ),
    accept_hidden(strict_options),
    accept_hidden(transfer_options, keep=("lock_timeout",)),
)
"""What may be removed."""

progress = option(
    "--progress",
    type=OneOf(["auto", "bar", "log", "json", "none"]),
    default="auto",
    show_default=True,
    help="How progress is shown on stderr.",
)
verbose = option("-v", "--verbose", is_flag=True, help="Show more detail.")

output_options = combined(
    progress,
    option("--json", "as_json", is_flag=True, help="Print the report as JSON on stdout."),
    verbose,
    option("-q", "--quiet", is_flag=True, help="Show errors and warnings only."),
)
"""Output of a command."""
