"""Figures that pages repeat by hand agree with the tiers: budgets, usable memory, and sizes on disk."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from modelfetch.cli.app import run
from modelfetch.manifest.budget import together
from modelfetch.tiers.discovery import find_tier
from modelfetch.tiers.loader import load_manifest
from tests.cases import THOROUGH

if TYPE_CHECKING:
    from modelfetch.manifest.model import Manifest

SETUP = (Path(__file__).parent.parent / "docs/ai-services-setup.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| (\d+) GB \|.*\| ([^|]*) \| ([\d.]+) / ([\d.]+) \|$", SETUP, re.MULTILINE)
GIB, GB = 2**30, 10**9
UNPINNED = 4.5 * GB
"""What the models add whose size the tiers do not pin: DiffRhythm's and one of Immich's."""


def tier(name: str) -> Manifest:
    file = find_tier(name)
    assert file is not None
    return load_manifest(file)


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """The known size of each tier, in bytes, as `modelfetch tiers` shows it."""
    with pytest.MonkeyPatch.context() as patch:
        shown: list[str] = []
        patch.setattr("modelfetch.cli.commands.tiers.put", shown.append)
        assert run(["tiers", "--json", "--root", str(tmp_path_factory.mktemp("root"))]) == 0
    return {line["name"]: line["bytes"] for line in json.loads(shown[0])["tiers"]}


def test_the_page_of_the_stack_has_a_row_for_each_card_of_the_plan() -> None:
    assert [name for name, *_ in ROWS] == ["8g", "16g", "32g", "94g"]


@pytest.mark.parametrize(("name", "card", "budgets", "needed", "usable"), ROWS, ids=[row[0] for row in ROWS])
def test_the_budgets_on_the_stack_page_are_those_of_the_tier(
    name: str, card: str, budgets: str, needed: str, usable: str
) -> None:
    manifest = tier(name)
    assert (manifest.vram, round((manifest.usable or 0) / GIB, 2)) == (int(card) * GIB, float(usable))
    assert together(manifest.services) == pytest.approx(float(needed) * GIB, abs=GIB / 100)
    given = {round(service.vram / GIB, 2) for service in manifest.services if service.vram and service.device != "cpu"}
    assert {float(number) for number in re.findall(r"[\d.]+", budgets)} == given


@THOROUGH
def test_the_sizes_on_the_stack_page_are_those_of_the_tiers(sizes: dict[str, int]) -> None:
    (found,) = re.findall(r"with all services, tiers take (\d+) to (\d+) GB", " ".join(SETUP.split()))
    real = [size for name, size in sizes.items() if name != "demo"]
    for figure, known in zip(map(int, found), (min(real), max(real)), strict=True):
        assert known - GB / 2 <= figure * GB <= known + UNPINNED


def test_no_page_gives_a_tier_another_size(sizes: dict[str, int]) -> None:
    pages = Path(__file__).parent.parent
    pattern = re.compile(
        r"`?(\d+g(?:-2026)?)`? (?:takes|is|needs|has) (?:about )?([\d.]+) (GB|GiB)(?! of models for the services)"
    )
    said = [
        (page.name, name, float(number) * (GB if unit == "GB" else GIB))
        for page in [pages / "README.md", *pages.glob("docs/**/*.md")]
        for name, number, unit in pattern.findall(page.read_text())
        if name in sizes
    ]
    wrong = [one for one in said if not sizes[one[1]] - GB / 2 <= one[2] <= sizes[one[1]] + UNPINNED]
    assert wrong == []
