"""The examples in the documents work: commands, options, variables, manifests, events, exit codes."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import inspect
import re
import shlex
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
import pytest
from ruamel.yaml import YAML

import modelfetch
from modelfetch.cli.app import cli
from modelfetch.cli.options import EnvOption
from modelfetch.core import events
from modelfetch.errors import ModelfetchError
from modelfetch.tiers.discovery import find_tier
from modelfetch.tiers.dotenv.variables import VARIABLES
from tests.cases import THOROUGH, each

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")

ROOT = Path(__file__).parent.parent
MEASURED = ROOT / "docs/benchmarks.md"
"""Written by a program: its rows name programs, not command lines."""
DOCS = [*(p for p in sorted(ROOT.glob("docs/**/*.md")) if p != MEASURED), ROOT / "README.md", ROOT / "files/README.md"]
EACH = each("document", DOCS)

MANIFESTS = [ROOT / "README.md", *ROOT.glob("docs/guides/*.md"), ROOT / "docs/reference/manifest.md"]
SHELL = ("console", "sh", "bash")


def blocks(document: Path, *languages: str) -> list[str]:
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)


def prose(document: Path) -> str:
    return re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)


def command_lines(document: Path) -> Iterator[list[str]]:
    """What follows `modelfetch` in shell blocks and in inline code."""
    for block in blocks(document, *SHELL):
        for line in block.replace("\\\n", " ").splitlines():
            yield from _calls(line.removeprefix("$ "))
    for code in re.findall(r"`([^`\n]+)`", prose(document)):
        if code.startswith("modelfetch "):
            yield from _calls(code)


def _calls(line: str) -> Iterator[list[str]]:
    for part in re.split(r"\s[|;&#]+\s|\s*\|\s*$", line):
        words = part.split() if "'" in part else shlex.split(part, comments=True)
        for at, word in enumerate(words):
            if word.rpartition("/")[2] in ("modelfetch", "modelfetch:0.1.0") and at + 1 < len(words):
                if words[at + 1] not in (".", ">"):
                    yield words[at + 1 :]
                break


@cache
def options_of(name: str) -> dict[str, click.Parameter]:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None, f"no command {name}"
    return {word: parameter for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts)}


@EACH
def test_every_documented_command_and_option_exists(document: Path) -> None:
    for name, *words in command_lines(document):
        if name in ("--help", "--version", "COMMAND", "…") or name.isupper():
            continue
        known = options_of(name)
        used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert used - set(known) - {"--help", "-h"} == set(), f"modelfetch {name} {' '.join(words)}"


@EACH
def test_every_option_in_the_prose_is_one_of_some_command(document: Path) -> None:
    known = {word for name in cli.list_commands(click.Context(cli)) for word in options_of(name)}
    foreign = {
        "--profile",
        "--force-recreate",
        "--always-offload-from-vram",
        "--vae-in-fp16",
        "--fp16-vae",
        "--reserve-vram",
        "--user",
        "--archive",
        "--hard-links",
        "--vfs-cache-mode",
        "--help",
    }
    said = set(re.findall(r"`(--[a-z][a-z-]+)[` =]", prose(document)))
    if document.name in (
        *("ai-services-setup.md", "plan-differences.md", "validation.md", "benchmarks.md", "runtime-downloads.md"),
    ):
        said &= known  # these are about other programs too
    assert said - known - foreign == set()


def test_every_page_can_be_reached_from_the_readme_or_an_index() -> None:
    linked = set()
    for index in (ROOT / "README.md", ROOT / "docs/README.md", ROOT / "docs/adr/README.md"):
        targets = re.findall(r"\]\((?!https?://)([^)#]+)", index.read_text())
        linked |= {(index.parent / target).resolve() for target in targets}
    assert set(ROOT.glob("docs/**/*.md")) - linked == set()


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", lambda found: found[1] or "", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


@EACH
def test_every_anchor_has_a_heading(document: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#\s]*)#([^)\s]+)\)", document.read_text()):
        page = (document.parent / target).resolve() if target else document
        if page.suffix == ".md":
            text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
            there = {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
            there |= set(re.findall(r'<a id="([^"]+)"', text))
            assert anchor in there, f"{target}#{anchor}"


@EACH
def test_yaml_blocks_and_the_manifests_among_them_are_valid(document: Path) -> None:
    for text in blocks(document, "yaml"):
        assert YAML(typ="safe").load(text) is not None
        if document in MANIFESTS and re.search(r"^version: ", text, re.MULTILINE):
            modelfetch.load_manifest(text, find_tier=find_tier)


@each("document", [ROOT / "README.md", *ROOT.glob("docs/guides/*.md")])
def test_python_examples_use_names_that_exist_and_options_that_a_function_has(document: Path) -> None:
    nodes = [node for text in blocks(document, "python") for node in ast.walk(ast.parse(text))]
    names = [node for node in nodes if isinstance(node, ast.Name)]
    known = {node.id for node in names if isinstance(node.ctx, ast.Store)} | set(dir(builtins))
    known |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    known |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    known |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    assert {node.id for node in names} - known == set()
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "modelfetch":
            assert node.attr in modelfetch.__all__
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("modelfetch."):
            function = getattr(modelfetch, ast.unparse(node.func).partition(".")[2])
            used = {keyword.arg for keyword in node.keywords if keyword.arg}
            assert used - set(inspect.signature(function).parameters) == set(), ast.unparse(node)


@pytest.mark.parametrize("name", ["add-a-model.md", "pinning.md"])
def test_the_entries_that_a_guide_shows_are_valid_entries(name: str) -> None:
    found = 0
    for text in blocks(ROOT / "docs/guides" / name, "yaml"):
        if "models:" in text:
            head = "" if text.startswith("version:") or "\nversion:" in text else "version: 1\n"
            found += len(modelfetch.load_manifest(head + text).models)
    assert found >= 2


def test_the_compose_example_starts_the_service_only_after_its_models() -> None:
    text, _with_pre_start = blocks(ROOT / "docs/guides/containers.md", "yaml")
    services = YAML(typ="safe").load(text)["services"]
    init = services["comfyui-models"]
    assert services["comfyui"]["depends_on"]["comfyui-models"]["condition"] == "service_completed_successfully"
    assert init["restart"] == "no"
    name, *words = init["command"]
    assert set(words) & set(options_of(name)) == {"--for"}
    root = init["environment"]["MODELFETCH_ROOT"]
    folders = dict(volume.split(":")[:2] for volume in init["volumes"])
    assert folders["./files/ai-models"] == root
    assert services["comfyui"]["volumes"] == ["./files/ai-models/comfyui/models:/root/ComfyUI/models"]


def test_every_event_is_in_the_table_with_its_keys() -> None:
    text = (ROOT / "docs/reference/report.md").read_text()
    listed = {
        name: set(re.findall(r"`([a-z]+)`", re.sub(r"\([^)]*\)", "", keys)))
        for name, keys in re.findall(r"^\| `([a-z-]+)` \| (`[a-z]+`.*?) \|", text, re.MULTILINE)
    }
    real = {}
    for kind in _all_subclasses(events.Event):
        if kind.__name__.startswith("_"):
            continue
        values = dict.fromkeys((field.name for field in dataclasses.fields(kind)), "")
        real[kind(**values).as_dict()["event"]] = set(values)
    assert {name: keys for name, keys in listed.items() if name in real} == real


def texts(*files: Path) -> frozenset[str]:
    """All string constants of some modules."""
    return frozenset(
        node.value
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


@cache
def all_texts() -> frozenset[str]:
    return texts(*(ROOT / "modelfetch").rglob("*.py"))


def option_variables() -> set[str]:
    found = set()
    for name in cli.list_commands(click.Context(cli)):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        ctx = click.Context(command, info_name=name)
        for parameter in command.params:
            if isinstance(parameter, EnvOption):
                found |= set(parameter.variables(ctx))
    return found


def test_every_documented_variable_exists() -> None:
    sources = [path for path in (ROOT / "modelfetch").rglob("*.py") if "MODELFETCH_" in path.read_text()]
    real = option_variables() | texts(*sources) | {variable.name for variable in VARIABLES}
    pattern = re.compile(r"\bMODELFETCH_[A-Z][A-Z_]*[A-Z]\b")
    assert {(name, page) for page in DOCS for name in pattern.findall(page.read_text()) if name not in real} == set()


def test_every_variable_that_the_settings_read_is_documented() -> None:
    modules = (
        "config/settings.py",
        "tiers/gpu.py",
        "tiers/overrides.py",
        "tiers/selection.py",
        "cli/common.py",
    )
    found = texts(*(ROOT / "modelfetch" / module for module in modules))
    read = {text for text in found if re.fullmatch(r"[A-Z]+(_[A-Z0-9]+)+|PUID|PGID|NETRC", text)}
    read -= {"HF_OIDC_RESOURCE"}  # huggingface_hub's own
    assert len(read) > 15
    page = (ROOT / "docs/reference/environment.md").read_text()
    assert {name for name in read if f"`{name}`" not in page} == set()


def test_every_exit_code_is_in_the_table_and_every_row_is_used() -> None:
    page = (ROOT / "docs/reference/exit-codes.md").read_text()
    listed = {int(code) for row in re.findall(r"^\| ([\d/ ]+) \|", page, re.MULTILINE) for code in row.split("/")}
    errors: list[type[ModelfetchError]] = [ModelfetchError, *_all_subclasses(ModelfetchError)]
    assert listed == {error.default_exit for error in errors} | {0, 1, 143}


def _all_subclasses(base: type[T]) -> list[type[T]]:
    return [kind for child in base.__subclasses__() for kind in (child, *_all_subclasses(child))]


@THOROUGH
def test_the_messages_in_the_guide_to_credentials_exist() -> None:
    page = (ROOT / "docs/guides/credentials.md").read_text()
    tables = re.findall(r"^\| message \|.*?\n(?=\n)", page, re.DOTALL | re.MULTILINE)
    said = {
        text
        for table in tables
        for row in table.splitlines()[2:]
        for text in re.findall(r"`([^`]+)`", row.split("|")[1])
    }
    source = " ".join(all_texts())
    assert len(said) > 6
    assert {text for text in said if text not in source} == set()
