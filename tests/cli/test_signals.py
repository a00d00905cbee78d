"""Ctrl-C and SIGTERM end every command within a second, whatever it waits for; real processes, real signals."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import select
import signal
import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import pytest

from modelfetch.demo.hub import Hub
from modelfetch.demo.world import World
from modelfetch.store.locks.lock import lock
from tests.faults import RedirectTo, Status
from tests.interpreter import Process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LARGE = 64 * 2**30
SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
SETTLE = 0.2
"""Seconds from the first sign of the work to the signal."""


class Silent:
    """A server that takes connections and requests, and never answers."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.asked = threading.Event()
        self._kept: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._kept.append(sock)
            threading.Thread(target=self._listen, args=(sock,), daemon=True).start()

    def _listen(self, sock: socket.socket) -> None:
        try:
            if sock.recv(65536):
                self.asked.set()
        except OSError:
            pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._kept:
            sock.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    server = Silent()
    yield server
    server.close()


def ends(words: list[str], begun: Any, number: int, folder: Path, **environ: str) -> tuple[int, str, float]:
    """The exit code, stderr, and seconds from the signal to the end."""
    with Process("-m", "modelfetch", *words, cwd=folder, env={**os.environ, **environ}) as process:
        assert begun(20)
        time.sleep(SETTLE)
        assert process.poll() is None
        start = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        return process.wait(), err, time.monotonic() - start


def manifest(folder: Path, source: str, **keys: Any) -> list[str]:
    model = {
        "name": "m",
        "source": source,
        **({"kind": "vae", "for": ["comfyui"]} if not keys.get("for") else {}),
        **keys,
    }
    path = folder / "m.yaml"
    path.write_text(json.dumps({"version": 1, "models": [model]}))
    return ["--manifest", str(path)]


METADATA: dict[str, tuple[str, dict[str, Any]]] = {
    "the hub": ("hf://acme/art/x.safetensors", {}),
    "a pinned file of the hub": (
        f"hf://acme/art@{'a' * 40}/x.safetensors",
        {"size": 5, "digest": "sha256:" + "b" * 64},
    ),
    "an Ollama registry": ("ollama://llama3.2:1b", {"for": ["ollama"]}),
    "CivitAI": ("civitai://7", {"digest": "sha256:" + "b" * 64}),
    "a web server": ("http://{host}/x.safetensors", {}),
    "an OCI registry": ("oci://{host}/acme/art:1", {}),
}


# Which signal it is makes no difference to a source: each source meets one of them, the hub both.
EACH_SOURCE = [(what, *SIGNALS[number % 2]) for number, what in enumerate(METADATA)] + [("the hub", *SIGNALS[1])]


@pytest.mark.parametrize(("what", "number", "code"), EACH_SOURCE)
def test_a_signal_ends_the_wait_for_metadata(silent: Silent, tmp_path: Path, what: str, number: int, code: int) -> None:
    source, keys = METADATA[what]
    words = ["sync", *manifest(tmp_path, source.format(host=silent.host), **keys)]
    url = f"http://{silent.host}"
    found, err, seconds = ends(
        words,
        silent.asked.wait,
        number,
        tmp_path,
        HF_ENDPOINT=url,
        MODELFETCH_OLLAMA_REGISTRY=url,
        MODELFETCH_CIVITAI_ENDPOINT=url,
    )
    assert (found, f"error: {'terminated' if code == 143 else 'interrupted'}" in err) == (code, True), err
    assert "Traceback" not in err
    assert seconds < 1.0


@pytest.mark.parametrize("command", ["plan", "pin", "fetch", "fit"])
def test_a_signal_ends_every_command_that_waits_for_a_response(silent: Silent, tmp_path: Path, command: str) -> None:
    source = "hf://acme/art/x.safetensors"
    named = manifest(tmp_path, source)
    words = [command, *{"fetch": [source], "fit": [source], "pin": named[1:]}.get(command, named)]
    found, _, seconds = ends(words, silent.asked.wait, signal.SIGTERM, tmp_path, HF_ENDPOINT=f"http://{silent.host}")
    assert found == 143
    assert seconds < 1.0


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_ends_the_wait_for_a_body(silent: Silent, tmp_path: Path, number: int, code: int) -> None:
    """The hub answers, and redirects the download to a host that does not."""
    with Hub(World()) as hub:
        hub.world.hf_repo("acme/art", {"x.safetensors": bytes(100_000)})
        hub.faults.add("*resolve*", RedirectTo(url=f"http://{silent.host}/x"), times=None)
        words = ["sync", *manifest(tmp_path, "hf://acme/art/x.safetensors")]
        found, _, seconds = ends(words, silent.asked.wait, number, tmp_path, HF_ENDPOINT=hub.endpoint)
    assert found == code
    assert seconds < 1.0


class Opened:
    """Notices that a file is opened (inotify)."""

    IN_OPEN = 0x20  # source: linux/inotify.h

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_CLOEXEC)
        assert libc.inotify_add_watch(self._fd, os.fsencode(path), self.IN_OPEN) >= 0, os.strerror(ctypes.get_errno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def wait(self, seconds: float) -> bool:
        return bool(select.select([self._fd], [], [], seconds)[0])


def test_a_signal_ends_the_hashing_of_a_large_file(silent: Silent, tmp_path: Path) -> None:
    there = tmp_path / "files/ai-models/comfyui/models/vae/x.safetensors"
    there.parent.mkdir(parents=True)
    with there.open("wb") as file:
        file.truncate(LARGE)
    words = [
        "sync",
        *manifest(tmp_path, f"http://{silent.host}/x.safetensors", size=LARGE, digest="sha256:" + "b" * 64),
    ]
    with Opened(there) as opened:
        found, _, seconds = ends(words, opened.wait, signal.SIGINT, tmp_path)
    assert not silent.asked.is_set()
    assert (found, there.stat().st_size) == (130, LARGE)
    assert seconds < 1.0


def answered(hub: Hub, seconds: float) -> bool:
    """Wait until the hub has answered a request."""
    deadline = time.monotonic() + seconds
    while not any(request.status for request in hub.log.requests()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return time.monotonic() < deadline


def test_a_signal_ends_a_pause_before_a_retry(tmp_path: Path) -> None:
    with Hub(World()) as hub:
        hub.world.hf_repo("acme/art", {"x.safetensors": bytes(100_000)})
        hub.faults.add("*", Status(code=503, headers={"Retry-After": "60"}), times=None)
        words = ["sync", *manifest(tmp_path, "hf://acme/art/x.safetensors")]
        found, _, seconds = ends(words, partial(answered, hub), signal.SIGTERM, tmp_path, HF_ENDPOINT=hub.endpoint)
    assert found == 143
    assert seconds < 1.0


@pytest.mark.parametrize("which", ["consumer-comfyui", "b" * 64])
def test_a_signal_ends_the_wait_for_a_lock(tmp_path: Path, which: str) -> None:
    folder = tmp_path / "files/ai-models/.modelfetch/locks"
    source = tmp_path / "x.json"
    source.write_text("{}")
    digest = hashlib.sha256(b"{}").hexdigest()
    path = folder / f"{which.replace('b' * 64, digest)}.lock"
    with lock(path, label="the test"), Opened(path) as opened:
        words = ["sync", *manifest(tmp_path, f"file://{source}", digest=f"sha256:{digest}")]
        found, _, seconds = ends(words, opened.wait, signal.SIGTERM, tmp_path)
    assert found == 143
    assert seconds < 1.0


CALLS = {
    "sync": "modelfetch.sync(manifest='m.yaml')",
    "sync where a loop runs": "asyncio.run(nested())",
    "sync_async": "asyncio.run(modelfetch.sync_async(manifest='m.yaml'))",
    "retrieve": "modelfetch.retrieve(URI)",
    "sync in a notebook": "asyncio.new_event_loop().run_until_complete(nested())",
}
# What is waited for makes no difference to how a call is made: one meets all, the others two.
WAITS = {
    "sync": ("source", "lock", "hash"),
    "sync where a loop runs": ("source", "lock"),
    "sync_async": ("source", "hash"),
    "retrieve": ("source",),
    "sync in a notebook": ("lock", "hash"),
}
CALLER = """
import asyncio, os, signal, sys, threading, time, modelfetch
URI = "hf://acme/art/x.safetensors"
async def nested():
    return modelfetch.sync(manifest="m.yaml")
try:
    {call}
except KeyboardInterrupt:
    print("interrupted")
deadline = time.monotonic() + 5
while time.monotonic() < deadline and any(t.name == "modelfetch" for t in threading.enumerate()):
    time.sleep(0.01)
print(sorted(t.name for t in threading.enumerate() if t.name == "modelfetch"))
"""


@pytest.mark.parametrize(("call", "waits"), [(c, w) for c in CALLS for w in WAITS[c]])
def test_an_interrupted_api_call_leaves_no_thread_running(
    silent: Silent, tmp_path: Path, call: str, waits: str
) -> None:
    """KeyboardInterrupt is raised at once, no transfer continues in the background, and the interpreter can exit."""
    root = tmp_path / "files/ai-models"
    there = root / "comfyui/models/vae/x.safetensors"
    (tmp_path / "x.json").write_text("{}")
    manifest(tmp_path, "hf://acme/art/x.safetensors" if waits == "source" else f"file://{tmp_path}/x.json")
    if waits == "hash":
        manifest(tmp_path, f"http://{silent.host}/x.safetensors", size=LARGE, digest="sha256:" + "b" * 64)
        there.parent.mkdir(parents=True)
        with there.open("wb") as file:
            file.truncate(LARGE)
    path = root / ".modelfetch/locks/consumer-comfyui.lock"
    with lock(path, label="the test"), Opened(there if waits == "hash" else path) as opened:
        env = {**os.environ, "HF_ENDPOINT": f"http://{silent.host}", "MODELFETCH_CACHE": str(tmp_path / "cache")}
        with Process("-c", CALLER.format(call=CALLS[call]), cwd=tmp_path, env=env) as process:
            assert (silent.asked if waits == "source" else opened).wait(20)
            time.sleep(SETTLE)
            start = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=20)
    assert out.splitlines() == ["interrupted", "[]"]
    assert silent.asked.is_set() == (waits == "source")
    assert time.monotonic() - start < 1.5
