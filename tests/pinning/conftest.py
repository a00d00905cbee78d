"""A hub on loopback, a manifest's text in a temporary folder, and `modelfetch pin` run in process on it."""

from __future__ import annotations

import hashlib
import json
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.cli.app import run
from modelfetch.demo import models as made
from modelfetch.demo.hub import Hub
from modelfetch.demo.world import CivitaiFile, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VAE, LORA, UPSCALER = made.vae(), made.lora(), made.upscaler()


def read(body: Any) -> bytes:
    return body if isinstance(body, bytes) else bytes(body.read(0, body.size))


def sha256(body: Any) -> str:
    return "sha256:" + hashlib.sha256(read(body)).hexdigest()


def size(body: Any) -> int:
    return len(read(body))


@dataclass
class Result:
    """The result of a run of the program."""

    code: int
    out: str
    err: str
    report: dict[str, Any]

    def codes(self) -> list[str]:
        return [error["code"] for error in self.report["errors"]]

    def actions(self) -> dict[str, list[str]]:
        return {m["name"]: [a["action"] for a in m["artifacts"]] for m in self.report["models"]}


@dataclass
class PinBench:
    """The hub, the manifest's file, and how to pin it."""

    hub: Hub
    folder: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def world(self) -> World:
        return self.hub.world

    @property
    def file(self) -> Path:
        return self.folder / "tier.yaml"

    @property
    def text(self) -> str:
        return self.file.read_bytes().decode()

    def write(self, text: str) -> Path:
        self.file.write_bytes(textwrap.dedent(text).replace("FILES/", self.hub.files).encode())
        return self.file

    def commit(self, repo: str = "acme/art") -> str:
        return self.world.repos[repo].refs["main"]

    def pin(self, *options: str, file: Path | None = None, as_json: bool = True) -> Result:
        self.capsys.readouterr()
        words = ["pin", str(file or self.file), "--retries", "1", *options]
        code = run([*words, "--json"] if as_json else words)
        out, err = self.capsys.readouterr()
        return Result(code, out, err, json.loads(out) if as_json else {})

    def bodies(self) -> list[str]:
        """The paths of which more than a first byte was sent, by whoever serves content."""
        return [e.path for o in ("cdn", "files") for e in self.hub.log.requests("*", origin=o) if e.sent > 1] + [
            entry.path for entry in self.hub.log.requests("*/resolve/*", origin="hf") if entry.sent > 1
        ]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[PinBench]:
    with Hub(World()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("MODELFETCH_OLLAMA_REGISTRY", hub.ollama)
        monkeypatch.setenv("MODELFETCH_CIVITAI_ENDPOINT", hub.civitai)
        monkeypatch.setenv("MODELFETCH_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        files: dict[str, Any] = {"art.safetensors": VAE, "config.json": b'{"a": 1}', "sub/more.safetensors": LORA}
        hub.world.hf_repo("acme/art", files, refs={"dev": {"art.safetensors": LORA}, "v1": None})
        hub.world.ollama_model("tiny:1b", made.ollama_layers(), config=made.ollama_config())
        hub.world.civitai_version(7, [CivitaiFile(id=70, name="style.safetensors", body=LORA)])
        hub.world.file("up.safetensors", UPSCALER)
        yield PinBench(hub, tmp_path, capsys)
