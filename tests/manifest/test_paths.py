from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfetch.manifest.paths import check_relative, collision_key, parents, safe_name
from tests.cases import each
from tests.examples import any_text

BAD = [
    "",
    "/",
    "/a",
    "//a",
    ".",
    "..",
    "a/..",
    "../a",
    "a/../b",
    "./a",
    "a/./b",
    "a//b",
    "a/",
    "C:a",
    "c:/a",
    "C:\\a",
    "a\\b",
    "..\\a",
]
BAD += ["a\0b", "a\nb", "a\rb", "\x7f", "\x85", "a\u2028b", "\ud800", "x" * 256, "ü" * 128, "a/" * 512 + "a"]


@each("path", BAD)
def test_a_path_that_could_lead_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        check_relative(path)


@each(
    "path",
    ["a", "a/b.bin", "..a", "a..", "...", "a b", "ü/ñ", "-x", "~", "$HOME", "aa:b", "x" * 255, "%2e%2e/a", " a "],
)
def test_a_path_below_its_folder_is_taken_as_it_is(path: str) -> None:
    assert check_relative(path) == path


@given(any_text(max_size=40) | st.text("ab./\\", max_size=20))
def test_an_accepted_path_stays_below_its_folder(path: str) -> None:
    try:
        check_relative(path)
    except ValueError:
        return
    assert posixpath.normpath("/root/" + path) == "/root/" + path


@each(
    ("name", "safe"),
    [
        ("a.bin", "a.bin"),
        ("../../etc/passwd", "passwd"),
        ("a\\b\\c.bin", "c.bin"),
        ('a<>:"|?*b', "ab"),
        (" a. ", "a"),
        ("a\x00\nb", "ab"),
        ("..", None),
        ("", None),
        ("/", None),
        ("a/", None),
        ("?", None),
        ("x" * 300, None),
        (".", None),
        ("a\u202eb", "ab"),
    ],
)
def test_a_servers_name_is_made_safe(name: str, safe: str | None) -> None:
    assert safe_name(name) == safe


@given(any_text(max_size=40))
def test_a_safe_name_is_one_part_that_is_taken(name: str) -> None:
    safe = safe_name(name)
    assert safe is None or (check_relative(safe) == safe and "/" not in safe)


def test_paths_that_a_disk_may_take_for_one_share_a_key() -> None:
    assert collision_key("A/ß.BIN") == collision_key("a/SS.bin")
    assert collision_key("caf\u00e9") == collision_key("cafe\u0301")
    assert collision_key("a") != collision_key("b")


def test_parents_go_from_the_top_to_the_nearest() -> None:
    assert parents("a/b/c") == ("a", "a/b")
    assert parents("a") == ()
