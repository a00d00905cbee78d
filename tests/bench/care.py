"""Verify against sha256sum and `hf cache verify`; the bytes of a repair; list and a no-op sync as placements grow."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import subprocess
import threading
from typing import TYPE_CHECKING

from modelfetch.demo.hub import Hub
from modelfetch.demo.world import World
from tests.bench.measure import Entrant, Result, race, say, timed
from tests.damage import flip

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
CHUNK = 16 * MIB
OURS = "modelfetch verify"
SHA256SUM = "sha256sum"
_COMMIT = "1" * 40
_MODELS_PER_FILE = 1250
"""A manifest may have 1 MiB, which is enough for some 4,000 such models."""
_ROUNDS = 3


def verify_race(python: Path, work: Path, files: int, size: int) -> dict[str, Result]:
    """Let three programs hash the same files (``size`` bytes each), whose pages are in memory."""
    root, cache = work / f"verify-{files}", work / f"hub-{files}"
    entries = _fill(root, cache, files, size)
    blobs = sorted((cache / "models--bench--many/blobs").iterdir())
    with _tree_api(entries) as endpoint:
        entrants = [
            _entrant(OURS, [python.with_name("modelfetch"), "verify", "--root", root]),
            _entrant(SHA256SUM, ["sha256sum", *blobs]),
            _entrant(
                "hf cache verify",
                [python.with_name("hf"), "cache", "verify", "bench/many", "--cache-dir", cache, "--format", "json"],
                HF_ENDPOINT=endpoint,
                HF_HOME=str(work / "hf-home"),  # it caches the endpoint's responses
            ),
        ]
        return race(f"verify {files}", entrants, _ROUNDS)


def repaired_chunks(python: Path, work: Path) -> float:
    """The chunks (16 MiB) that are fetched to repair one flipped byte in a file of six."""
    data = os.urandom(MIB) * 96
    with Hub(World()) as hub:
        hub.world.hf_repo("bench/large", {"large.bin": data})
        entry = {"name": "large", "kind": "file", "path": "large.bin", "source": "hf://bench/large/large.bin"}
        entry["digest"] = f"sha256:{hashlib.sha256(data).hexdigest()}"
        root = work / "repair"
        manifest = _manifest(work / "repair.yaml", [{**entry, "for": ["comfyui"]}])
        env = {**os.environ, "HF_ENDPOINT": hub.endpoint}
        program = python.with_name("modelfetch")
        subprocess.run([program, "sync", manifest, "--root", root, "-q"], check=True, env=env)
        flip(root / "comfyui/large.bin", 40 * MIB)
        words = ["verify", "--repair", "--root", str(root), "--json"]
        done = subprocess.run([program, *words], check=True, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return int(json.loads(done.stdout)["bytes_fetched"]) / CHUNK


def growth(python: Path, work: Path, most: int) -> dict[str, dict[int, float]]:
    """Seconds of `list` and of a `sync` with nothing to do, for a quarter and all of ``most`` placements."""
    program = python.with_name("modelfetch")
    source = work / "tiny.bin"
    source.write_bytes(b"tiny")
    digest = f"sha256:{hashlib.sha256(b'tiny').hexdigest()}"
    found: dict[str, dict[int, float]] = {"list": {}, "no-op sync": {}}
    for count in (most // 4, most):
        root = work / f"placements-{count}"
        entry = {"kind": "file", "source": source.as_uri(), "size": 4, "digest": digest, "for": ["comfyui"]}
        models = [{**entry, "name": f"m{n}", "path": f"{n % 100}/{n}.bin"} for n in range(count)]
        manifests = [
            _manifest(work / f"placements-{count}-{first}.yaml", models[first : first + _MODELS_PER_FILE])
            for first in range(0, count, _MODELS_PER_FILE)
        ]
        say(f"{count} placements")
        subprocess.run([program, "sync", *manifests, "--root", root, "-q"], check=True)
        for name, words in (("list", ["list", "--json"]), ("no-op sync", ["sync", *manifests])):
            found[name][count] = min(timed([program, *words, "--root", root], {}).wall for _ in range(_ROUNDS))
    return found


def _fill(root: Path, cache: Path, files: int, size: int) -> list[dict[str, object]]:
    """Make a store and a cache of huggingface_hub with the same blobs; return the repository's files."""
    unit = os.urandom(MIB)
    repo = cache / "models--bench--many"
    snapshot = repo / "snapshots" / _COMMIT
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(_COMMIT)
    entries: list[dict[str, object]] = []
    for number in range(files):
        part, hasher = repo / "part", hashlib.sha256()
        with part.open("wb") as file:
            for chunk in [number.to_bytes(8, "big") + unit[8:], *[unit] * (size // MIB - 1)]:
                file.write(chunk)
                hasher.update(chunk)
        digest = hasher.hexdigest()
        blob = root / ".modelfetch/blobs/sha256" / digest[:2] / digest
        blob.parent.mkdir(parents=True, exist_ok=True)
        part.replace(blob)
        (repo / "blobs" / digest).hardlink_to(blob)
        (snapshot / f"{number}.bin").symlink_to(f"../../blobs/{digest}")
        lfs = {"oid": digest, "size": size, "pointerSize": 130}
        entries.append({"type": "file", "path": f"{number}.bin", "size": size, "oid": "0" * 40, "lfs": lfs})
    os.sync()
    return entries


@contextlib.contextmanager
def _tree_api(entries: list[dict[str, object]]) -> Iterator[str]:
    """The list of a repository's files, with their digests, as the Hugging Face Hub serves it."""
    body = json.dumps(entries).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = body if "/tree/" in self.path else b"{}"
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def _entrant(name: str, command: list[str | Path], **env: str) -> Entrant:
    return Entrant(name=name, command=command, clean=lambda: None, check=lambda: None, env=env)


def _manifest(path: Path, models: list[dict[str, object]]) -> Path:
    path.write_text(json.dumps({"version": 1, "models": models}), encoding="utf-8")
    return path
