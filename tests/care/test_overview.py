"""The page of `report --html`: complete, self-contained, and safe against markup in names."""

from __future__ import annotations

import errno
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

from modelfetch.care.overview import ModelRow, Overview, ServiceUse
from modelfetch.cli.app import run
from modelfetch.core import temp_files
from modelfetch.render.html import overview_page
from modelfetch.store.checks import now
from tests.damage import flip
from tests.pipeline.entries import ollama, vae, whisper

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from tests.pipeline.conftest import Bench, Result

ONE = "stable-diffusion/models/VAE/art.safetensors"
VOID = {"meta", "br", "link", "img"}


class Balanced(HTMLParser):
    """Notes whether every element is closed, and what the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(bench: Bench, *words: str) -> str:
    target: Path = bench.folder / "page.html"
    assert run(["report", "--html", str(target), "--root", str(bench.root), *words]) == 0
    return target.read_text()


def test_the_page_is_complete_and_loads_no_external_resource(bench: Bench) -> None:
    bench.sync(vae(bench), ollama(bench))
    page = page_of(bench)
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert parser.loads == []
    assert "<script" not in page
    assert "url(" not in page
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert "Models<strong>2</strong>" in page


def test_damaged_and_missing_models_are_named_first(bench: Bench, care: Callable[..., Result]) -> None:
    bench.sync(vae(bench))
    flip(bench.root / ONE)
    care("verify")
    page = page_of(bench, str(bench.manifest(vae(bench), whisper(bench))))
    problems = page[page.index("Missing, changed or damaged") : page.index("<h2>Space")]
    assert re.search(r'">w</td><td>whisper</td><td class="bad">missing', problems)
    assert re.search(r'">vae</td><td>comfyui</td><td class="bad">damaged', problems)


def test_names_are_escaped_in_the_page() -> None:
    evil = "<script>alert('x')</script>"
    row = ModelRow(model=evil, bytes=1, files=1, state=evil, tiers=(evil,), verified=None)
    service = ServiceUse(name=evil, bytes=1, rows=(row,))
    page = overview_page(
        Overview(
            root=evil,
            tier=evil,
            made=now(),
            bytes=1,
            reclaimable=0,
            services=(service,),
            problems=((evil, evil, evil),),
        )
    )
    assert "<script" not in page
    assert "alert('" not in page


def test_no_page_is_written_of_a_root_without_its_required_marker(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.root.mkdir()
    monkeypatch.setenv("MODELFETCH_REQUIRE_MARKER", "1")
    page = bench.folder / "page.html"
    assert run(["report", "--html", str(page), "--root", str(bench.root)]) == 73
    assert not page.exists()


def test_a_page_that_cannot_be_written_is_an_error_with_a_hint(bench: Bench) -> None:
    assert run(["report", "--html", "/proc/nothing/page.html", "--root", str(bench.root)]) in (73, 74)


def test_a_page_that_is_mounted_alone_is_written_in_place(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bind mount of a single file can't be renamed over."""

    def refuse(_: str, target: str) -> bool:
        raise OSError(errno.EBUSY, "Device or resource busy", target)

    monkeypatch.setattr(temp_files, "exchange", refuse)
    bench.root.mkdir()
    page = bench.folder / "page.html"
    page.write_text("old")
    before = page.stat().st_ino
    assert run(["report", "--html", str(page), "--root", str(bench.root)]) == 0
    assert "<!doctype html>" in page.read_text()
    assert page.stat().st_ino == before
