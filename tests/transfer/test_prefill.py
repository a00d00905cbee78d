"""A download does not fetch again what `fit` has read; if that is impossible, nothing else changes."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.cli.app import run
from modelfetch.core.artifact import Artifact, Location
from modelfetch.core.digest import Digest
from modelfetch.demo.hub import Hub
from modelfetch.demo.world import World
from modelfetch.store import Store
from modelfetch.store.locks.lock import lock
from modelfetch.transfer.journal import Identity
from modelfetch.transfer.partial import Partial
from modelfetch.transfer.prefill import PartialPrefix, prefill
from modelfetch.transfer.writer import SegmentWriter
from tests.cases import THOROUGH, first
from tests.faults import HtmlPage
from tests.fitting.build import Shape, llm
from tests.transfer.world import payload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST = 64 * 2**10
READ = FIRST + 15 * 2**19
"""Bytes that an exact estimate reads of the model: ranges of 0.5, 1, 2 and 4 MiB after the first."""


@functools.cache
def model() -> bytes:
    """A language model whose header is longer than the first range and a step after it, with weights that differ."""
    made = llm(Shape(layers=2, embedding=32, heads=2, kv_heads=1, ff=64, vocab=260_000, tied=True))
    assert made.size is not None
    assert FIRST + 7 * 2**19 < len(made.header) <= READ
    return made.header + payload(made.size - len(made.header))


def size() -> int:
    return len(model())


@functools.cache
def digest() -> str:
    return hashlib.sha256(model()).hexdigest()


@dataclass
class Bench:
    """A hub with the model, a manifest with it, and a ROOT."""

    hub: Hub
    folder: Path
    capsys: pytest.CaptureFixture[str]
    budget: str = "4GiB"
    source: str = "ollama://long:1b"
    pin: str = ""

    @property
    def root(self) -> Path:
        return self.folder / "models"

    @property
    def part(self) -> Path:
        return self.root / ".modelfetch" / "ingest" / f"{digest()}.part"

    def manifest(self) -> str:
        ollama = self.source.startswith("ollama:")
        wanted = "for: [ollama]" if ollama else "kind: diffusion-model, for: [comfyui]"
        path = self.folder / "m.yaml"
        path.write_text(
            f"version: 1\nservices: {{{'ollama' if ollama else 'comfyui'}: {{vram: {self.budget}}}}}\n"
            f'models: [{{name: m, source: "{self.source}", {self.pin}{wanted}}}]\n'
        )
        return str(path)

    def run(self, *words: str) -> tuple[int, dict[str, Any]]:
        self.capsys.readouterr()
        self.hub.log.clear()
        code = run([*words, "--json", "--retries", "1"])
        out, err = self.capsys.readouterr()
        assert out, err
        return code, json.loads(out)

    def fit(self, *words: str) -> tuple[int, dict[str, Any]]:
        return self.run("fit", "--manifest", self.manifest(), "--root", str(self.root), *words)

    def sync(self) -> dict[str, Any]:
        """Sync and check the result; returns the artifact of the weights."""
        code, report = self.run("sync", "--manifest", self.manifest(), "--root", str(self.root))
        assert code == 0, report
        (found,) = [a for m in report["models"] for a in m["artifacts"] if a["size"] == size()]
        assert found["digest"] == f"sha256:{digest()}"
        blob = self.root / ".modelfetch/blobs/sha256" / digest()[:2] / digest()
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == digest()
        return found  # type: ignore[no-any-return]

    def asked(self) -> list[tuple[int, int]]:
        """The spans of the weights that were sent, in order; a request without a range is the whole."""
        spans = []
        for request in self.hub.log.requests():
            if request.status == 206 and request.sent:
                first, last = (request.range or "").removeprefix("bytes=").split("-")
                spans.append((int(first), int(last or size() - 1) + 1))
            elif request.status == 200 and request.sent == size():
                spans.append((0, size()))
        return sorted(spans)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Bench]:
    world = World()
    world.ollama_model("long:1b", [("model", model())])
    world.hf_repo("acme/gguf", {"long.gguf": model()})
    world.file("long.gguf", model())
    with Hub(world) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("MODELFETCH_OLLAMA_REGISTRY", hub.ollama)
        monkeypatch.setenv("MODELFETCH_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "models").mkdir()
        yield Bench(hub, tmp_path, capsys)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ── a later download continues from there ──
@pytest.mark.parametrize(("budget", "read"), first(1, [("8MiB", READ), ("4GiB", FIRST)]))
def test_sync_requests_only_the_rest(bench: Bench, budget: str, read: int) -> None:
    bench.budget = budget
    _, report = bench.fit()
    assert report["bytes_fetched"] == read
    assert bench.part.read_bytes() == model()[:read]
    found = bench.sync()
    assert (found["action"], found["bytes_fetched"]) == ("resumed", size() - read)
    asked = bench.asked()  # on a busy machine a slow connection's rest is requested a second time
    assert (asked[0][0], max(end for _, end in asked)) == (read, size())


def test_one_connection_sends_one_request_for_the_version_that_fit_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELFETCH_SYNC_CONNECTIONS", "1")
    bench.source = f"{bench.hub.files}long.gguf"
    read = bench.fit()[1]["bytes_fetched"]
    assert bench.sync()["bytes_fetched"] == size() - read
    (request,) = [r for r in bench.hub.log.requests("*long.gguf") if r.sent > 1]
    assert request.range in (f"bytes={read}-", f"bytes={read}-{size() - 1}")
    assert request.headers["if-range"] == f'"{digest()[:32]}"'


@THOROUGH
def test_fetch_resumes_from_the_bytes_that_fit_read(bench: Bench) -> None:
    for uri in ("ollama://long:1b", "hf://acme/gguf/long.gguf", f"{bench.hub.files}long.gguf"):
        cache = bench.folder / "cache"
        _, report = bench.run("fit", uri, "--root", str(bench.root))
        assert report["bytes_fetched"] == READ
        assert not (bench.root / ".modelfetch").exists()
        code, report = bench.run("fetch", uri)
        assert (code, report["bytes_fetched"]) == (0, size() - READ)
        again = bench.run("fit", uri, "--root", str(bench.root))[1]["bytes_fetched"]
        assert again == (READ if uri.startswith("http") else 0), "only a digest tells that a file is still the same"
        cache.rename(bench.folder / f"cache-{len(uri)}")


def test_a_second_fit_extends_the_partial_file_of_the_first(bench: Bench) -> None:
    assert bench.fit()[1]["bytes_fetched"] == FIRST
    first = bench.fit()
    assert first[1]["bytes_fetched"] == 0
    bench.budget = "8MiB"
    code, exact = bench.fit()
    assert exact["bytes_fetched"] == READ - FIRST
    assert bench.asked()[0] == (FIRST, FIRST + 2**19)
    assert bench.part.read_bytes() == model()[:READ]
    again = bench.fit()
    assert again == (code, {**exact, "bytes_fetched": 0})
    assert bench.sync()["bytes_fetched"] == size() - READ


def test_offline_fit_reads_the_partial_file(bench: Bench) -> None:
    bench.source = "hf://acme/gguf@" + bench.hub.world.repos["acme/gguf"].main + "/long.gguf"
    bench.pin = f"size: {size()}, digest: 'sha256:{digest()}', "
    code, report = bench.fit()
    assert report["bytes_fetched"] > 0
    assert bench.fit("--offline") == (code, {**report, "bytes_fetched": 0})
    assert len(bench.hub.log) == 0
    bench.part.unlink()
    assert bench.fit("--offline")[0] == 69


# ── if that is impossible, nothing else changes ──
def test_a_damaged_prefilled_file_is_fetched_again(bench: Bench) -> None:
    bench.fit()
    data = bytearray(bench.part.read_bytes())
    data[1000] ^= 1
    bench.part.write_bytes(data)
    assert bench.fit()[1]["bytes_fetched"] == FIRST
    bench.part.write_bytes(data)
    found = bench.sync()
    assert (found["action"], found["bytes_fetched"]) == ("fetched", size())


@pytest.mark.parametrize("pinned", first(1, [False, True]))
def test_a_changed_source_is_fetched_from_the_start(bench: Bench, *, pinned: bool) -> None:
    bench.source, bench.pin = f"{bench.hub.files}long.gguf", f"digest: 'sha256:{digest()}', " if pinned else ""
    bench.hub.world.file("long.gguf", model()[:-1] + bytes([model()[-1] ^ 1]))
    bench.fit()
    assert len(list((bench.root / ".modelfetch/ingest").glob("*.part"))) == 1
    bench.hub.world.file("long.gguf", model())
    assert bench.sync()["bytes_fetched"] == size()


def test_a_file_that_is_not_a_model_leaves_no_partial_file(bench: Bench) -> None:
    bench.source = f"{bench.hub.files}long.gguf"
    bench.hub.world.file("long.gguf", b"\0" * 200_000)
    assert bench.fit()[0] == 65
    bench.hub.faults.add("*long.gguf", HtmlPage(), times=None)
    assert bench.fit()[0] in (65, 77)
    assert files(bench.root) == {}


def test_a_missing_root_is_not_created(bench: Bench) -> None:
    bench.root.rmdir()
    assert bench.fit()[0] == 0
    assert not bench.root.exists()
    store = bench.folder / "other"
    assert bench.fit("--store", str(store))[0] == 0
    assert not store.exists()
    store.mkdir()
    assert bench.fit("--store", str(store))[0] == 0
    assert (store / "ingest" / f"{digest()}.part").stat().st_size == FIRST
    assert not bench.root.exists()


@pytest.mark.parametrize("broken", ["ingest", "locks", "ingest/x"])
def test_fit_works_with_a_store_that_is_not_writable(
    bench: Bench, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = bench.fit()
    for path in sorted((bench.root / ".modelfetch").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    if broken == "ingest/x":
        monkeypatch.setattr(os, "open", _full(os.open))
    else:
        (bench.root / ".modelfetch" / broken).write_text("in the way")
    assert bench.fit() == expected
    assert not bench.part.exists()


def _full(real: Any) -> Any:
    def fails(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if str(path).endswith(".part") and flags & os.O_CREAT:
            raise OSError(30, "Read-only file system", str(path))
        return int(real(path, flags, *rest, **named))

    return fails


def test_no_partial_file_is_written_into_the_folder_of_another_user(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: bench.root.stat().st_uid + 1)
    assert bench.fit()[0] == 0
    assert list(bench.root.iterdir()) == []


def test_a_running_transfer_is_not_disturbed(bench: Bench) -> None:
    expected = bench.fit()
    bench.part.unlink()
    with lock(bench.root / ".modelfetch/locks" / f"{digest()}.lock", label="other"):
        assert bench.fit() == expected
        assert not bench.part.exists()
    bench.fit()
    assert bench.part.exists()


def artifact() -> Artifact:
    return Artifact(
        uri="ollama://long:1b",
        path="model",
        size=size(),
        digest=Digest("sha256", digest()),
        locations=(Location(uri="a", url="https://a.example/x"), Location(uri="b", url="https://b.example/x")),
    )


def identity(source: str = "a", etag: str = '"1"') -> Identity:
    return Identity(uri=source, url=f"https://{source}.example/x", etag=etag, size=size())


def beginning(length: int) -> memoryview:
    return memoryview(model())[:length]


@pytest.mark.parametrize(
    ("there", "source", "etag"), first(2, [(3 * 2**20, "a", '"1"'), (2**20, "a", '"2"'), (2**20, "b", '"1"')])
)
def test_a_longer_partial_file_or_one_of_another_version_is_kept(
    tmp_path: Path, there: int, source: str, etag: str
) -> None:
    store = Store(tmp_path)
    assert prefill(store, artifact(), beginning(there), identity(source, etag))
    before = files(tmp_path)
    assert not prefill(store, artifact(), beginning(2 * 2**20), identity())
    assert files(tmp_path) == before


def test_a_partial_file_with_holes_or_without_a_journal_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    part = store.folder("ingest") / f"{digest()}.part"
    with part.open("wb") as file:
        file.truncate(size())
    assert not prefill(store, artifact(), beginning(FIRST), identity())
    part.write_bytes(b"x")
    assert not prefill(store, artifact(), beginning(FIRST), identity())
    assert part.read_bytes() == b"x"


def test_a_damaged_blob_with_more_intact_bytes_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    blob = store.blob_path(Digest("sha256", digest()))
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"damaged")
    assert not prefill(store, artifact(), beginning(FIRST), identity())
    assert not list(tmp_path.rglob("*.part"))


def test_without_a_digest_the_source_is_always_requested_again(tmp_path: Path) -> None:
    store, whole = Store(tmp_path), b"x" * 5000
    unpinned = Artifact(uri="u", path="x.gguf", size=5000, locations=artifact().locations)
    known = Identity(uri="a", url="https://a.example/x", etag='"1"', size=5000)
    assert prefill(store, unpinned, memoryview(whole), known)
    (part,) = tmp_path.rglob("*.part")
    assert part.stat().st_size == 4999
    assert PartialPrefix(store, unpinned).read(0, 10) == b""
    for validator in (None, 'W/"1"'):
        other = Artifact(uri=f"u{validator}", path="x.gguf", size=5000)
        assert not prefill(store, other, memoryview(whole), Identity(uri="a", url="b", etag=validator, size=5000))


def test_only_verified_bytes_of_its_own_sources_are_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert PartialPrefix(store, artifact()).read(0, 10) == b""
    assert prefill(store, artifact(), beginning(FIRST), identity("c"))
    assert PartialPrefix(store, artifact()).read(0, 10) == b""


def test_fit_reads_the_verified_part_of_a_partial_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.folder("ingest") / f"{digest()}.part"
    assert prefill(store, artifact(), beginning(2**20), identity())
    partial = Partial(path, algorithms=("sha256",), size=size())
    partial.trust()
    partial.identify(identity())
    for start, end in ((2**20, 2**20 + 5000), (2 * 2**20, 2 * 2**20 + 100)):
        writer = SegmentWriter(partial, start)
        writer.take(beginning(end)[start:])
        writer.close()
    partial.close(keep=True)
    found = PartialPrefix(store, artifact()).read(0, 4 * 2**20)
    assert found == model()[: len(found)]
    assert len(found) == 2**20 + 5000
