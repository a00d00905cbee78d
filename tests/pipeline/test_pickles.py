"""A file that runs code when it is loaded is accepted only if the manifest allows it."""

from __future__ import annotations

import gzip
import hashlib
import io
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.cli.app import run
from modelfetch.demo.faults import DropAfter
from modelfetch.demo.world import CivitaiFile
from tests.cases import first
from tests.faults import Status

if TYPE_CHECKING:
    from tests.pipeline.conftest import Bench

PICKLE = b"\x80\x02}q\x00." + b"\0" * 70_000
TORCH = b"PK\x03\x04" + b"\0" * 26 + b"archive/data.pkl" + b"\0" * 70_000
CTRANSLATE = b"\x06\x00\x00\x00\x0c\x00WhisperSpec\x00" + b"\1" * 70_000


def entry(source: str, **keys: Any) -> dict[str, Any]:
    return {"name": "m", "kind": "vae", "source": source, "for": ["comfyui"], **keys}


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def placed(bench: Bench) -> list[str]:
    return [p.name for p in (bench.root / "comfyui").rglob("*") if p.is_file()]


@pytest.mark.parametrize("data", [PICKLE, TORCH])
def test_a_bin_file_is_checked_by_its_bytes_even_with_a_digest_of_the_hub(bench: Bench, data: bytes) -> None:
    bench.world.hf_repo("acme/p", {"model.bin": data})
    source = "hf://acme/p/model.bin"
    result = bench.sync(entry(source))
    assert (result.code, result.codes()) == (65, ["pickle-not-allowed"])
    assert placed(bench) == []
    snapshot = {"name": "s", "kind": "snapshot", "source": "hf://acme/p", "for": ["whisper"]}
    assert bench.sync(snapshot).codes() == ["pickle-not-allowed"]
    assert bench.sync(entry(source, digest=digest(data))).code == 0


@pytest.mark.parametrize("head", first(1, [PICKLE, TORCH]))
@pytest.mark.parametrize("kind", ["file", "snapshot"])
def test_a_pickled_bin_of_the_hub_is_refused_from_its_first_bytes(bench: Bench, head: bytes, kind: str) -> None:
    big = head + bytes(48 * 2**20)
    bench.world.hf_repo("acme/big", {"model.bin": big})
    model = entry("hf://acme/big/model.bin")
    if kind == "snapshot":
        model = {"name": "s", "kind": "snapshot", "source": "hf://acme/big", "for": ["whisper"]}
    mark = bench.hub.log.mark()
    result = bench.sync(model)
    assert (result.code, result.codes()) == (65, ["pickle-not-allowed"])
    assert sum(one.sent for one in bench.hub.log.since(mark)) < len(big) / 2
    assert result.report["bytes_fetched"] == 0
    assert not list((bench.root / ".modelfetch").rglob("*.part"))


def test_a_partial_pickle_is_checked_before_the_rest_is_fetched(bench: Bench) -> None:
    big = PICKLE + bytes(48 * 2**20)
    bench.world.hf_repo("acme/big", {"model.bin": big})
    bench.hub.faults.add("*model.bin*", DropAfter(bytes=8 * 2**20), origin="cdn")
    bench.hub.faults.add("*model.bin*", Status(code=500), origin="cdn", skip=1, times=None)
    model = entry("hf://acme/big/model.bin", allow_pickle=True)
    assert bench.sync(model, options=("--connections", "1")).code == 69
    assert list((bench.root / ".modelfetch/ingest").glob("*.part"))
    bench.hub.faults.clear()
    mark = bench.hub.log.mark()
    del model["allow_pickle"]
    assert bench.sync(model).codes() == ["pickle-not-allowed"]
    assert sum(one.sent for one in bench.hub.log.since(mark)) < len(big) / 2


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("m.bin", PICKLE, "pickle-not-allowed"),
        ("m.onnx", b"<html><body>log in</body></html>" + b" " * 600, "not-a-model"),
        ("m.h5", b'{"error": "gone"}', "not-a-model"),
    ],
)
def test_a_local_file_is_judged_by_its_first_bytes_too(bench: Bench, name: str, data: bytes, code: str) -> None:
    there = bench.folder / name
    there.write_bytes(data)
    result = bench.sync(entry(f"file://{there}"))
    assert (result.code, result.codes()) == (65, [code])
    assert placed(bench) == []
    assert not list((bench.root / ".modelfetch").rglob("*.part"))
    assert bench.sync(entry(f"file://{there}", digest=digest(data))).code == 0


def test_a_stored_pickle_allowed_by_another_manifest_is_checked_again(bench: Bench) -> None:
    bench.world.hf_repo("acme/p", {"model.bin": PICKLE})
    assert bench.sync(entry("hf://acme/p/model.bin", allow_pickle=True)).code == 0
    result = bench.sync(entry("hf://acme/p/model.bin", **{"for": ["stable-diffusion"]}))
    assert result.codes() == ["pickle-not-allowed"]


def test_a_bin_without_a_pickle_passes(bench: Bench) -> None:
    bench.world.hf_repo("acme/p", {"model.bin": CTRANSLATE})
    assert bench.sync(entry("hf://acme/p/model.bin")).code == 0


def test_a_pickle_in_a_snapshot_must_be_allowed_by_the_manifest(bench: Bench) -> None:
    bench.world.hf_repo("org/old", {"model.pt": PICKLE, "config.json": b"{}"})
    snapshot = {"name": "s", "kind": "snapshot", "source": "hf://org/old", "for": ["comfyui"]}
    result = bench.sync(snapshot)
    assert (result.code, result.codes()) == (65, ["pickle-not-allowed"])
    assert bench.sync(snapshot | {"include": ["*.json"]}).code == 0
    assert bench.sync(snapshot | {"allow_pickle": True}).code == 0
    assert bench.sync(snapshot).codes() == ["pickle-not-allowed"]  # what was recorded for the other entry is no consent


def test_a_file_that_is_renamed_to_bin_is_judged_as_one(bench: Bench) -> None:
    bench.world.file("x.dat", PICKLE)
    result = bench.sync(entry(f"{bench.hub.files}x.dat", filename="x.bin"))
    assert (result.codes(), placed(bench)) == (["pickle-not-allowed"], [])


def test_a_pickle_that_only_the_servers_answer_names_is_refused_before_its_body(bench: Bench) -> None:
    bench.world.file("download", PICKLE, disposition='attachment; filename="m.ckpt"')
    bench.world.civitai_version(7, [CivitaiFile(id=1, name="m.pt", body=_body(TORCH))])
    for source, data in ((f"{bench.hub.files}download", PICKLE), ("civitai://7", TORCH)):
        mark = bench.hub.log.mark()
        result = bench.sync(entry(source))
        assert (result.code, result.codes()) == (65, ["pickle-not-allowed"])
        assert sum(one.sent for one in bench.hub.log.since(mark)) < len(data)
        assert bench.sync(entry(source, digest=digest(data))).code == 0


@pytest.mark.parametrize(
    ("name", "data"),
    first(
        5,
        [
            ("models/checkpoints/x.ckpt", PICKLE),
            ("deep/down/pytorch_model.bin", TORCH),
            ("x.bin", b"cos\nsystem\n(S'true'\ntR."),
            ("x.txt", PICKLE),
            ("x.dat", gzip.compress(PICKLE)),
            ("x.dat", PICKLE),
            ("no-suffix", TORCH),
            ("deep/x.weights", b"cos\nsystem\n(S'true'\ntR."),
            ("x.npz", TORCH),
        ],
    ),
)
def test_a_pickle_in_an_archive_is_refused_like_any_other(bench: Bench, name: str, data: bytes) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("words.txt", "ct\nm.j\ncat\n" * 100)
        archive.writestr(name, data)
    bench.world.file("a.zip", out.getvalue())
    model = {"name": "a", "kind": "file", "source": f"{bench.hub.files}a.zip", "path": "models", "unpack": "zip"}
    result = bench.sync(model | {"for": ["comfyui"]})
    assert (result.code, result.codes(), placed(bench)) == (65, ["pickle-not-allowed"], [])
    assert bench.sync(model | {"for": ["comfyui"], "allow_pickle": True}).code == 0
    assert bench.sync(model | {"for": ["stable-diffusion"], "digest": digest(out.getvalue())}).code == 0


def test_an_archive_of_texts_is_unpacked(bench: Bench) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("words.txt", "ct\nm.j\ncat\n" * 100)
    bench.world.file("a.zip", out.getvalue())
    model = {"name": "a", "kind": "file", "source": f"{bench.hub.files}a.zip", "path": "models", "unpack": "zip"}
    assert bench.sync(model | {"for": ["comfyui"]}).code == 0
    assert placed(bench) == ["words.txt"]


def _body(data: bytes) -> Any:
    from modelfetch.demo import BytesBody

    return BytesBody(data)


@pytest.mark.parametrize(("name", "output"), [("x.pt", "x.pt"), ("x.bin", "x.bin"), ("x.txt", "y.pt")])
def test_fetch_accepts_a_pickle_of_the_hub_only_with_its_digest(bench: Bench, name: str, output: str) -> None:
    bench.world.hf_repo("acme/p", {name: PICKLE})
    uri, target = f"hf://acme/p/{name}", bench.folder / "out" / output
    for words in [["-o", str(target)]] if name != output else [[], ["-o", str(target)]]:
        assert run(["fetch", uri, *words]) == 65
        assert not target.exists()
        assert run(["fetch", uri, "--digest", digest(PICKLE), *words]) == 0
    assert target.read_bytes() == PICKLE
