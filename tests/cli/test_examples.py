"""The examples in the help."""

from __future__ import annotations

import re
import shlex

import click
import pytest
from click.testing import CliRunner

from modelfetch.cli.app import cli, run
from tests.cases import each

NAMES = cli.list_commands(click.Context(cli))


@each("name", NAMES)
def test_the_help_ends_with_examples_that_the_command_accepts(name: str) -> None:
    text = CliRunner().invoke(cli, [name, "--help"], prog_name="modelfetch").output
    _, title, examples = text.partition("\n  Examples:\n")
    assert title
    lines = examples.strip().splitlines()
    for line in lines:
        words = re.search(r"\bmodelfetch ([^>)#]+)", line)
        assert words, line
        command, *arguments = shlex.split(words[1])
        assert command == name
        found = cli.get_command(click.Context(cli), command)
        assert found
        with found.make_context(command, arguments):
            pass  # click has accepted all of it


def test_the_help_of_the_program_shows_the_first_steps() -> None:
    text = CliRunner().invoke(cli, ["--help"], prog_name="modelfetch").output
    lines = text.partition("\n  Examples:\n")[2].splitlines()
    commands = [shlex.split(line, comments=True)[1:] for line in lines]
    assert [words[0] for words in commands] == ["add", "plan", "sync", "sync"]
    for name, *arguments in commands:
        found = cli.get_command(click.Context(cli), name)
        assert found
        with found.make_context(name, arguments):
            pass
    assert all(len(line) <= 100 for line in lines)


@pytest.mark.parametrize("option", ["--chown", "--connections", "--limit-rate", "--jobs", "--lock-timeout"])
def test_plan_accepts_but_does_not_list_options_without_effect(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--help"]) == 0
    assert option not in capsys.readouterr().out
    value = "1:1" if option == "--chown" else "5"
    assert run(["plan", option, value, "none.yaml"]) == 78
