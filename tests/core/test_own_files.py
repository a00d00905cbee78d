"""Each file of modelfetch's own has one mode, which the documentation states."""

from __future__ import annotations

import re
from pathlib import Path

from modelfetch.core.own_files import OWN_FILES, own_file

DOCS = Path(__file__).parents[2] / "docs/concepts/on-disk.md"


def test_the_documentation_has_the_mode_of_every_file() -> None:
    table = DOCS.read_text().partition("## Modes")[2]
    rows = re.findall(r"^\| (`[^|]*`) \| ([^|]*) \|", table, re.MULTILINE)
    documented = {tuple(re.findall(r"`([^`]*)`", paths)): re.findall(r"\b0\d{3}\b", modes) for paths, modes in rows}
    assert documented == {
        kind.paths: [f"0{mode:o}" for mode in (kind.mode, kind.if_private) if mode is not None] for kind in OWN_FILES
    }


def test_every_kind_is_found_by_its_own_path() -> None:
    for kind in OWN_FILES:
        for glob in kind.paths:
            assert own_file(glob.replace("*", "ab/cd")) is kind
    assert own_file("elsewhere/x") is None
