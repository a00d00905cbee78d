from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given

from modelfetch.tiers import discovery
from modelfetch.tiers.discovery import find_tier, is_tier_name, list_tiers, normalise_tier, shipped_dir
from tests.cases import each
from tests.examples import any_text


@each(
    ("text", "tier"),
    [
        ("16g", "16g"),
        ("16", "16g"),
        ("16GB", "16g"),
        ("16 GB", "16g"),
        ("16GiB", "16g"),
        ("16G", "16g"),
        (" 16gb ", "16g"),
        ("8", "8g"),
        ("94gib", "94g"),
        ("mine", "mine"),
        ("16g-mine", "16g-mine"),
        ("g", "g"),
        ("16MB", "16MB"),
        ("16.5", "16.5"),
        ("0", "0"),
        ("", ""),
        ("١٦", "١٦"),
        ("16 g b", "16 g b"),
        ("demo", "demo"),
    ],
)
def test_a_tier_name_is_read_in_any_notation(text: str, tier: str) -> None:
    assert normalise_tier(text) == tier


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../16g", "a/b", "/etc/passwd", "a\\b", "a\0", "a\n", "-x", ".x", "a b", "x" * 65, "ü"]
)
def test_a_tier_name_with_a_path_is_refused(name: str, tmp_path: Path) -> None:
    assert not is_tier_name(name)
    assert find_tier(name, tmp_path) is None


@given(any_text(max_size=20))
def test_a_tiers_name_is_one_path_part(name: str) -> None:
    assert not is_tier_name(name) or (Path("d") / f"{name}.yaml").name == f"{name}.yaml"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """The three folders that are searched, in order, each with the tier `all` and another tier."""
    work = tmp_path / "work"
    folders = (tmp_path / "env", work / "manifests", tmp_path / "shipped")
    for folder, own in zip(folders, ("8g", "16g", "32g"), strict=True):
        folder.mkdir(parents=True)
        for name in ("all", own):
            (folder / f"{name}.yaml").write_text("version: 1\nmodels: []\n")
    monkeypatch.chdir(work)
    monkeypatch.setattr(discovery, "shipped_dir", lambda: folders[2])
    return folders


def test_a_tier_is_found_in_the_first_place_that_has_it(places: tuple[Path, Path, Path]) -> None:
    env, _, shipped = places
    assert find_tier("all", env) == env / "all.yaml"
    assert find_tier("all") == Path("manifests/all.yaml")
    assert find_tier("16g", env) == Path("manifests/16g.yaml")
    assert find_tier("32g", env) == shipped / "32g.yaml"
    assert find_tier("8g") is None
    assert find_tier("none", env) is None


def test_the_search_continues_after_the_extending_file(places: tuple[Path, Path, Path]) -> None:
    env, own, shipped = places
    assert find_tier("all", env, behind=env / "all.yaml") == Path("manifests/all.yaml")
    assert find_tier("all", env, behind=Path("manifests/all.yaml")) == shipped / "all.yaml"
    assert find_tier("all", env, behind=shipped / "all.yaml") is None
    assert find_tier("all", own, behind=own / "all.yaml") == shipped / "all.yaml"
    for other in (env / "8g.yaml", env.parent / "all.yaml", Path("all.yaml")):
        assert find_tier("all", env, behind=other) == env / "all.yaml"


def test_places_may_be_missing(
    places: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(discovery, "shipped_dir", lambda: None)
    assert find_tier("all", tmp_path / "nowhere") is None
    assert list_tiers(tmp_path / "nowhere") == ()


@pytest.mark.parametrize("folder", ["x" * 300, "a\0b"])
def test_an_unreadable_folder_has_no_tiers(places: tuple[Path, Path, Path], folder: str) -> None:
    assert find_tier("all", Path(folder)) == Path("manifests/all.yaml")
    assert [name for name, _ in list_tiers(Path(folder))] == ["16g", "32g", "all"]


def test_tiers_are_listed_once_each_by_number(places: tuple[Path, Path, Path]) -> None:
    env, _, shipped = places
    (env / "94g.yaml").mkdir()
    (env / "no tier.yaml").write_text("")
    (env / "100g.yml").write_text("")
    assert list_tiers(env) == (
        ("8g", env / "8g.yaml"),
        ("16g", Path("manifests/16g.yaml")),
        ("32g", shipped / "32g.yaml"),
        ("all", env / "all.yaml"),
    )


def test_a_checkout_ships_its_own_manifests_and_a_package_the_ones_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "modelfetch"
    (package / "manifest").mkdir(parents=True)
    monkeypatch.setattr(discovery, "__file__", str(package / "tiers" / "discovery.py"))
    (tmp_path / "site" / "manifests").mkdir()
    assert shipped_dir() is None
    (tmp_path / "site" / "pyproject.toml").touch()
    assert shipped_dir() == tmp_path / "site" / "manifests"
    (package / "_tiers").mkdir()
    assert shipped_dir() == package / "_tiers"
