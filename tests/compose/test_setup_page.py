"""The page on setting the services up says what the files contain."""

from __future__ import annotations

import re

from modelfetch.manifest.load import load_manifest
from modelfetch.tiers.dotenv.cards import GENERATIONS
from tests.compose.compose_files import REPOSITORY
from tests.compose.expected import PROFILES, every


def test_the_documented_entry_for_diarization_is_valid() -> None:
    page = (REPOSITORY / "docs" / "ai-services-setup.md").read_text()
    (entry,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (model,) = load_manifest(f"version: 1\nmodels:\n{entry}").models
    assert (model.kind, model.consumers) == ("snapshot", ("whisper",))
    assert model.files is not None
    assert len(model.files) == 5


def test_the_tables_of_the_setup_page_are_those_of_the_files() -> None:
    page = (REPOSITORY / "docs" / "ai-services-setup.md").read_text()
    addresses = dict(re.findall(r"^\| ([^|]+) \| <http://localhost:(\d+)[^>]*> \|", page, re.MULTILINE))
    assert sorted(addresses.values()) == sorted(
        body["ports"][0].split(":")[1] for body in every().values() if "ports" in body
    )
    ports = {body["ports"][0].split(":")[1]: body["profiles"] for body in every().values() if "ports" in body}
    rows = re.findall(r"^\| [^|]+ \| <http://localhost:(\d+)[^>]*> \| ([^|]+) \|$", page, re.MULTILINE)
    assert {port: re.findall(r"`([a-z-]+)`", profiles) for port, profiles in rows} == ports
    table = page.partition("\n## Profiles\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) == PROFILES


def test_the_cards_of_the_setup_page_are_those_that_env_knows() -> None:
    page = (REPOSITORY / "docs" / "ai-services-setup.md").read_text()
    table = page.partition("\n### Generations of NVIDIA cards\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| [^|]+\(([^|)]+)\) \| (\d+)\.(\d+) [^|]*\| ([^|]+) \|$", table, re.MULTILINE)
    lines = [dict(line.split("=") for line in re.findall(r"`([A-Z_]+=[^`]+)`", values)) for *_, values in rows]
    assert [(int(major), int(minor)) for _, major, minor, _ in rows] == [one.since for one in GENERATIONS]
    assert lines == [dict(one.values) for one in GENERATIONS]
    for (names, *_), generation in zip(rows, GENERATIONS, strict=True):
        first_and_last = {generation.names.split(", ")[0], generation.names.split(", ")[-1]}
        assert first_and_last <= set(re.split(r", | and | to ", names)), names
