"""The command group, and the only place where errors become messages and exit codes."""

from __future__ import annotations

import contextlib
import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli.examples import epilog_of
from modelfetch.core.limits import limit_error, require_minimum, save_address_space
from modelfetch.core.os_errors import translate
from modelfetch.core.root import DEFAULT_ROOT
from modelfetch.core.urls import hide_secrets
from modelfetch.errors import InterruptedSync, ModelfetchError, UsageError, decisive_code
from modelfetch.render.errors import report_json, show_error
from modelfetch.render.out import note, put, stdout_error, take_failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from modelfetch.render.errors import Reportable

_COMMANDS = {
    "sync": "Make every model of a tier or manifest present, verified and in place.",
    "plan": "Show what sync would do, and every problem it can foresee.",
    "status": "Show what is ready, missing, changed or foreign; uses no network.",
    "verify": "Hash the files on disk again and report damage; uses no network.",
    "list": "List everything below the root and in the store.",
    "remove": "Remove models by name.",
    "prune": "Remove the files that no chosen tier needs.",
    "add": "Detect what a link is, pin it, and append it to a manifest.",
    "report": "Write an HTML page of what is on disk.",
    "adopt": "Take models that are already on disk into the store.",
    "pin": "Write the missing revisions, sizes and digests into a manifest.",
    "fetch": "Fetch one file and verify it.",
    "fit": "Show the VRAM that a model or a tier needs, from the files' headers.",
    "tiers": "List the tiers.",
    "env": "Print the .env of a tier.",
    "validate": "Check manifests without network access.",
    "schema": "Print the JSON Schema of manifests.",
    "completion": "Print a shell's completion script.",
}


_ALIASES = {"ls": "list"}
_REPORTING = ("sync", "plan", "status", "verify", "list", "remove", "prune", "adopt", "fetch", "pin", "add", "fit")
"""The commands that print a report with ``--json``, also of an error."""


class _Lazy(click.Group):
    """A group that imports a command only when it is called: an init container pays the start-up time in each run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        cmd_name = _ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"modelfetch.cli.commands.{cmd_name}")
        command: click.Command = module.command
        command.epilog = epilog_of(cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = args[0] in (*_COMMANDS, *_ALIASES) or args[0].startswith("-")
        if not known and not ctx.resilient_parsing:  # a shell that completes shows no errors
            from modelfetch.cli.usage import NoSuchCommand

            raise NoSuchCommand(args[0], _COMMANDS, ctx)
        return super().resolve_command(ctx, [_ALIASES.get(args[0], args[0]), *args[1:]])  # its variables have its name

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    cls=_Lazy,
    epilog=epilog_of("modelfetch"),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="modelfetch", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Download AI models once, verify them, and put them in place before a service starts."""
    if not {"-h", "--help"} & set(ctx.obj or ()):
        from modelfetch.cli.environment import check_environment

        check_environment(ctx, os.environ)


def run(argv: Sequence[str]) -> int:
    """Run a command line and return the exit code. No exception but the interpreter's `SystemExit` escapes."""
    code = _run(argv)
    failure = take_failure()
    if failure is None:
        return code
    show_error(failure)
    return decisive_code([code, failure.exit_code])


def _run(argv: Sequence[str]) -> int:
    if argv and argv[0] == "help":
        argv = [*argv[1:], "--help"]
    try:
        require_minimum()
        save_address_space()
        result = cli.main(args=list(argv), prog_name="modelfetch", standalone_mode=False, obj=tuple(argv))
    except click.exceptions.NoArgsIsHelpError as error:
        note(error.ctx.get_help())
        return 2
    except click.UsageError as error:
        from modelfetch.cli.usage import usage_error

        return _refuse(usage_error(error, _command_of(argv)), argv)
    except click.ClickException as error:
        return _refuse(UsageError(error.format_message()), argv)
    except (click.Abort, KeyboardInterrupt):
        return _refuse(InterruptedSync("interrupted"), argv)
    except ModelfetchError as error:
        return _refuse(error, argv)
    except (BrokenPipeError, SystemExit):  # click exits by itself if the reader of a help text closed the pipe
        return 0
    except (OSError, UnicodeEncodeError) as error:
        return _refuse(_translated(error), argv)
    except Exception as error:
        limit = limit_error(error)
        return _refuse(limit, argv) if limit else _report_bug(error, argv)
    return result if isinstance(result, int) else 0


def _translated(error: OSError | UnicodeEncodeError) -> ModelfetchError:
    """The typed error for what no command translated; what names no file comes from click, which writes to stdout."""
    if isinstance(error, UnicodeEncodeError):
        return translate(error, "stdout", doing="writing to")
    return translate(error, error.filename, doing="using") if error.filename else stdout_error(error)


def _refuse(error: ModelfetchError, argv: Sequence[str]) -> int:
    """Print the error that ended a command before it had a report; with ``--json``, print a report of the error too."""
    command = _ALIASES.get(argv[0], argv[0]) if argv else ""
    with contextlib.suppress(ModelfetchError, MemoryError, OSError):
        values = _values(command, argv) if command in _REPORTING else {}
        if values.get("as_json") or values.get("form") == "json":
            put(report_json(_early_report(command, values, error), command))
    show_error(error, _command_of(argv))
    return error.exit_code


def _early_report(command: str, values: Mapping[str, Any], error: ModelfetchError) -> Reportable:
    """The report of a command that failed before it read its options."""
    if command == "add":
        from modelfetch.pinning.types import AddReport

        return AddReport(manifest=str(values.get("manifest") or "models.yaml"), errors=(error,))
    if command == "fit":
        from modelfetch.fitting import fit_failed

        return fit_failed([error], tier=None)
    from modelfetch.core.report import failed

    return failed([error], tier=None, root=str(values.get("root") or Path(DEFAULT_ROOT)))


def _values(command: str, argv: Sequence[str]) -> Mapping[str, Any]:
    """The values of a command's options, from a command line and variables that may be wrong; None for a wrong one."""
    found = cli.get_command(click.Context(cli), command)
    assert found is not None  # noqa: S101 - the caller knows the command
    lenient: dict[str, Any] = {"resilient_parsing": True, "ignore_unknown_options": True, "allow_extra_args": True}
    return found.make_context(command, list(argv[1:]), **lenient).params


def _command_of(argv: Sequence[str]) -> str | None:
    return argv[0] if argv and argv[0] in (*_COMMANDS, *_ALIASES) else None


def _report_bug(error: Exception, argv: Sequence[str]) -> int:
    if "-v" in argv or "--verbose" in argv:
        import traceback

        note(hide_secrets("".join(traceback.format_exception(error))).rstrip())
    text = f"a bug in modelfetch: {type(error).__name__}: {error}"
    return _refuse(ModelfetchError(text, hint="please report it with the output of `-v`"), argv)
