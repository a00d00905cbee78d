"""A clone of the repository's stack in its own folder, driven by the real Compose."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from tests.e2e.docker import peers
from tests.e2e.peers import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.e2e.docker.engine import Engine
    from tests.e2e.docker.hub import HubProcess

STACK_FILES = ("compose.yaml", "compose", ".env.example", "Dockerfile")
PROJECT = "ai-stack"
"""The name that compose.yaml gives the project: only one clone can be up at a time."""

RERANKER = "Xenova/ms-marco-MiniLM-L-6-v2"
"""The folder in which AnythingLLM looks for its reranker."""

OFF = {"GPU_ENABLE": "false"}
"""What a machine without a GPU sets; nothing else of the stack is changed for these tests."""


def clone(folder: Path) -> Path:
    """The files that compose reads, as a fresh clone has them."""
    folder.mkdir(parents=True)
    for name in STACK_FILES:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name)
        else:
            shutil.copy(source, folder / name)
    return folder


def write_tier(folder: Path, digests: Mapping[str, str], name: str = "8g") -> Path:
    """A tier with its own services and limits, and models of the demo tier's size under the names of 8g.

    ``digests`` are those of the registry's manifests.
    """
    yaml = YAML(typ="safe")
    tier = yaml.load(REPOSITORY / "manifests" / f"{name}.yaml")
    tiny = yaml.load(REPOSITORY / "manifests" / "demo.yaml")
    language = [
        {
            "name": model.partition(":")[0],
            "source": f"ollama://{model.removesuffix(':latest')}",
            "digest": f"sha256:{digests[f'library/{model}']}",
            "for": ["ollama"],
        }
        for model in ("qwen2.5:0.5b", "nomic-embed-text:latest")
    ]
    muq = next(model for model in tiny["models"] if model["name"] == "muq-tiny")
    immich = {"kind": "immich-model", "task": "clip", "source": muq["source"], "files": muq["files"], "for": ["immich"]}
    punkt = next(model for model in tiny["models"] if model["name"] == "punkt-tab")
    scanned = {key: punkt[key] for key in ("kind", "source", "size", "digest")}
    reranker = {"source": muq["source"], "files": muq["files"], "filename": RERANKER, "for": ["anythingllm"]}
    scanned |= {"path": "models/tesseract/eng.traineddata", "for": ["anythingllm"]}
    tier["models"] = [
        *language,
        *(model for model in tiny["models"] if model["for"] != ["ollama"]),
        {"name": "immich-tiny", **immich},
        {"name": "tesseract-tiny", **scanned},
        {"name": "reranker-tiny", "kind": "snapshot", **reranker},
    ]
    manifests = folder / "manifests"
    manifests.mkdir(exist_ok=True)
    path = manifests / f"{name}.yaml"
    path.write_text(json.dumps(tier, indent=1))
    return path


@dataclass(slots=True, kw_only=True, repr=False)
class Stack:
    """One clone, its settings, and the engine that runs it; ``sent_before`` is what the hub had sent until then."""

    engine: Engine
    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    sent_before: int = 0

    def write_settings(self, *files: Mapping[str, str], **more: str) -> None:
        """Write `.env`: these settings and nothing else, as whoever needs no more would have it."""
        for file in files:
            self.settings.update(file)
        self.settings.update(more)
        lines = [f"{name}={value}" for name, value in self.settings.items()]
        (self.folder / ".env").write_text("\n".join(lines) + "\n")

    @property
    def root(self) -> Path:
        """The default root."""
        return self.folder / "files" / "ai-models"

    def command(self, *arguments: str) -> list[str]:
        """`docker compose …` as a command."""
        return [str(peers.docker()), "compose", "--ansi", "never", *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `docker compose …` and return at once; its output comes together on stdout."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.engine.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def compose(
        self, *arguments: str, seconds: float = 300, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker compose …` to its end, whatever that is."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env={**self.engine.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def must(self, *arguments: str, seconds: float = 300, environment: Mapping[str, str] | None = None) -> str:
        """Run `docker compose …`, which has to succeed, and return its output."""
        done = self.compose(*arguments, seconds=seconds, environment=environment)
        assert done.returncode == 0, f"compose {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def up(self, *profiles: str) -> str:
        """`docker compose --profile … up -d`, which has to succeed."""
        return self.must(*self.profiles(*profiles), "up", "--detach")

    def down(self) -> None:
        """Remove all containers and networks; what they wrote into the folder stays."""
        self.compose("--profile", "*", "down", "--timeout", "2", "--remove-orphans")

    @staticmethod
    def profiles(*names: str) -> list[str]:
        """The options for these profiles."""
        return [part for name in names for part in ("--profile", name)]

    def config(self, *arguments: str, **environment: str) -> dict[str, Any]:
        """What `docker compose … config` makes of the files."""
        text = self.must(*arguments, "config", "--format", "json", environment=environment)
        return dict(json.loads(text))

    def container(self, service: str) -> Container:
        """A service's container, running or not."""
        labels = (f"com.docker.compose.project={PROJECT}", f"com.docker.compose.service={service}")
        filters = [part for label in labels for part in ("--filter", f"label={label}")]
        names = self.engine.output("ps", "--all", "--quiet", *filters).split()
        assert len(names) == 1, f"{service} has {len(names)} containers"
        return Container(engine=self.engine, name=names[0])

    def services(self) -> dict[str, str]:
        """The state of each container, by service."""
        form = '{{.Label "com.docker.compose.service"}} {{.State}}'
        lines = self.engine.output(
            *("ps", "--all", "--filter", f"label=com.docker.compose.project={PROJECT}", "--format", form)
        )
        return dict(line.split() for line in lines.splitlines())

    def logs(self, service: str) -> str:
        """What a service has printed."""
        done = self.engine.run("logs", self.container(service).name)
        return done.stdout + done.stderr

    def wait_for_log(self, service: str, text: str, seconds: float = 60) -> str:
        """Wait until a service has printed a text."""
        deadline = time.monotonic() + seconds
        while text not in (log := self.logs(service)):
            assert time.monotonic() < deadline, f"{service} has not printed {text!r}:\n{log}"
            time.sleep(0.2)
        return log

    def finds(self, service: str) -> dict[str, Any]:
        """What a stand-in found where its real service looks."""
        log = self.wait_for_log(service, '"found":')
        line = [line for line in log.splitlines() if '"found":' in line][-1]
        return dict(json.loads(line)["found"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container as `docker inspect` shows it."""

    engine: Engine
    name: str

    def inspect(self) -> dict[str, Any]:
        """Everything that the engine knows of it."""
        return dict(json.loads(self.engine.output("inspect", self.name))[0])

    @property
    def exit_code(self) -> int:
        """The code that it ended with."""
        state = self.inspect()["State"]
        assert state["Status"] == "exited", state
        return int(state["ExitCode"])

    @property
    def was_started(self) -> bool:
        """Whether it has ever run."""
        return not str(self.inspect()["State"]["StartedAt"]).startswith("0001-")

    @property
    def started(self) -> datetime:
        """When it was started."""
        return _moment(self.inspect()["State"]["StartedAt"])

    @property
    def finished(self) -> datetime:
        """When it ended."""
        return _moment(self.inspect()["State"]["FinishedAt"])

    def exec(self, *command: str, check: bool = True, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """`docker exec`."""
        return self.engine.run("exec", self.name, *command, check=check, seconds=seconds)


def answering(stack: Stack, name: str) -> str:
    """Which container answers Immich's server at a name."""
    code = f"import urllib.request as r; print(r.urlopen('http://{name}:3003/ping', timeout=20).read().decode())"
    return str(json.loads(stack.container("immich-server").exec("python3", "-c", code).stdout)["host"])


def settings_for(hub: HubProcess) -> dict[str, str]:
    """What a stack sets to take its models from the tests' hub, on a machine without a GPU."""
    return {**OFF, **hub.environment, "MODELFETCH_RETRIES": "1"}


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.partition(".")[0].rstrip("Z")).replace(tzinfo=UTC)


def open_to_all(folder: Path) -> None:
    """Let every user enter a folder and pytest's own folders above it."""
    for path in (folder, *folder.parents):
        if path == Path("/") or os.stat(path).st_mode & 0o005 == 0o005:  # noqa: PTH116
            break
        path.chmod(0o755)
