"""The documents match the program: pasted help, error codes, links and manifests."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

import modelfetch
from modelfetch.cli.app import cli
from modelfetch.errors import ModelfetchError
from modelfetch.http.status import ServerError
from tests.cases import each

ROOT = Path(__file__).parent.parent
DOCS = sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md")])
COMMANDS = ROOT / "docs/reference/commands.md"


def help_of(*words: str) -> str:
    result = CliRunner().invoke(cli, [*words, "--help"], prog_name="modelfetch", terminal_width=100)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def command_names() -> list[str]:
    return cli.list_commands(None)  # type: ignore[arg-type]


@each("name", command_names())
def test_the_help_of_each_command_is_pasted_as_it_is(name: str) -> None:
    block = f"```text\n$ modelfetch {name} --help\n{help_of(name)}\n```"
    assert block in COMMANDS.read_text(), f"paste this into {COMMANDS.name}:\n{block}"


def test_the_list_of_commands_is_pasted_as_it_is() -> None:
    block = f"```text\n$ modelfetch --help\n{help_of()}\n```"
    assert block in COMMANDS.read_text(), f"paste this into {COMMANDS.name}:\n{block}"


def codes_in_the_source() -> set[str]:
    files = [file for file in (ROOT / "modelfetch").rglob("*.py") if "demo" not in file.parts]
    codes = {code for file in files for code in re.findall(r'\bcode="([^"]+)"', file.read_text())}
    assert ServerError in all_errors(ModelfetchError)
    return codes | {c.default_code for c in all_errors(ModelfetchError)}


def all_errors(base: type[ModelfetchError]) -> list[type[ModelfetchError]]:
    return [base, *(error for child in base.__subclasses__() for error in all_errors(child))]


def test_every_error_code_is_in_the_table_and_every_row_is_used() -> None:
    text = (ROOT / "docs/reference/error-codes.md").read_text()
    listed = set(re.findall(r"^\| `([a-z0-9-]+)` \|", text, re.MULTILINE))
    used = codes_in_the_source()
    assert used - listed == set()
    assert listed - used == set()


@each("document", DOCS)
def test_every_link_has_a_target(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_the_manifest_in_the_readme_is_valid() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert {model.name for model in modelfetch.load_manifest(text).models} == {"qwen2.5-0.5b", "sdxl-vae"}


def test_every_public_name_is_in_the_api_reference() -> None:
    text = (ROOT / "docs/reference/python-api.md").read_text()
    assert sorted(re.findall(r"^::: modelfetch\.(\w+)$", text, re.MULTILINE)) == sorted(modelfetch.__all__)


def test_every_public_name_can_be_imported() -> None:
    assert len(modelfetch.__all__) > 60
    for name in modelfetch.__all__:
        assert getattr(modelfetch, name) is not None


def test_the_modules_that_the_architecture_names_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    modules = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", text))
    named = modules | set(re.findall(r"^\| `([a-z_]+/)` \|", text, re.MULTILINE))
    assert len(named) > 30
    assert {name for name in named if not (ROOT / "modelfetch" / name).exists()} == set()
