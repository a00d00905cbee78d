"""``modelfetch fit`` on URIs, files, folders and the store."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.cli.app import run
from modelfetch.demo import models as made
from modelfetch.demo.hub import Hub
from modelfetch.demo.world import World
from tests.faults import HtmlPage
from tests.fitting import real
from tests.fitting.build import Shape, llm
from tests.fitting.world import HeaderBody

if TYPE_CHECKING:
    from collections.abc import Iterator

GIB = 2**30
TINY = llm(Shape(layers=6, embedding=512, heads=8, kv_heads=2, vocab=1024))
"""Its cache takes 12 MiB for 4096 tokens, as measured on this shape in Ollama."""
assert TINY.size is not None
WEIGHTS = TINY.size - len(TINY.header) - 2 * 512 * 1024
"""Of its weights all but the token embedding, which stays in RAM."""
SD15 = real.sd15()
EMPTY = llm(Shape())


def body(header: bytes, size: int | None, name: str) -> HeaderBody:
    import hashlib

    return HeaderBody(header=header, size=size or len(header), sha256=hashlib.sha256(name.encode()).hexdigest())


@dataclass
class Bench:
    """The hub, a folder, and the program run in process."""

    hub: Hub
    folder: Path
    capsys: pytest.CaptureFixture[str]

    def fit(self, *words: str) -> tuple[int, dict[str, Any]]:
        code, out, err = self.text(*words, "--json")
        assert out.startswith("{"), err
        return code, json.loads(out)

    def text(self, *words: str) -> tuple[int, str, str]:
        self.capsys.readouterr()
        code = run(["fit", *words, "--root", str(self.folder / "models"), "--retries", "1"])
        return (code, *self.capsys.readouterr())


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Bench]:
    world = World()
    tiny = body(TINY.header, TINY.size, "tiny")
    world.ollama_model("tiny:1b", [("model", tiny)])
    shards = {f"big-0000{n}-of-00002.gguf": body(TINY.header, TINY.size, f"shard {n}") for n in (1, 2)}
    world.hf_repo("acme/gguf", {"tiny.gguf": tiny, **shards, "README.md": b"# tiny"})
    world.hf_repo("acme/sd", {"sd.safetensors": body(SD15.header, SD15.size, "sd")})
    world.hf_repo("acme/faster-whisper-small", {**made.faster_whisper(), "README.md": b"# w"})
    world.file("tiny.gguf", tiny)
    with Hub(world) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("MODELFETCH_OLLAMA_REGISTRY", hub.ollama)
        monkeypatch.chdir(tmp_path)
        yield Bench(hub, tmp_path, capsys)


def only(report: dict[str, Any]) -> dict[str, Any]:
    (service,) = report["services"]
    (model,) = service["models"]
    assert isinstance(model, dict)
    return model


def test_manifests_are_plain_arguments(bench: Bench) -> None:
    entry = "  - {name: tiny, source: ollama://tiny:1b, for: [ollama]}\n"
    (bench.folder / "one.yaml").write_text("version: 1\nmodels:\n" + entry)
    named = bench.fit("--manifest", "one.yaml")[1]
    assert bench.fit("one.yaml")[1]["services"] == named["services"]
    assert bench.text("one.yaml", "hf://acme/gguf/tiny.gguf")[0] == 2
    assert bench.text("nowhere.yaml")[::2] == (
        78,
        f"error: nowhere.yaml: no such file\nhint: paths start from {bench.folder}\n",
    )


# ── one model ──
def test_a_model_alone_is_one_service_without_a_budget(bench: Bench) -> None:
    code, report = bench.fit("ollama://tiny:1b", "--context", "4096")
    assert code == 0
    assert set(report) == {"ok", "tier", "usable", "needed", "services", "bytes_fetched", "errors"}
    assert (report["ok"], report["tier"], report["usable"], report["errors"]) == (True, None, None, [])
    (service,) = report["services"]
    assert set(service) == {"service", "budget", "needed", "fits", "models"}
    assert service["budget"] is None
    model = only(report)
    assert set(model) == {
        *("name", "uri", "weights", "kv", "compute", "overhead", "total", "method", "assumptions"),
    }
    assert model["uri"] == "ollama://tiny:1b"
    assert model["method"] == "header"
    assert model["weights"] == pytest.approx(WEIGHTS, rel=1e-3)
    assert model["kv"] == 12 * 2**20


def test_options_change_the_estimate_as_measured(bench: Bench) -> None:
    def kv(*words: str) -> float:
        return float(only(bench.fit("ollama://tiny:1b", *words)[1])["kv"]) / 2**20

    assert kv("--context", "8192") == 24
    assert kv("--context", "4096", "--parallel", "2") == 24
    assert kv("--context", "4096", "--flash-attention", "--kv-type", "q8_0") == 6.375
    assert kv("--context", "4096", "--no-flash-attention", "--kv-type", "q8_0") == 12


@pytest.mark.parametrize(
    "uri",
    [
        "hf://acme/gguf/tiny.gguf",
        "hf://acme/gguf@main/tiny.gguf",
        "{files}tiny.gguf",
        "{hf}/acme/gguf/resolve/main/tiny.gguf",
    ],
)
def test_the_same_model_from_any_source_needs_the_same(bench: Bench, uri: str) -> None:
    uri = uri.format(files=bench.hub.files, hf=bench.hub.endpoint)
    code, report = bench.fit(uri)
    assert code == 0
    assert only(report)["weights"] == pytest.approx(WEIGHTS, rel=1e-3)
    assert report["bytes_fetched"] == 64 * 1024


def test_an_image_model_takes_one_request_of_half_a_mebibyte(bench: Bench) -> None:
    code, report = bench.fit("hf://acme/sd/sd.safetensors")
    assert code == 0
    assert only(report)["assumptions"]["family"] == "sd15"
    assert report["needed"] == pytest.approx(3.65 * GIB, rel=0.01)
    assert [r.range for r in bench.hub.log.requests(origin="cdn")] == ["bytes=0-524287"]


def test_the_shards_of_a_model_are_one_model(bench: Bench) -> None:
    _, report = bench.fit("hf://acme/gguf/big-00002-of-00002.gguf")
    assert only(report)["weights"] == pytest.approx(2 * WEIGHTS, rel=1e-3)


def test_a_repo_with_several_quantizations_requires_a_choice(bench: Bench) -> None:
    code, report = bench.fit("hf://acme/gguf")
    assert code == 2
    assert "big-00001-of-00002.gguf, tiny.gguf" in report["errors"][0]["message"]


def test_a_whisper_repo_is_estimated_by_the_table(bench: Bench) -> None:
    code, report = bench.fit("hf://acme/faster-whisper-small")
    assert code == 0
    assert only(report)["method"] == "table"
    assert report["bytes_fetched"] == 0


def test_a_model_that_does_not_fit_is_1_with_settings_that_would(bench: Bench) -> None:
    code, report = bench.fit("ollama://tiny:1b", "--context", "131072", "--usable", "1600MiB")
    assert code == 1
    (error,) = report["errors"]
    assert error["code"] == "does-not-fit"
    assert "context:" in error["hint"]
    code, out, _ = bench.text("ollama://tiny:1b", "--context", "131072", "--usable", "1600MiB")
    assert code == 1
    assert "problem: " in out
    assert "hint: it would fit with" in out


# ── what is on disk ──
def test_local_files_and_folders_are_read_in_place(bench: Bench) -> None:
    folder = bench.folder / "my model"
    folder.mkdir()
    path = TINY.write(folder / "tiny.gguf")
    (folder / "notes.txt").write_text("mine")
    reports = [bench.fit(text) for text in (str(path), path.as_uri(), "my model", "./my model/tiny.gguf")]
    assert {code for code, _ in reports} == {0}
    assert {only(report)["total"] for _, report in reports} == {only(reports[0][1])["total"]}
    assert {report["bytes_fetched"] for _, report in reports} == {0}
    assert only(reports[0][1])["uri"] == path.as_uri()
    assert len(bench.hub.log) == 0


def test_a_folder_is_read_as_the_model_in_it(bench: Bench) -> None:
    cache = bench.folder / "models--acme--sd"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / ("a" * 40)
    (snapshot / ".cache").mkdir(parents=True)
    blob = SD15.write(cache / "blobs" / ("b" * 64))
    (snapshot / "sd.safetensors").symlink_to(blob)
    SD15.write(snapshot / ".cache" / "sd.safetensors")
    for name in ("notes.part", "README"):
        (snapshot / name).write_bytes(b"GGUF, but not really")
    for folder in (cache, snapshot):
        code, report = bench.fit(str(folder))
        assert (code, only(report)["assumptions"]["family"]) == (0, "sd15")
        assert report["needed"] == pytest.approx(3.65 * GIB, rel=0.01)
    (cache / "snapshots" / ("c" * 40)).mkdir()
    code, report = bench.fit(str(cache))
    assert (code, report["errors"][0]["hint"]) == (2, f"name one: {snapshot}")


def test_a_path_without_a_model_is_a_usage_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (bench.folder / "empty").mkdir()
    (bench.folder / "text").mkdir()
    (bench.folder / "text" / "a.txt").write_text("a")
    os.mkfifo(bench.folder / "pipe")
    for words in ("empty", "text", "pipe", "/dev/zero", "", " "):
        code, report = bench.fit(words)
        assert (code, report["errors"][0]["code"]) == (2, "usage"), words
        assert report["errors"][0]["hint"]
    monkeypatch.setattr("modelfetch.fitting.candidates._MAX_FILES", 3)
    for n in range(5):
        (bench.folder / "text" / f"{n}.bin").write_text("a")
    assert "more than 3 files" in bench.fit("text")[1]["errors"][0]["message"]


def test_a_header_in_the_store_is_not_fetched_again(bench: Bench) -> None:
    world = bench.hub.world
    world.ollama_model("real:1b", made.ollama_layers(), config=made.ollama_config())
    manifest = bench.folder / "m.yaml"
    manifest.write_text('version: 1\nmodels: [{name: real, source: "ollama://real:1b", for: [ollama]}]\n')
    assert run(["sync", "--manifest", str(manifest), "--root", str(bench.folder / "models")]) == 0
    _, fetched = bench.fit("ollama://tiny:1b")
    assert fetched["bytes_fetched"] > 0
    code, report = bench.fit("ollama://real:1b")
    assert (code, report["bytes_fetched"]) == (0, 0)
    bench.hub.log.clear()
    for words in (("ollama://real:1b",), ("--manifest", str(manifest))):
        code, report = bench.fit(*words, "--offline")
        assert (code, report["bytes_fetched"]) == (0, 0), report
    assert len(bench.hub.log) == 0


def test_offline_a_header_that_is_not_on_this_machine_is_an_error(bench: Bench) -> None:
    manifest = bench.folder / "m.yaml"
    pinned = {
        "name": "pinned",
        "kind": "diffusion-model",
        "source": f"hf://acme/gguf@{'1' * 40}/model.gguf",
        "digest": f"sha256:{'2' * 64}",
        "size": 2**30,
        "for": ["comfyui"],
    }
    manifest.write_text(json.dumps({"version": 1, "models": [pinned]}))
    code, report = bench.fit("--manifest", str(manifest), "--offline")
    (error,) = report["errors"]
    assert (code, error["code"], error["model"]) == (69, "offline", "pinned")
    assert error["message"] == f"{pinned['source']} is not on this machine yet, and network access is disabled"


def test_a_placed_file_is_read_when_its_blob_is_lost(bench: Bench) -> None:
    world = bench.hub.world
    world.ollama_model("real:1b", made.ollama_layers(), config=made.ollama_config())
    manifest = bench.folder / "m.yaml"
    manifest.write_text('version: 1\nmodels: [{name: real, source: "ollama://real:1b", for: [ollama]}]\n')
    assert run(["sync", "--manifest", str(manifest), "--root", str(bench.folder / "models")]) == 0
    for blob in (bench.folder / "models/.modelfetch/blobs").rglob("*"):
        if blob.is_file():
            blob.unlink()
    assert bench.fit("--manifest", str(manifest))[1]["bytes_fetched"] == 0


# ── a manifest ──
MANIFEST = """
version: 1
tier: mine
vram: 8GiB
services:
  ollama: {vram: 1GiB, context: 4096}
  comfyui: {vram: 4GiB}
models:
  - {name: tiny, source: "ollama://tiny:1b", for: [ollama]}
  - {name: sd, kind: checkpoint, source: "hf://acme/sd/sd.safetensors", for: [comfyui]}
  - {name: voice, kind: snapshot, source: "hf://acme/faster-whisper-small", for: [whisper]}
"""


def manifest(bench: Bench, text: str = MANIFEST) -> str:
    path = bench.folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_a_manifest_is_judged_service_by_service(bench: Bench) -> None:
    code, report = bench.fit("--manifest", manifest(bench))
    assert code == 0, report
    assert report["tier"] == "mine"
    assert [(s["service"], s["budget"], s["fits"]) for s in report["services"]] == [
        ("ollama", GIB, True),
        ("comfyui", 4 * GIB, True),
    ]
    assert not bench.hub.log.requests("*whisper*")  # no service has a share for it


def test_for_a_consumer_only_its_service_counts(bench: Bench) -> None:
    _, report = bench.fit("--manifest", manifest(bench), "--for", "ollama")
    assert [s["service"] for s in report["services"]] == ["ollama"]
    assert not bench.hub.log.requests("*sd*")


def test_a_service_on_the_cpu_needs_no_memory_and_no_request(bench: Bench) -> None:
    code, report = bench.fit("--manifest", manifest(bench, MANIFEST.replace("{vram: 4GiB}", "{vram: 0, device: cpu}")))
    assert code == 0
    assert report["services"][1]["needed"] == 0
    assert not bench.hub.log.requests("*sd*")


def test_a_file_that_the_disk_can_not_read_does_not_keep_the_other_models_from_being_judged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bad", "good"):
        SD15.write(bench.folder / f"{name}.safetensors")
    entries = [
        {"name": n, "kind": "checkpoint", "source": (bench.folder / f"{n}.safetensors").as_uri(), "for": ["comfyui"]}
        for n in ("bad", "good")
    ]
    (bench.folder / "m.yaml").write_text(json.dumps({"version": 1, "models": entries}))
    real = Path.open

    def failing(path: Path, *args: Any, **options: Any) -> Any:
        if path.name == "bad.safetensors":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "open", failing)
    code, report = bench.fit("m.yaml")
    assert (code, [error["code"] for error in report["errors"]]) == (74, ["io-error"])
    assert [model["name"] for service in report["services"] for model in service["models"]] == ["good"]


def test_a_manifest_without_services_is_judged_without_budgets(bench: Bench) -> None:
    text = MANIFEST[: MANIFEST.index("services:")] + MANIFEST[MANIFEST.index("models:") :]
    code, report = bench.fit("--manifest", manifest(bench, text))
    assert code == 0, report
    assert {s["service"]: s["budget"] for s in report["services"]} == {"ollama": None, "comfyui": None, "whisper": None}


def test_a_failed_model_does_not_hide_the_others(bench: Bench) -> None:
    code, report = bench.fit("--manifest", manifest(bench, MANIFEST.replace("ollama://tiny:1b", "ollama://none:1b")))
    assert code == 66
    (error,) = report["errors"]
    assert (error["code"], error["model"], error["exit_code"]) == ("unknown-tag", "tiny", 66)
    assert [s["fits"] for s in report["services"]] == [False, True]


def test_a_mirror_serves_the_header_where_the_source_fails(bench: Bench) -> None:
    text = MANIFEST.replace(
        'source: "hf://acme/sd/sd.safetensors"',
        f'source: "{bench.hub.files}gone.safetensors", mirrors: ["hf://acme/sd/sd.safetensors"]',
    )
    code, report = bench.fit("--manifest", manifest(bench, text))
    assert code == 0, report


def test_the_stacks_variables_are_obeyed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_AUTO_PULL_MODEL", "none:1b")
    assert bench.fit("--manifest", manifest(bench))[0] == 66
    monkeypatch.setenv("OLLAMA_AUTO_PULL_MODEL", "tiny:1b")
    assert bench.fit("--manifest", manifest(bench))[0] == 0


# ── errors ──
@pytest.mark.parametrize(
    ("words", "code", "slug"),
    [
        (("nonsense",), 2, "usage"),
        (("ollama://a b",), 2, "usage"),
        (("http://plain.example/x.gguf",), 78, "insecure-http"),
        (("hf://acme/gguf/none.gguf",), 66, "not-found"),
        (("hf://acme/none/x.gguf",), 77, "missing-or-private"),
        (("ollama://tiny:1b", "--offline"), 69, "offline"),
        (("--tier", "9g"), 2, "unknown-tier"),
        (("--manifest", "none.yaml"), 78, "invalid-manifest"),
        (("file:///none/x.gguf",), 66, "not-found"),
    ],
)
def test_an_error_has_its_code_in_the_reports_own_shape(
    bench: Bench, words: tuple[str, ...], code: int, slug: str
) -> None:
    found, report = bench.fit(*words)
    assert (found, report["errors"][0]["code"]) == (code, slug), report
    assert report["ok"] is False
    assert set(report) == {"ok", "tier", "usable", "needed", "services", "bytes_fetched", "errors"}
    assert bench.text(*words)[2].startswith("error: ")


def test_a_uri_together_with_a_tier_is_a_usage_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench.text("ollama://tiny:1b", "--tier", "8g")[0] == 2
    monkeypatch.setenv("MODELFETCH_TIER", "8g")
    assert bench.fit("ollama://tiny:1b")[1]["tier"] is None


@pytest.mark.parametrize("words", [("--kv-type", "f32"), ("--context", "0"), ("--usable", "x"), ("--parallel", "-1")])
def test_an_invalid_option_is_a_usage_error(bench: Bench, words: tuple[str, ...]) -> None:
    assert bench.text("ollama://tiny:1b", *words)[0] == 2


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 64, b"<html></html>", bytes(100)])
def test_a_file_that_is_not_a_model_is_65_or_unknown(bench: Bench, content: bytes) -> None:
    for name in ("x.gguf", "x.safetensors"):
        (bench.folder / name).write_bytes(content)
        code, report = bench.fit(name)
        assert code == 65, report
        assert report["errors"][0]["code"] == "not-a-model"
        assert report["errors"][0]["uri"] == (bench.folder / name).as_uri()
        assert "browser" not in report["errors"][0]["hint"]


def test_a_web_page_from_a_server_is_no_model(bench: Bench) -> None:
    bench.hub.faults.add("*tiny.gguf", HtmlPage(), times=None)
    assert bench.fit(f"{bench.hub.files}tiny.gguf")[0] in (65, 77)


def test_an_unknown_architecture_is_reported_and_exits_1(bench: Bench) -> None:
    strange = llm(Shape(arch="brandnew"))
    strange.write(bench.folder / "x.gguf")
    code, report = bench.fit("x.gguf")
    assert code == 1
    assert report["errors"][0]["code"] == "unknown-model"
    assert "nvidia-smi" in report["errors"][0]["hint"]
    assert only(report)["total"] is None


def test_quiet_prints_no_table_if_everything_fits(bench: Bench) -> None:
    code, out, err = bench.text("ollama://tiny:1b")
    assert (code, err) == (0, "")
    assert "tiny:1b: weights 17.5 MiB + KV cache 12.0 MiB" in out
    assert bench.text("ollama://tiny:1b", "-q") == (0, "", "")
