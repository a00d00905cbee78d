"""The real Open WebUI as the stack sets it, with the real Ollama on a synced root, without a network."""

from __future__ import annotations

import secrets
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from modelfetch.demo.models import LLAMA_SENTENCE
from tests.compose.compose_files import services
from tests.e2e.isolation import no_network
from tests.e2e.servers import answers, free_port, plain_environment, running, serve_ollama, tail
from tests.e2e.tree import copy_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.heavy

MODEL = "modelfetch-demo:latest"
START = 900
"""Seconds in which it has to start; 22 on an idle machine with two cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWebUi:
    """A running Open WebUI, and the session of its first user."""

    session: httpx.Client
    log: Path

    def call(self, method: str, path: str, **options: Any) -> Any:
        answer = self.session.request(method, path, **options)
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text}\n{tail(self.log, 60)}"
        return answer.json()

    def chat(self, text: str, **more: Any) -> str:
        messages = [{"role": "user", "content": text}]
        body = {"model": MODEL, "messages": messages, "stream": False, **more}
        return str(self.call("POST", "/api/chat/completions", json=body)["choices"][0]["message"]["content"]).strip()

    def upload(self, name: str, content: bytes) -> str:
        """Upload a document and wait until it can be searched; returns its id."""
        file = self.call("POST", "/api/v1/files/", files={"file": (name, content, "text/plain")})
        deadline = time.monotonic() + 120
        while (state := self.call("GET", f"/api/v1/files/{file['id']}")["data"].get("status")) != "completed":
            assert state != "failed", tail(self.log, 60)
            assert time.monotonic() < deadline, f"{name} is still {state}\n{tail(self.log, 60)}"
            time.sleep(0.5)
        return str(file["id"])


@contextmanager
def serve_open_webui(python: Path, folder: Path, ollama: str) -> Iterator[OpenWebUi]:
    """Open WebUI as the compose files set it, but for the address of Ollama, the models and its folder."""
    service = services(OLLAMA_URL=ollama, OLLAMA_CHAT_MODEL=MODEL, OLLAMA_EMBEDDING_MODEL=MODEL)["open-webui"]
    (folder / "data").mkdir(parents=True)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    # Its image's start script reads the secret from WEBUI_SECRET_KEY_FILE and runs this command.
    environment = plain_environment(folder, **service["environment"], WEBUI_SECRET_KEY=secrets.token_hex(16))
    environment["DATA_DIR"] = str(folder / "data")
    command = [str(python), "-m", "uvicorn", "open_webui.main:app", "--host", "127.0.0.1", "--port", str(port)]
    ready = f"{address}{service['healthcheck']['test'][-1].removeprefix('http://127.0.0.1:8080')}"
    with (
        running(command, environment=environment, folder=folder, ready=lambda: answers(ready), seconds=START),
        httpx.Client(base_url=address, trust_env=False, timeout=300) as session,
    ):
        page = OpenWebUi(session=session, log=folder / "server.log")
        user = {"name": "First", "email": "first@example.com", "password": "not-a-secret-here"}
        session.headers["Authorization"] = f"Bearer {page.call('POST', '/api/v1/auths/signup', json=user)['token']}"
        yield page


def test_open_webui_chats_and_searches_documents_without_looking_for_any_host(
    filled: Path, ollama_binary: Path, open_webui_python: Path, workplace: Path
) -> None:
    models = copy_tree(filled / "ollama", workplace / "ollama") / "models"
    with (
        no_network() as lookups,
        serve_ollama(ollama_binary, models, workplace / "served") as ollama,
        serve_open_webui(open_webui_python, workplace / "page", f"http://{ollama.address}") as page,
    ):
        assert MODEL in [model["id"] for model in page.call("GET", "/api/models")["data"]]
        assert page.call("GET", "/api/config")["default_models"] == MODEL
        assert page.chat("Hello?") == LLAMA_SENTENCE
        document = page.upload("notes.txt", b"The harbour is closed on Mondays.\n" * 20)
        assert page.chat("When is it closed?", files=[{"type": "file", "id": document}])
        assert lookups == []
