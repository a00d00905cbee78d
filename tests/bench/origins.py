"""What is downloaded, and the servers that it comes from: nginx, a capped origin, a delay line."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pwd
import random
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
CAP = 50 * 2**20
"""Bytes per second of one connection to the capped origin."""
ROUND_TRIP = 20
"""Milliseconds."""

_NGINX = """
{user}worker_processes 2; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; default_type application/octet-stream;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{
    listen 127.0.0.1:{http}; listen 127.0.0.1:{https} ssl;
    ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
    root {folder}/www;
    location = /bench/model/resolve/main/big.bin {{
      alias {folder}/www/big.bin; add_header X-Repo-Commit 1111111111111111111111111111111111111111;
    }}
    location ~ ^/v2/library/bench/blobs/sha256:([0-9a-f]+)$ {{ return 307 http://localhost:{http}/blobs/$1; }}
  }}
}}
"""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file that the servers have: its path below their root, its size in bytes, its digest."""

    path: str
    size: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class Origins:
    """Where everything is."""

    folder: Path
    http: str
    https: str
    capped: str
    delayed: str
    authority: Path
    big: File
    half: File
    small: dict[str, tuple[File, ...]]


@contextlib.contextmanager
def serving(folder: Path, nginx: Path, *, big: int) -> Iterator[Origins]:
    """Make the files and run the servers.

    Args:
        folder: Where all of it lies.
        nginx: The program.
        big: Bytes of the big file; the file for the capped origin has a quarter of them.
    """
    www = folder / "www"
    www.mkdir(parents=True)
    files = make_files(www, big)
    make_certificate(folder)
    http, https, capped, delayed = free_ports(4)
    user = f"user {pwd.getpwuid(0).pw_name};\n" if os.geteuid() == 0 else ""  # who else may read the folder
    (folder / "nginx.conf").write_text(
        _NGINX.format(user=user, folder=folder, http=http, https=https), encoding="utf-8"
    )
    python = sys.executable
    commands = [
        [str(nginx), "-c", str(folder / "nginx.conf"), "-p", str(folder)],
        [python, str(HERE / "capped.py"), str(capped), str(www / "half.bin"), str(CAP)],
        [python, str(HERE / "delay.py"), str(delayed), str(http), str(ROUND_TRIP)],
    ]
    with contextlib.ExitStack() as stack:
        for command in commands:
            stack.enter_context(running(command))
        for port in (http, https, capped, delayed):
            wait_for_port(port)
        yield Origins(
            folder=folder,
            http=f"http://127.0.0.1:{http}",
            https=f"https://127.0.0.1:{https}",
            capped=f"http://127.0.0.1:{capped}",
            delayed=f"http://127.0.0.1:{delayed}",
            authority=folder / "cert.pem",
            big=files["big"][0],
            half=files["half"][0],
            small={name: files[name] for name in ("1 MiB", "10 KiB")},
        )


def make_files(www: Path, big: int) -> dict[str, tuple[File, ...]]:
    """Files that do not compress and do not repeat, the same each time."""
    found = {
        "big": (write_large(www, "big.bin", big),),
        "half": (write_large(www, "half.bin", big // 4),),
        "1 MiB": tuple(write_large(www, f"m{n}.bin", 2**20) for n in range(200)),
        "10 KiB": tuple(write_large(www, f"k{n}.bin", 10 * 2**10) for n in range(2000)),
    }
    make_ollama_registry(www, found["big"][0])
    return found


def write_large(www: Path, name: str, size: int) -> File:
    block = random.Random(name).randbytes(min(size, 2**20))
    hasher = hashlib.sha256()
    with (www / name).open("wb") as file:
        for number in range(-(-size // 2**20)):
            piece = (number.to_bytes(8, "little") + block[8:])[: size - number * 2**20]
            file.write(piece)
            hasher.update(piece)
    return File(path=name, size=size, digest=f"sha256:{hasher.hexdigest()}")


def make_ollama_registry(www: Path, model: File) -> None:
    """A manifest and two blobs, as registry.ollama.ai would have them."""
    config = json.dumps({"model_format": "gguf", "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}})
    digest = f"sha256:{hashlib.sha256(config.encode()).hexdigest()}"
    blobs = www / "blobs"
    blobs.mkdir()
    (blobs / digest[7:]).write_text(config, encoding="utf-8")
    (blobs / model.digest[7:]).hardlink_to(www / model.path)
    kind = "application/vnd.ollama.image.model"
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": digest,
            "size": len(config),
        },
        "layers": [{"mediaType": kind, "digest": model.digest, "size": model.size}],
    }
    path = www / "v2" / "library" / "bench" / "manifests" / "1"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(manifest), encoding="utf-8")


def make_certificate(folder: Path) -> None:
    """A certificate for this run, that is its own authority."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )


@contextlib.contextmanager
def running(command: list[str], env: dict[str, str] | None = None) -> Iterator[int]:
    """Run a server while the block runs; yields its process id."""
    process = subprocess.Popen(
        command, env={**os.environ, **(env or {})}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    """Unused ports."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in socks]


def wait_for_port(port: int, seconds: float = 20) -> None:
    """Wait until a server listens.

    Raises:
        RuntimeError: None does.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise RuntimeError(f"nobody listens on port {port}") from None
            time.sleep(0.05)
