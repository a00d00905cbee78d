"""Syncs that are killed, suspended and overtaken at any moment, from the command line: the next one repairs all."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import os
import random
import signal
import subprocess
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.e2e.program import Modelfetch

KILLS = int(os.environ.get("SOAK_KILLS", "300"))
ROOTS = 2
"""As many at once as there are cores in the smallest machine."""
ROUND = 30
"""Interruptions between two syncs that run to their end."""
CONSUMERS = ("comfyui", "stable-diffusion")
FOLDERS = {
    ("checkpoint", "comfyui"): "models/checkpoints",
    ("checkpoint", "stable-diffusion"): "models/Stable-diffusion",
    ("vae", "comfyui"): "models/vae",
    ("vae", "stable-diffusion"): "models/VAE",
    ("lora", "comfyui"): "models/loras",
    ("lora", "stable-diffusion"): "models/Lora",
}


@dataclass(frozen=True, kw_only=True)
class Model:
    """One manifest entry; `files` are the paths below its consumer's folder, with what they hold."""

    name: str
    kind: str
    file: str
    version: int
    data: bytes
    filename: str | None = None
    path: str | None = None
    members: Mapping[str, bytes] = field(default_factory=dict)

    def entry(self, url: str, consumers: tuple[str, ...], *, pinned: bool) -> dict[str, Any]:
        entry: dict[str, Any] = {"name": self.name, "kind": self.kind, "for": list(consumers)}
        entry["source"] = f"{url}/v{self.version}/{self.file}"
        if pinned:
            entry |= {"size": len(self.data), "digest": f"sha256:{hashlib.sha256(self.data).hexdigest()}"}
        if self.filename:
            entry["filename"] = self.filename
        if self.path:
            entry["path"] = self.path
        if self.members:
            entry["unpack"] = "zip"
        return entry

    def files(self, consumer: str) -> dict[str, bytes]:
        if self.members:
            return {f"{self.path}/{name}": data for name, data in self.members.items()}
        place = self.path or f"{FOLDERS[self.kind, consumer]}/{self.filename or self.file}"
        return {place: self.data}


def safetensors(seed: str, size: int) -> bytes:
    """Weights with a valid header."""
    header = json.dumps({"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + random.Random(seed).randbytes(size)


def zipped(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def models(version: int) -> tuple[Model, ...]:
    """What the manifest of a version names: each file differs from the other version's, one is called otherwise."""
    v = str(version)
    members = {"a.tab": random.Random(v).randbytes(100_000), "deep/b.txt": f"version {v}\n".encode()}
    common: dict[str, Any] = {"version": version}
    return (
        Model(
            name="large", kind="checkpoint", file="large.safetensors", data=safetensors("l" + v, 6_000_000), **common
        ),
        Model(name="middle", kind="vae", file="middle.safetensors", data=safetensors("m" + v, 300_000), **common),
        Model(
            name="renamed",
            kind="lora",
            file="renamed.safetensors",
            filename=f"named-{v}.safetensors",
            data=safetensors("r" + v, 80_000),
            **common,
        ),
        Model(
            name="settings", kind="file", file="s.json", path="settings/s.json", data=b'{"v": %d}' % version, **common
        ),
        Model(
            name="archive",
            kind="file",
            file="archive.zip",
            path="unpacked",
            data=zipped(members),
            members=members,
            **common,
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Wish:
    """The arguments of one sync: a version, its consumers, and whether its digests are pinned."""

    version: int
    consumers: tuple[str, ...]
    pinned: bool

    def write(self, path: Path, url: str) -> None:
        entries = [model.entry(url, self.consumers, pinned=self.pinned) for model in models(self.version)]
        path.write_text(json.dumps({"version": 1, "tier": "soak", "models": entries}))

    def files(self) -> dict[str, bytes]:
        return {
            f"{consumer}/{path}": data
            for consumer in self.consumers
            for model in models(self.version)
            for path, data in model.files(consumer).items()
        }


def any_wish(chance: random.Random) -> Wish:
    consumers = chance.choice([CONSUMERS, CONSUMERS[:1], CONSUMERS[1:]])
    return Wish(version=chance.choice([1, 2]), consumers=consumers, pinned=chance.random() < 0.5)


@pytest.fixture
def source() -> Iterator[str]:
    """A server of both versions of every file."""
    files = {f"/v{version}/{model.file}": model.data for version in (1, 2) for model in models(version)}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            data = files[self.path]
            etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
            start, ranged = 0, self.headers.get("Range", "")
            if ranged and self.headers.get("If-Range", etag) == etag:
                start = int(ranged.removeprefix("bytes=").partition("-")[0])
                end = int(ranged.partition("-")[2] or len(data) - 1) + 1
            else:
                ranged, end = "", len(data)
            self.send_response(206 if ranged else 200)
            self.send_header("ETag", etag)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(end - start))
            if ranged:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(data[start:end])

        def log_message(self, *_arguments: object) -> None:
            """Log nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@dataclass(kw_only=True)
class Soak:
    """The program, and how long a whole sync takes."""

    program: Modelfetch
    url: str
    chance: random.Random
    seconds: float = 1.0

    def run(self, interruptions: int) -> None:
        everything = Wish(version=1, consumers=CONSUMERS, pinned=True)
        self.finish(everything)
        for number in range(1, interruptions + 1):
            kind = self.chance.random()
            if kind < 0.7:
                self.kill()
            else:
                self.suspend(replaced=kind > 0.85)
            self.check_names()
            if number % ROUND == 0:
                self.finish(any_wish(self.chance))
        self.finish(everything)

    def start(self, wish: Wish) -> subprocess.Popen[str]:
        manifest = self.program.cwd / f"{self.chance.randrange(10**9)}.yaml"
        wish.write(manifest, self.url)
        return self.program.start(
            "sync",
            "--progress",
            "none",
            "--manifest",
            str(manifest),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def finish(self, wish: Wish) -> None:
        """One sync to its end: whatever was interrupted before, it makes everything right."""
        manifest = self.program.cwd / "last.yaml"
        wish.write(manifest, self.url)
        begun = time.monotonic()
        report = self.program.report("sync", "--manifest", str(manifest))
        self.seconds = time.monotonic() - begun
        assert report["ok"], report["errors"]
        for path, data in wish.files().items():
            assert (self.program.root / path).read_bytes() == data, f"{path} is not of version {wish.version}"
        self.program.report("status", "--manifest", str(manifest))

    def wait(self, process: subprocess.Popen[str], *, least: float = 0.2) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.chance.uniform(least, 1.1) * self.seconds)

    def kill(self) -> None:
        process = self.start(any_wish(self.chance))
        self.wait(process)
        process.kill()
        process.wait()

    def suspend(self, *, replaced: bool) -> None:
        """Suspend one, start another, and resume the first; it may have been replaced meanwhile."""
        first = self.start(any_wish(self.chance))
        self.wait(first)
        first.send_signal(signal.SIGSTOP)
        if replaced and first.poll() is None:
            self.age_locks()
        second = self.start(any_wish(self.chance))
        self.wait(second)
        first.send_signal(signal.SIGCONT)
        self.wait(self.chance.choice([first, second]), least=0.0)
        for process in (first, second):
            process.kill()
            process.wait()

    def age_locks(self) -> None:
        """Let the last heartbeat of every owner be long ago, as it is after a minute of suspension."""
        then = time.time() - 60
        for path in (self.program.root / ".modelfetch" / "locks").glob("*.lock"):
            with contextlib.suppress(FileNotFoundError):
                os.utime(path, (then, then))

    def check_names(self) -> None:
        """What a consumer would load is always one of the versions, whole."""
        known: dict[str, set[bytes]] = {}
        for version in (1, 2):
            for path, data in Wish(version=version, consumers=CONSUMERS, pinned=True).files().items():
                known.setdefault(path, set()).add(data)
        for consumer in CONSUMERS:
            for found in (self.program.root / consumer).rglob("*"):
                name = str(found.relative_to(self.program.root))
                if found.is_file() and not found.name.startswith("."):
                    assert found.read_bytes() in known[name], f"{name} is neither version"


@pytest.mark.timeout(900)
def test_the_sync_after_kills_and_suspensions_restores_every_byte(modelfetch: Modelfetch, source: str) -> None:
    soaks = []
    for seed in range(ROOTS):
        folder = modelfetch.cwd / str(seed)
        folder.mkdir()
        soaks.append(Soak(program=replace(modelfetch, cwd=folder), url=source, chance=random.Random(seed)))
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(soak.run, KILLS // ROOTS) for soak in soaks]:
            done.result()
