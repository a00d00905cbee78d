"""The computed tables of the documentation are current."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cases import THOROUGH
from tests.docs_tables import TABLES, pages, renewed

if TYPE_CHECKING:
    from pathlib import Path


@THOROUGH
@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_the_tables_of_a_page_are_current(page: Path) -> None:
    text = page.read_text()
    assert renewed(text) == text, "run `make docs-tables`"


def test_every_table_is_on_a_page() -> None:
    text = "".join(page.read_text() for page in pages())
    assert all(f"<!-- table: {name} -->" in text for name in TABLES)
