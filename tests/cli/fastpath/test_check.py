"""The fast path has the same output as the full command."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from modelfetch.cli.app import run
from modelfetch.cli.fastpath.check import attempt
from modelfetch.demo import models as made
from modelfetch.demo.hub import Hub
from modelfetch.demo.world import World
from tests.cases import THOROUGH, first

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ARGV = ["sync", "--tier", "mine", "--json"]


class Place:
    """A folder with a tier that is in place, and the record of the fast path for it."""

    def __init__(self, folder: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.hub, self.capsys = folder, hub, capsys
        self.root = folder / "files/ai-models"
        self.base = folder / "manifests/base.yaml"
        self.tier = folder / "manifests/mine.yaml"

    def long(self, argv: list[str] = ARGV) -> tuple[int, str, str]:
        self.capsys.readouterr()
        code = run(argv)
        out, err = self.capsys.readouterr()
        return code, timeless(out), timeless(err)

    def quick(self, argv: list[str] = ARGV) -> tuple[int, str, str] | None:
        self.capsys.readouterr()
        code = attempt(argv)
        out, err = self.capsys.readouterr()
        return None if code is None else (code, timeless(out), timeless(err))


def timeless(text: str) -> str:
    return re.sub(r'"seconds": [0-9.]+|\b[0-9.]+s\b', "TIME", text)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Place]:
    with Hub(World()) as hub:
        hub.world.hf_repo("a/b", {"x.safetensors": made.vae()})
        hub.world.hf_repo("a/w", made.faster_whisper())
        hub.world.file("punkt.zip", made.nltk_punkt())
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.chdir(tmp_path)
        there = Place(tmp_path, hub, capsys)
        there.base.parent.mkdir()
        vae = {"name": "vae", "kind": "vae", "source": "hf://a/b/x.safetensors", "for": ["comfyui", "stable-diffusion"]}
        w = {"name": "w", "kind": "snapshot", "source": "hf://a/w", "for": ["whisper"]}
        nltk = {
            "name": "n",
            "kind": "file",
            "path": "nltk",
            "unpack": "zip",
            "for": ["whisper"],
            "source": f"{hub.files}punkt.zip",
        }
        there.base.write_text(json.dumps({"version": 1, "models": [vae]}))
        there.tier.write_text(json.dumps({"version": 1, "tier": "mine", "extends": "base", "models": [w, nltk]}))
        assert run(ARGV) == 0
        yield there


@THOROUGH
def test_a_tier_that_extends_the_one_it_shadows_uses_the_fast_path(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    hiding = place.folder / "tiers" / "mine.yaml"
    hiding.parent.mkdir()
    hiding.write_text(json.dumps({"version": 1, "extends": "mine", "drop": ["n"]}))
    monkeypatch.setenv("MODELFETCH_TIERS_DIR", str(hiding.parent))
    assert place.quick() is None
    assert '"name": "n"' not in place.long()[1]
    long = place.long()
    assert place.quick() == long
    place.tier.write_text(place.tier.read_text() + "\n")
    assert place.quick() is None


def test_the_fast_path_has_the_output_of_the_full_program(place: Place) -> None:
    quick = place.quick()
    assert quick is not None
    assert quick == place.long()
    assert json.loads(quick[1].replace("TIME", '"seconds": 0'))["requests"] == 0


def digests(out: str) -> dict[str, str | None]:
    report = json.loads(out.replace("TIME", '"seconds": 0'))
    return {artifact["uri"]: artifact["digest"] for model in report["models"] for artifact in model["artifacts"]}


RESOLVED_ANEW: dict[str, Callable[[Place], object]] = {
    "the manifest's text changed": lambda p: p.tier.write_text(p.tier.read_text() + "\n"),
    "the receipts are lost": lambda p: shutil.rmtree(p.root / ".modelfetch/receipts"),
    "a digest of another kind is pinned": lambda p: p.tier.write_text(
        p.tier.read_text().replace('"hf://a/w"', f'"hf://a/w", "files": {json.dumps(by_blake3())}')
    ),
}


def by_blake3() -> list[dict[str, str]]:
    return [
        {"path": name, "digest": "blake3:" + blake3(data).hexdigest()} for name, data in made.faster_whisper().items()
    ]


@pytest.mark.parametrize("change", first(1, RESOLVED_ANEW))
def test_resolving_again_keeps_the_digests(place: Place, change: str) -> None:
    before = digests(place.long()[1])
    RESOLVED_ANEW[change](place)
    assert place.quick() is None
    anew = place.long()
    assert anew[0] == 0, anew[2]
    quick = place.quick()
    assert quick == place.long()
    found = digests(anew[1])
    assert found == digests(quick[1])
    assert found.items() <= before.items()
    assert all(str(digest).startswith("sha256:") for digest in found.values())


@pytest.mark.parametrize("name", first(1, ["MODELFETCH_REFRESH", "MODELFETCH_SYNC_REFRESH"]))
def test_a_refresh_by_variable_disables_the_fast_path(place: Place, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    assert json.loads(place.long()[1].replace("TIME", '"seconds": 0'))["requests"] > 0
    assert place.quick() is None


def test_each_command_line_has_its_own_record(place: Place) -> None:
    for argv in (
        ["sync", "--tier", "mine"],
        ["sync", "--tier=mine", "-q"],
        ["sync", "--tier=mine", "-v"],
        ["sync", "--tier=mine", "--keep-going"],
        [*ARGV, "--for", "whisper"],
        [*ARGV, "--root", "files/ai-models"],
    ):
        assert place.quick(argv) is None, argv
        first = place.long(argv)
        assert place.quick(argv) == place.long(argv)
        assert first[0] == 0, argv


def test_warnings_are_repeated_by_the_fast_path(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"name": "o", "kind": "checkpoint", "source": "hf://a/b/x.safetensors", "for": ["comfyui"]}
    (place.tier.parent / "other.yaml").write_text(json.dumps({"version": 1, "models": [entry]}))
    monkeypatch.setenv("COMFYUI_AUTO_DOWNLOAD_MODEL", "hf://a/b/x.safetensors")
    for _ in range(2):
        assert "the default of tier other, while mine is chosen" in place.long()[2]
        assert place.quick() is None


def edit(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"edited")


CHANGES: dict[str, Callable[[Place], object]] = {
    "a file is gone": lambda p: (p.root / "comfyui/models/vae/x.safetensors").unlink(),
    "a file was edited": lambda p: edit(p.root / "whisper/hub/models--a--w/refs/main"),
    "a file was touched": lambda p: os.utime(p.root / "whisper/hub/models--a--w/refs/main", ns=(1, 1)),
    "an unpacked file is gone": lambda p: next(f for f in (p.root / "whisper/nltk").rglob("*") if f.is_file()).unlink(),
    "a snapshot's link leads elsewhere": lambda p: relink(
        next((p.root / "whisper/hub/models--a--w/snapshots").glob("*/config.json"))
    ),
    "a consumer's folder is gone": lambda p: shutil.rmtree(p.root / "stable-diffusion"),
    "a consumer's folder leads outside": lambda p: move_out(p.root),
    "the receipt is gone": lambda p: (p.root / ".modelfetch/receipts/whisper.json").unlink(),
    "the manifest has a model less": lambda p: drop_models(p.tier),
    "the manifest is broken": lambda p: p.tier.write_text("version: 2"),
    "what the manifest extends changed": lambda p: p.base.write_text(p.base.read_text() + "\n# a word\n"),
    "what the manifest extends is gone": lambda p: p.base.unlink(),
    "the note is garbage": lambda p: [n.write_bytes(b"\xff\0garbage") for n in notes(p)],
    "the note is torn": lambda p: [
        n.write_bytes(n.read_bytes()[:-40]) for n in (p.root / ".modelfetch/noop").iterdir()
    ],
}


def relink(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/null")


def move_out(root: Path) -> None:
    outside = root.parent.parent / "outside"
    (root / "comfyui").rename(outside)
    (root / "comfyui").symlink_to(outside)


def drop_models(tier: Path) -> None:
    tier.write_text(json.dumps({"version": 1, "tier": "mine", "extends": "base", "models": []}))


def a_link(root: Path) -> Path:
    return next((root / "whisper/hub/models--a--w/snapshots").glob("*/config.json"))


def notes(place: Place) -> list[Path]:
    return list((place.root / ".modelfetch/noop").iterdir())


@pytest.mark.parametrize("change", first(5, CHANGES))
def test_any_change_disables_the_fast_path(place: Place, change: str) -> None:
    CHANGES[change](place)
    quick = place.quick()
    assert quick is None or quick == place.long()


def test_only_checks_that_found_damage_disable_the_fast_path(place: Place) -> None:
    """One init container records checks while the note of another one exists."""
    checks = place.root / ".modelfetch/checks.json"
    assert not checks.exists()
    for _ in range(2):  # the first creates the file
        assert run(["verify", "--tier", "mine"]) == 0
        quick = place.quick()
        assert quick is not None
        assert quick == place.long()
    file = place.root / "whisper/hub/models--a--w/refs/main"
    found = file.lstat()
    data = json.loads(checks.read_text())
    data["checked"]["whisper/hub/models--a--w/refs/main"] = [found.st_size, found.st_mtime_ns, 0, False]
    checks.write_text(json.dumps(data))
    assert place.quick() is None
    assert place.long()[0] == 0  # it was looked at again
    for other in ("[]", '{"version": 2, "checked": {}}', '{"version": 1, "checked": {"x": 5}}', "garbage"):
        checks.write_text(other)
        assert place.quick() is None
        long = place.long()
        assert place.quick() == long


ENVIRONMENTS = {
    "HF_ENDPOINT": "not a url",
    "MODELFETCH_JOBS": "many",
    "MODELFETCH_ROOT": "elsewhere",
    "MODELFETCH_TIERS_DIR": "tiers",
    "OLLAMA_AUTO_PULL_MODEL": "../x",
    "PUID": "me",
    "MODELFETCH_PROGRESS": "json",
    "MODELFETCH_SYNC_FOR": "ollama",
    "HTTPS_PROXY": "::",
    "all_proxy": "http://proxy.example:3128",
}


def test_a_changed_environment_disables_the_fast_path(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENTS.items():
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert place.quick() is None, name
    assert place.quick() is not None


def test_a_tier_with_precedence_disables_the_fast_path(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    tiers = place.folder / "tiers"
    tiers.mkdir()
    monkeypatch.setenv("MODELFETCH_TIERS_DIR", str(tiers))
    assert place.long()[0] == 0
    assert place.quick() is not None
    (tiers / "base.yaml").write_text(json.dumps({"version": 1, "models": []}))
    assert place.quick() is None


OTHERS = [
    [],
    ["status", "--tier", "mine"],
    [*ARGV, "--refresh"],
    [*ARGV, "--help"],
    ["sync", "--tier", "auto"],
    ["sync", "--tier", "AUTO"],
    ["sync", "--tier=Auto"],
    ["--version"],
]


def test_other_command_lines_are_left_to_the_full_program(place: Place) -> None:
    assert [argv for argv in OTHERS if place.quick(argv) is not None] == []
    assert place.quick() is not None


def test_a_record_contains_no_token(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted_secret")
    monkeypatch.setenv("CIVITAI_API_TOKEN", "civ_planted_secret")
    assert place.long()[0] == 0
    assert b"planted" not in b"".join(note.read_bytes() for note in notes(place))
    assert place.quick() is not None


def test_the_fast_path_imports_no_large_package(place: Place) -> None:
    code = (
        "import sys; from modelfetch.cli import main\ntry: main(%r)\n"
        "finally: print(sorted(m for m in sys.modules if m.partition('.')[0] in %r), file=sys.stderr)"
    )
    heavy = ("click", "json", "typing", "pathlib", "asyncio", "httpx", "ruamel", "hashlib", "huggingface_hub")
    ran = subprocess.run(
        [sys.executable, "-S", "-c", code % (ARGV, heavy)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=place.folder,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.splitlines()[-1] == "[]"


def test_records_are_private_and_contain_no_environment(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place.root / ".modelfetch/noop"
    (folder / "0a1b2c3d").write_text("a note of an older version, with its environment")
    monkeypatch.setenv("HF_HUB_USER_AGENT_ORIGIN", "very-private")
    assert place.long()[0] == 0
    assert place.quick() == place.long()
    files = list(folder.iterdir())
    assert len(files) >= 3
    assert not (folder / "0a1b2c3d").exists()
    for file in files:
        assert file.stat().st_mode & 0o777 == 0o600
        assert "very-private" not in file.read_text()


def test_a_secret_that_others_could_read_is_not_used(place: Place) -> None:
    (secret,) = (place.root / ".modelfetch/noop").glob("secret-*")
    before = secret.read_text()
    secret.chmod(0o644)
    place.tier.write_text(place.tier.read_text() + "\n")
    assert place.long()[0] == 0
    assert secret.read_text() != before
    assert place.quick() == place.long()
