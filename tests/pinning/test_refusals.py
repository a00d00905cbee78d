"""If `pin` can't pin everything, it reports all problems and leaves the file as it is."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.pinning.document import with_pins
from tests.cases import first
from tests.faults import StallAfter, Status
from tests.interpreter import Process
from tests.pinning.conftest import LORA, sha256, size
from tests.pinning.test_run import EVERYTHING

if TYPE_CHECKING:
    from tests.pinning.conftest import PinBench


def test_several_failures_are_all_reported_and_nothing_is_written(bench: PinBench) -> None:
    text = EVERYTHING.replace("art/art.safetensors", "art/gone.safetensors").replace("tiny:1b", "tiny:9b")
    text += "      - {name: up, kind: upscaler, source: FILES/up.safetensors, for: [comfyui]}\n"
    bench.write(text)
    before = bench.file.read_bytes()
    result = bench.pin()
    assert {e["model"]: e["code"] for e in result.report["errors"]} == {"vae": "not-found", "tiny": "unknown-tag"}
    assert result.code == 66
    assert bench.file.read_bytes() == before
    assert bench.bodies() == []
    assert result.actions()["vae"] == result.actions()["tiny"] == ["failed"]
    assert result.actions()["lora"] == result.actions()["up"] == ["skipped"]
    assert "nothing was written" in result.err


def test_a_body_that_can_not_be_had_leaves_the_file_alone(bench: PinBench) -> None:
    bench.write("version: 1\nmodels:\n- {name: up, kind: upscaler, source: FILES/up.safetensors, for: [comfyui]}\n")
    before = bench.file.read_bytes()
    bench.hub.faults.add("*/up.safetensors", Status(code=404), times=None)
    result = bench.pin()
    assert (result.code, result.codes(), bench.file.read_bytes()) == (66, ["not-found"], before)


def test_a_pin_that_upstream_contradicts_is_kept_and_reported(bench: PinBench) -> None:
    bench.write(
        f"""\
        version: 1
        models:
        - {{name: vae, kind: vae, source: hf://acme/art/art.safetensors, digest: "{sha256(LORA)}", for: [comfyui]}}
        """
    )
    before = bench.text
    result = bench.pin()
    assert (result.code, result.codes(), bench.text) == (65, ["digest-mismatch"], before)
    assert "--upgrade vae" in result.err


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 483546902\n"


@pytest.mark.parametrize("name", first(2, ["model.bin", "model", "model.pth", "model.onnx", "model.safetensors"]))
@pytest.mark.parametrize("body", [POINTER, b"404: Not Found", b"<Error>gone</Error>", b""])
def test_a_file_that_is_not_a_model_is_never_pinned(bench: PinBench, name: str, body: bytes) -> None:
    bench.world.file(name, body)
    pins = f'digest: "{sha256(LORA)}", size: {size(LORA)}'
    bench.write(f"version: 1\nmodels:\n- {{name: m, kind: upscaler, source: FILES/{name}, {pins}, for: [comfyui]}}\n")
    before = bench.text
    result = bench.pin("--upgrade", "m")
    assert (result.code, result.codes(), bench.text) == (65, ["not-a-model"], before)
    if not name.endswith(".pth"):
        bench.write(f"version: 1\nmodels:\n- {{name: m, kind: upscaler, source: FILES/{name}, for: [comfyui]}}\n")
        assert (bench.pin().codes(), "digest" in bench.text) == (["not-a-model"], False)


@pytest.mark.parametrize("ranges", first(1, [True, False]))
@pytest.mark.parametrize(
    "body", [POINTER, b"404: Not Found", b"<Error>gone</Error>", b"<html>log in</html>", b'{"a": 1}']
)
def test_the_size_of_a_message_is_never_pinned(bench: PinBench, body: bytes, *, ranges: bool) -> None:
    bench.world.file("m.onnx", body, ranges=ranges)
    entry = f'name: m, kind: upscaler, source: FILES/m.onnx, digest: "{sha256(LORA)}", for: [comfyui]'
    bench.write(f"version: 1\nmodels:\n- {{{entry}}}\n")
    before = bench.text
    result = bench.pin()
    assert (result.code, result.codes(), bench.text) == (65, ["not-a-model"], before)
    bench.world.file("m.onnx", LORA, ranges=ranges)
    assert (bench.pin().code, f"size: {size(LORA)}" in bench.text) == (0, True)


def test_a_pin_that_would_make_the_manifest_invalid_is_not_written(bench: PinBench) -> None:
    old = bench.commit()
    bench.world.repos["acme/art"].commit({"config.json": b"[]"})
    bench.write(
        f"""\
        version: 1
        models:
        - {{name: a, kind: snapshot, source: "hf://acme/art@{old}", include: [config.json], for: [whisper]}}
        - {{name: b, kind: snapshot, source: "hf://acme/art", include: ["c*.json"], for: [whisper]}}
        """
    )
    before = bench.text
    result = bench.pin()
    assert (result.code, result.codes(), bench.text) == (78, ["invalid-manifest"], before)
    assert "another commit" in result.err


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("version: 1\n", 78),
        ("version: 1\nmodels: [{name: x}]\n", 78),
        ("", 78),
        ("{", 78),
        ("version: 1\nmodels: []", 0),
    ],
)
def test_an_invalid_manifest_has_the_same_error_as_in_sync(bench: PinBench, text: str, code: int) -> None:
    bench.write(text)
    result = bench.pin()
    assert (result.code, bench.text) == (code, text)
    assert set(result.codes()) == ({"invalid-manifest"} if code else set())


def test_a_missing_or_unwritable_manifest_is_reported_before_any_request(
    bench: PinBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench.pin(file=bench.folder / "none.yaml").codes() == ["invalid-manifest"]
    bench.write(EVERYTHING)
    monkeypatch.setattr("os.access", lambda *_args, **_kwargs: False)
    result = bench.pin()
    assert (result.code, result.codes()) == (73, ["not-writable"])
    assert bench.hub.log.since(0) == []


def test_a_manifest_that_is_edited_meanwhile_is_not_overwritten(
    bench: PinBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write(EVERYTHING)

    def edit_then_pin(*args: Any) -> bytes:
        bench.file.write_bytes(bench.file.read_bytes() + b"# mine\n")
        return with_pins(*args)

    monkeypatch.setattr("modelfetch.pinning.run.with_pins", edit_then_pin)
    result = bench.pin()
    assert (result.code, result.codes()) == (73, ["not-writable"])
    assert bench.text.endswith("# mine\n")
    assert "sha256:" not in bench.text


def test_a_signal_during_a_download_leaves_the_manifest_unchanged(bench: PinBench) -> None:
    bench.write("version: 1\nmodels:\n- {name: up, kind: upscaler, source: FILES/up.safetensors, for: [comfyui]}\n")
    before = bench.text
    bench.hub.faults.add("*/up.safetensors", StallAfter(bytes=1000, seconds=30), times=None)
    process = Process("-m", "modelfetch", "pin", str(bench.file), "--json")
    deadline = time.monotonic() + 30
    while bench.hub.log.sent("*/up.safetensors", origin="files") < 1000 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert [error["code"] for error in json.loads(out)["errors"]] == ["terminated"]
    assert bench.text == before
    assert [p.name for p in bench.folder.iterdir() if p.name != "cache"] == ["tier.yaml"]


def test_a_full_disk_leaves_the_file_whole(bench: PinBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write(EVERYTHING)
    before = bench.text

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = bench.pin()
    assert (result.code, result.codes(), bench.text) == (74, ["no-space"], before)
    assert [p.name for p in bench.folder.iterdir() if p.name != "cache"] == ["tier.yaml"]


def test_names_that_do_not_exist_and_options_that_exclude_each_other_are_wrong_usage(bench: PinBench) -> None:
    bench.write(EVERYTHING)
    result = bench.pin("--upgrade", "nobody")
    assert (result.code, result.codes()) == (2, ["usage"])
    assert bench.pin("--check", "--upgrade", "vae", as_json=False).code == 2
