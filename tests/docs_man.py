"""Write docs/man/modelfetch.1, the manual page, from the help of the commands and the table of exit codes.

Usage: python -m tests.docs_man [FILE]. A test compares the file with what this prints.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelfetch.cli.app import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs/man/modelfetch.1"
_FILES = (
    ("./models.yaml", "The manifest, if neither a tier nor a manifest is named."),
    ("./files/ai-models", "The root: the folder for the models, unless --root names another."),
    ("ROOT/.modelfetch", "The store of verified files, unfinished downloads and receipts."),
)


def page() -> str:
    """The manual page, in the macros of man(7)."""
    return "\n".join([*_head(), *_commands(), *_tail()]) + "\n"


def _head() -> Iterator[str]:
    yield '.TH MODELFETCH 1 "" "modelfetch" "User Commands"'
    yield ".SH NAME"
    yield "modelfetch \\- download AI models once, verify them, and place them for each service"
    yield ".SH SYNOPSIS"
    yield "\\fBmodelfetch\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]"
    yield ".SH DESCRIPTION"
    yield _text(cli.help or "")
    yield ".PP"
    yield _text(
        "Data is printed on stdout; logs, progress and errors on stderr. Each option can also be set by the variable "
        "MODELFETCH_COMMAND_OPTION or MODELFETCH_OPTION, such as MODELFETCH_SYNC_JOBS or MODELFETCH_ROOT; an empty "
        "variable counts as unset."
    )
    yield ".SH COMMANDS"


def _commands() -> Iterator[str]:
    group = click.Context(cli, info_name="modelfetch", **cli.context_settings)
    for name in cli.list_commands(group):
        command = cli.get_command(group, name)
        assert command is not None
        below = click.Context(command, info_name=name, parent=group)
        yield f".SS {_text(' '.join(['modelfetch', name, *command.collect_usage_pieces(below)]))}"
        for number, paragraph in enumerate(inspect.cleandoc(command.help or "").split("\n\n")):
            yield from ([".PP"] if number else [])
            yield _text(paragraph)
        for option in command.params:
            record = option.get_help_record(below)
            if record is not None and not isinstance(option, click.Argument):
                yield from (".TP", f"\\fB{_text(record[0])}\\fR", _text(record[1]))
        examples = (command.epilog or "").split("\n")[2:]
        yield from (".PP", "Examples:", ".PP", ".nf", *(_text(line) for line in examples), ".fi")


def _tail() -> Iterator[str]:
    yield ".SH EXIT STATUS"
    table = (ROOT / "docs/reference/exit-codes.md").read_text()
    for codes, meaning in re.findall(r"^\| ([\d /]+) \| (.*) \|$", table, re.MULTILINE):
        yield from (".TP", f"\\fB{codes}\\fR", _text(meaning.replace("`", "")))
    yield ".SH FILES"
    for name, meaning in _FILES:
        yield from (".TP", f"\\fI{_text(name)}\\fR", _text(meaning))
    yield ".SH ENVIRONMENT"
    yield _text("HF_TOKEN, CIVITAI_API_TOKEN, HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE and NO_COLOR work as elsewhere.")


def _text(text: str) -> str:
    """A text on one line, with what roff would interpret escaped."""
    line = " ".join(text.split()) if not text.startswith("  ") else text.rstrip()
    line = line.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return f"\\&{line}" if line[:1] in (".", "'") else line


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    target.parent.mkdir(exist_ok=True)
    target.write_text(page())
