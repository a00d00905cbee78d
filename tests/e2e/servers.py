"""Start and stop the real servers, each on its own port and in its own folder."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from tests.e2e.cache import program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

NOWHERE = "http://127.0.0.1:9"
"""A proxy that never answers, so that only loopback can be reached."""


def free_port() -> int:
    """A port of 127.0.0.1 that is not in use at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def plain_environment(home: Path, **more: str) -> dict[str, str]:
    """The environment that a program gets: its own home, and nothing from the developer's environment."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", **more}


def user_prefix(uid: int | None) -> tuple[str, ...]:
    """What to put before a command so that another user runs it; nothing where this process can't change its user."""
    if uid is None or os.geteuid() != 0:
        return ()
    return ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--")


@contextmanager
def running(
    command: list[str], *, environment: Mapping[str, str], folder: Path, ready: Callable[[], bool], seconds: float = 30
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; its output is in ``folder/server.log``.

    Raises:
        AssertionError: It ended or was not ready in time, with the end of its log.
    """
    log = folder / "server.log"
    with log.open("ab") as output:
        server = subprocess.Popen(
            command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + seconds
        while not ready():
            ended = server.poll() is not None
            assert not ended, f"{command[0]} ended with {server.returncode}:\n{tail(log)}"
            assert time.monotonic() < deadline, f"{command[0]} is not ready after {seconds} s:\n{tail(log)}"
            time.sleep(0.05)
        yield server
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def tail(log: Path, lines: int = 30) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def answers(url: str) -> bool:
    """Whether a server answers this URL with success."""
    try:
        return httpx.get(url, trust_env=False, timeout=5).is_success
    except httpx.TransportError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ollama:
    """A running `ollama serve` and its client."""

    binary: Path
    address: str
    environment: Mapping[str, str]
    log: Path

    def post(self, path: str, **body: object) -> dict[str, Any]:
        """Call the API, without streaming."""
        url = f"http://{self.address}{path}"
        answer = httpx.post(url, json={**body, "stream": False}, trust_env=False, timeout=120)
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text}\n{tail(self.log)}"
        return dict(answer.json())

    def names(self) -> list[str]:
        """The models that `ollama list` shows."""
        return [line.split()[0] for line in self.run("list").splitlines()[1:]]

    def generate(self, name: str) -> dict[str, Any]:
        """Generate a few tokens."""
        options = {"num_predict": 4, "num_ctx": 64}
        return self.post("/api/generate", model=name, prompt="hello there", options=options)

    def run(self, *arguments: str) -> str:
        """Run the real command line against this server."""
        done = subprocess.run(
            [str(self.binary), *arguments],
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"ollama {arguments}: {done.stderr}\n{tail(self.log)}"
        return done.stdout


@contextmanager
def serve_ollama(binary: Path, models: Path, folder: Path, *, uid: int | None = None) -> Iterator[Ollama]:
    """`ollama serve` over the store ``models``, with access only to registries on loopback.

    It prunes the store when it starts, as it does anywhere: what it does not know would be gone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if uid is not None and os.geteuid() == 0:
        os.chown(folder, uid, uid)
    address = f"127.0.0.1:{free_port()}"
    environment = plain_environment(
        folder,
        OLLAMA_MODELS=str(models),
        OLLAMA_HOST=address,
        HTTPS_PROXY=NOWHERE,
        HTTP_PROXY=NOWHERE,
        NO_PROXY="127.0.0.1,localhost",
    )
    server = Ollama(binary=binary, address=address, environment=environment, log=folder / "server.log")
    with running(
        [*user_prefix(uid), str(binary), "serve"],
        environment=environment,
        folder=folder,
        ready=lambda: answers(f"http://{address}/api/version"),
    ):
        yield server


@contextmanager
def serve_nginx(files: Path, folder: Path, *, rate: str = "0") -> Iterator[str]:
    """Real nginx over a folder of files, ``rate`` bytes a second for each connection; yields its base URL.

    ``folder/access.log`` has one JSON line for each request: status, range, sent (body bytes).
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(
        f"""daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1; user root;
events {{ worker_connections 64; }}
http {{
  log_format facts escape=json '{{"status":$status,"range":"$http_range","sent":$body_bytes_sent}}';
  access_log {folder}/access.log facts;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  default_type application/octet-stream;
  server {{
    listen 127.0.0.1:{port}; root {files}; limit_rate {rate};
    location = /ready {{ access_log off; return 204; }}
  }}
}}
"""
    )
    with running(
        [str(program("nginx", "nginx-light")), "-c", str(config), "-p", str(folder), "-e", str(folder / "error.log")],
        environment=plain_environment(folder),
        folder=folder,
        ready=lambda: answers(f"http://127.0.0.1:{port}/ready"),
    ):
        yield f"http://127.0.0.1:{port}"


def nginx_log(folder: Path) -> list[dict[str, Any]]:
    """The requests that nginx has finished, oldest first."""
    return [json.loads(line) for line in (folder / "access.log").read_text().splitlines()]


@contextmanager
def serve_registry(folder: Path) -> Iterator[str]:
    """A real container registry (distribution 2.8) on plain files, which never redirects; yields HOST:PORT."""
    folder.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{free_port()}"
    config = folder / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: '{address}'}}\n"
    )
    with running(
        [str(program("docker-registry", "docker-registry")), "serve", str(config)],
        environment=plain_environment(folder),
        folder=folder,
        ready=lambda: answers(f"http://{address}/v2/"),
    ):
        yield address
