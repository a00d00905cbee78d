"""A hub on loopback, a root in a temporary folder, and the program run in process against both."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.cli.app import run
from modelfetch.demo.hub import Hub
from modelfetch.demo.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass
class Result:
    """The result of a run of the program."""

    code: int
    out: str
    err: str
    report: dict[str, Any]

    def actions(self) -> dict[str, str]:
        return {a["uri"]: a["action"] for m in self.report["models"] for a in m["artifacts"]}

    def codes(self) -> list[str]:
        return [error["code"] for error in self.report["errors"]]


@dataclass
class Bench:
    """The hub, the folders, and how to run the program on them."""

    hub: Hub
    folder: Path
    capsys: pytest.CaptureFixture[str]
    models: list[dict[str, Any]] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.folder / "ai-models"

    @property
    def world(self) -> World:
        return self.hub.world

    def manifest(self, *models: dict[str, Any], tier: str = "test", **top: Any) -> Path:
        path = self.folder / f"{tier}.yaml"
        path.write_text(json.dumps({"version": 1, "tier": tier, **top, "models": list(models)}, indent=1))
        return path

    def run(self, command: str, manifest: Path, *options: str) -> Result:
        self.capsys.readouterr()
        words = [command, "--manifest", str(manifest), "--root", str(self.root), "--json", "--retries", "1", *options]
        code = run(words)
        out, err = self.capsys.readouterr()
        return Result(code, out, err, json.loads(out) if out.startswith("{") else {})

    def sync(self, *models: dict[str, Any], options: tuple[str, ...] = (), **top: Any) -> Result:
        return self.run("sync", self.manifest(*models, **top), *options)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Bench]:
    with Hub(World()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("MODELFETCH_OLLAMA_REGISTRY", hub.ollama)
        monkeypatch.setenv("MODELFETCH_CIVITAI_ENDPOINT", hub.civitai)
        monkeypatch.chdir(tmp_path)
        yield Bench(hub, tmp_path, capsys)
