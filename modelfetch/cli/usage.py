"""Turn click's usage errors into errors of our own, with a hint of what to type instead."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from modelfetch.cli.options import RefusedValue
from modelfetch.core.similar import nearest
from modelfetch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

_OTHER_WORDS = {
    "check": "verify",
    "clean": "prune",
    "delete": "remove",
    "doctor": "verify",
    "download": "sync",
    "du": "list",
    "gc": "prune",
    "get": "fetch",
    "info": "status",
    "init": "add",
    "install": "sync",
    "lint": "validate",
    "lock": "pin",
    "pull": "sync",
    "repair": "verify --repair",
    "rm": "remove",
    "show": "status",
    "uninstall": "remove",
    "update": "sync --refresh",
    "upgrade": "pin",
    "version": "--version",
}
"""Words that other programs use for what a command of ours does."""

_FORCE = ("--force", "--overwrite", "--yes", "-y")
_NO_QUESTION = "it is not needed: no question is asked; --dry-run shows what would be removed"
_INSTEAD_OF_FORCE = {
    "prune": _NO_QUESTION,
    "remove": _NO_QUESTION,
    "sync": "for new versions: modelfetch sync --refresh; for damaged files: modelfetch verify --repair",
}


class NoSuchCommand(click.UsageError):
    """A command that does not exist; ``near`` is the one that was probably meant."""

    def __init__(self, name: str, known: Collection[str], ctx: click.Context) -> None:
        super().__init__(f"there is no command {name[:80]!r}", ctx)
        self.near = _OTHER_WORDS.get(name) or nearest(name, known)


def usage_error(error: click.UsageError, command: str | None) -> UsageError:
    """The error for a wrong command line; ``command`` is the one that was called, if click does not know it."""
    where = error.ctx.command_path if error.ctx else " ".join(("modelfetch", *([command] if command else ())))
    return UsageError(_message(error), hint=_suggestion(error, where))


def _message(error: click.UsageError) -> str:
    if isinstance(error, click.NoSuchOption):
        return f"there is no option {error.option_name[:80]}"
    message = " ".join(error.format_message().split()).removesuffix(".")  # click lists choices on separate lines
    return message[:1].lower() + message[1:]


def _suggestion(error: click.UsageError, where: str) -> str:
    lists = f"`{where} --help` lists its options"
    if isinstance(error, NoSuchCommand):
        return f"did you mean `{where} {error.near}`?" if error.near else f"`{where} --help` lists the commands"
    if isinstance(error, click.NoSuchOption):
        return _option_hint(error, where) or lists
    if isinstance(error, RefusedValue):
        return error.hint or lists
    extra = re.fullmatch(r"Got unexpected extra arguments? \((\S+).*\)", error.format_message())
    if extra and error.ctx and any(parameter.name == "tier" for parameter in error.ctx.command.params):
        return f"for a tier, write: {where} --tier {extra[1]}"
    return lists


def _option_hint(error: click.NoSuchOption, where: str) -> str | None:
    if error.ctx is None:
        return None
    if error.ctx.info_name == "sync" and error.option_name == "--dry-run":
        return "`modelfetch plan` shows what sync would do"
    if error.option_name in _FORCE:
        return _INSTEAD_OF_FORCE.get(error.ctx.info_name or "")
    if error.option_name in ("--token", "--hf-token", "--api-key"):
        return "set HF_TOKEN or CIVITAI_API_TOKEN: other users of this machine can read a command line"
    near = nearest(error.option_name.lstrip("-"), _long_options(error.ctx.command))
    if near is not None:
        return f"did you mean --{near}? `{where} --help` lists all options"
    if error.ctx.parent is None:
        return f"options follow the command: {where} COMMAND OPTIONS; `{where} --help` lists the commands"
    return None


def _long_options(command: click.Command) -> list[str]:
    """The long options that a command's help shows, without the dashes, which all of them share."""
    shown = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    names = [name for option in shown for name in (*option.opts, *option.secondary_opts)]
    return [name.removeprefix("--") for name in ("--help", *names) if name.startswith("--")]
