"""The check of files without a digest."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfetch.core.artifact import Artifact
from modelfetch.core.digest import Digest
from modelfetch.errors import CredentialsError, NotAModelError
from modelfetch.formats.content_check import check_artifact, check_head, check_whole, digest_decides, is_listed
from modelfetch.formats.gguf import read_gguf
from modelfetch.formats.pickles import starts_as_pickle
from modelfetch.formats.safetensors import read_safetensors
from modelfetch.formats.signatures import STARTS
from tests.cases import each, first
from tests.fitting import build
from tests.fitting.build import MadeFile
from tests.transfer.server import Origin

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.transfer.world import World


def safetensors(tensors: dict[str, int], *, extra: bytes = b"", header: bytes | None = None) -> bytes:
    table, at = {}, 0
    for name, size in tensors.items():
        table[name] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    text = header if header is not None else json.dumps({"__metadata__": {"a": "b"}, **table}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(at) + extra


def gguf_text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(*, version: int = 3, tensors: int = 1, pairs: int = 3, offset: int = 0, data: int = 64) -> bytes:
    out = b"GGUF" + struct.pack("<IQQ", version, tensors, pairs)
    out += gguf_text("general.architecture") + struct.pack("<I", 8) + gguf_text("llama")
    out += gguf_text("tokens") + struct.pack("<IIQ", 9, 8, 3) + gguf_text("a") + gguf_text("bc") + gguf_text("")
    out += gguf_text("scores") + struct.pack("<IIQ", 9, 6, 2) + bytes(8)
    out += gguf_text("weight") + struct.pack("<IQQIQ", 2, 4, 4, 0, offset)
    return out.ljust(-(-len(out) // 32) * 32, b"\0") + bytes(data)


def zip_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def verdict(path: str, data: bytes) -> str | None:
    error = check_whole(path, len(data), lambda at, count: data[at : at + count])
    return error.message if error else None


def test_good_headers_pass() -> None:
    assert verdict("a.safetensors", safetensors({"x": 10, "y": 20})) is None
    assert verdict("a.safetensors", safetensors({})) is not None  # it holds no tensors
    assert verdict("a.gguf", gguf()) is None
    assert verdict("a.gguf", gguf(version=2)) is None
    assert verdict("config.json", b"{}") is None
    assert verdict("empty.txt", b"") is None


@each(
    "data",
    [
        b"",
        b"1234567",
        (2**40).to_bytes(8, "little") + b"{}",
        (100).to_bytes(8, "little") + b"{}",
        safetensors({}, header=b"not json"),
        safetensors({}, header=b"[1, 2]"),
        safetensors({}, header=b"{" * 5000),
        safetensors({}, header=b'{"x": {"data_offsets": [0, 5]}}'),
        safetensors({}, header=b'{"x": {"data_offsets": [5, 0]}}'),
        safetensors({}, header=b'{"x": {"data_offsets": "all"}}'),
        safetensors({}, header=b'{"x": 5}'),
        safetensors({"x": 10}, extra=b"more"),
        safetensors({"x": 10})[:-1],
    ],
)
def test_safetensors_whose_lengths_do_not_fit_are_refused(data: bytes) -> None:
    assert verdict("a.safetensors", data) is not None


@each(
    "data",
    [
        b"",
        b"GGML" + bytes(100),
        gguf(version=9),
        gguf(version=0),
        gguf(tensors=2**40),
        gguf(pairs=2**63),
        gguf(tensors=5),
        gguf(offset=2**40),
        gguf()[:60],
        gguf()[:30],
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + gguf_text("k") + struct.pack("<I", 99),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + gguf_text("k") + struct.pack("<IIQ", 9, 8, 2**60) + bytes(50),
    ],
)
def test_gguf_whose_header_leads_outside_is_refused(data: bytes) -> None:
    assert verdict("a.gguf", data) is not None


@given(st.binary(max_size=300), st.sampled_from(["a.gguf", "a.safetensors"]), st.binary(max_size=8))
def test_any_bytes_pass_or_are_refused_with_a_typed_error(data: bytes, path: str, start: bytes) -> None:
    verdict(path, b"GGUF\x03\0\0\0" + data)
    verdict(path, start + data)


@given(st.data())
def test_any_damage_passes_or_is_refused_with_a_typed_error(data: st.DataObject) -> None:
    path, good = data.draw(st.sampled_from([("a.gguf", gguf()), ("a.safetensors", safetensors({"x": 10}))]))
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    verdict(path, bytes(bad[: data.draw(st.integers(0, len(bad)))]))


def test_gguf_of_a_large_vocabulary_is_read_in_little_time() -> None:
    words = b"".join(gguf_text(f"token{number}") for number in range(150_000))
    body = gguf_text("tokens") + struct.pack("<IIQ", 9, 8, 150_000) + words
    assert verdict("a.gguf", b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + body) is None


HALVES = {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}


# ── the check of a download and `fit` read a header in one way ──
def both(path: str, data: bytes) -> tuple[str | None, str | None]:
    """The errors of the check and of the reader of `fit` for a file."""
    read = read_gguf if path.endswith(".gguf") else read_safetensors
    try:
        read(MadeFile(header=data, size=len(data)))
    except NotAModelError as error:
        return verdict(path, data), error.message
    return verdict(path, data), None


@each("big_endian", [False, True])
@each("version", [1, 2, 3])
def test_gate_and_fit_accept_a_gguf_of_either_byte_order(version: int, big_endian: bool) -> None:
    made = build.gguf({}, [build.TensorSpec(name="a", shape=(64,))], version=version, big_endian=big_endian)
    data = made.header + bytes((made.size or 0) - len(made.header))
    assert both("a.gguf", data) == (None, None)
    assert both("a.gguf", b"FUGG" + data[4:])[0] is None or not big_endian


def test_gate_and_fit_refuse_a_gguf_whose_last_tensor_is_cut_off() -> None:
    made = build.gguf({}, [build.TensorSpec(name="a", shape=(64,)), build.TensorSpec(name="b", shape=(64,))])
    data = made.header + bytes((made.size or 0) - len(made.header))
    assert both("a.gguf", data) == (None, None)
    for cut in (1, 60, 128):
        gate, fit = both("a.gguf", data[:-cut])
        assert gate is not None
        assert fit is not None
        assert "ends at byte" in gate


@each(
    "entries",
    [
        {"a": HALVES, "b": {"dtype": "U8", "shape": [4], "data_offsets": [6, 10]}},
        {"a": HALVES, "b": {"dtype": "U8", "shape": [8], "data_offsets": [2, 10]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 10]}},
        {"a": {"shape": [10], "data_offsets": [0, 10]}},
        {"a": {"dtype": "U8", "shape": [10], "data_offsets": [0, 10]}, "__metadata__": {"a": 1}},
    ],
)  # fmt: skip
def test_gate_and_fit_refuse_an_impossible_safetensors_header(entries: object) -> None:
    text = json.dumps(entries).encode()
    gate, fit = both("a.safetensors", len(text).to_bytes(8, "little") + text + bytes(10))
    assert gate is not None
    assert fit is not None


def test_gate_and_fit_accept_any_tensor_order_padding_and_escapes() -> None:
    text = (
        b'{ "b" : {"dtype":"U8","shape":[6],"data_offsets":[4,10]},\n"__metadata__" : {"x":"\\u00e4{\\"}", "y": "z"} ,'
        b'"empty\\u0041":{"dtype":"U8","shape":[0],"data_offsets":[4,4]},'
        b'"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}   '
    )
    data = len(text).to_bytes(8, "little") + text + bytes(10)
    assert both("a.safetensors", data) == (None, None)
    header = read_safetensors(MadeFile(header=data, size=len(data)))
    assert [tensor.name for tensor in header.tensors] == ["a", "emptyA", "b"]
    assert header.metadata == {"x": 'ä{"}', "y": "z"}


@given(st.data())
def test_gate_and_fit_agree_on_any_damage(data: st.DataObject) -> None:
    path, good = data.draw(st.sampled_from([("a.gguf", gguf()), ("a.safetensors", safetensors({"x": 10, "y": 3}))]))
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    gate, fit = both(path, bytes(bad))
    assert (gate is None) == (fit is None)


LARGE = """
import json, resource, sys
from modelfetch.formats.content_check import check_whole
path, size = sys.argv[1], int(sys.argv[2])
file = open(path, "rb")
def read_at(at, count):
    file.seek(at)
    return file.read(count)
resource.setrlimit(resource.RLIMIT_AS, (256 * 2**20, 256 * 2**20))
error = check_whole(path, size, read_at)
print(error.message[:200] if error else "good")
"""


def checked_in_256_mib(path: Path) -> str:
    command = [sys.executable, "-c", LARGE, str(path), str(path.stat().st_size)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("part", first(2, ["keys", "text", "arrays", "tensors"]))
def test_a_large_gguf_header_is_checked_in_little_memory(tmp_path: Path, part: str) -> None:
    path = tmp_path / "large.gguf"
    pairs = {"text": 1, "arrays": 3000, "keys": 90_000, "tensors": 0}[part]
    tensors = 99_000 if part == "tensors" else 0
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs))
        for number in range(pairs):
            if part == "text":
                file.write(gguf_text("k") + struct.pack("<IQ", 8, 10**8))
                file.seek(10**8, 1)
            elif part == "arrays":
                file.write(gguf_text(f"k{number}") + struct.pack("<IIQ", 9, 10, 4096) + bytes(4096 * 8))
            else:
                file.write(gguf_text(f"{number:x}".rjust(1000, "k")) + struct.pack("<IB", 0, 1))
        for number in range(tensors):
            file.write(gguf_text(f"{number:x}".rjust(200, "t")) + struct.pack("<IQQIQ", 2, 4, 0, 0, 0))
        file.truncate(file.tell() + 64)
    said = checked_in_256_mib(path)
    assert "its keys take more" in said if part == "keys" else said == "good"


# ── files that are not models ──
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 483546902\n"
REFUSALS = [
    POINTER,
    b"\xef\xbb\xbf" + POINTER,
    b"/annex/objects/SHA256E-s483546902--" + b"a" * 64 + b".bin\n",
    b"404: Not Found",
    b"Not Found",
    b"Access denied",
    b"Unauthorized\n",
    b"Invalid username or password.",
    b"Too Many Requests",
    b"Please wait \xe2\x80\xa6",
    "<Error><Code>AccessDenied</Code></Error>".encode("utf-16"),
    "Zugriff verweigert: bitte später".encode("latin-1"),
    "アクセスが拒否されました (403 Forbidden: you do not have access)".encode("shift-jis"),
    b"<Error><Code>NoSuchKey</Code></Error>",
    b"\xef\xbb\xbf<?xml version='1.0'?><Error/>",
    b"   \n",
    b"error code: 1020" + b" " * 1000,
    b'{"error": "x"}',
    b"<html>",
    b"",
    b"\0\1",
    "访问被拒绝".encode("gbk"),
    "アクセス拒否".encode("shift-jis"),
    "Access denied".encode("utf-16-le"),
    "Access denied".encode("utf-16-be"),
    b"\x1b[31mError\x1b[0m: not found",
    gzip.compress(b"404: Not Found"),
    b"%PDF-1.7\n\0" + bytes(100),
    b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(100),
    b"PK\5\6" + bytes(18),
    b"\x1aE\xdf\xa3\x01\0\0\0\0\0\0\x1f\x42\x86\x81\x01\x42\xf7\x81\x01webm" + bytes(range(256)),
    b"7z\xbc\xaf\x27\x1c\0\4" + bytes(range(256)),
    b"\x28\xb5\x2f\xfd\x24" + bytes(range(256)),
]
SUFFIXES = [
    ".bin",
    ".onnx",
    ".pth",
    ".ckpt",
    ".pt",
    ".pkl",
    ".h5",
    ".gguf",
    ".safetensors",
    ".npz",
    ".msgpack",
    ".zip",
    ".model",
    ".pickle",
    ".joblib",
    ".pdparams",
    ".engine",
    ".task",
    ".weights",
]


def check(path: str, data: bytes, **keys: Any) -> str | None:
    """The error of the whole check for a file that the manifest does not pin."""
    artifact = Artifact(uri=f"https://files.example/{path}", path=path, **keys)
    error = check_artifact(artifact, len(data), lambda at, count: data[at : at + count])
    assert error is None or error.exit_code == 65
    return error.code if error else None


@each("suffix", SUFFIXES)
def test_an_error_page_or_lfs_pointer_is_refused_for_any_suffix(suffix: str) -> None:
    assert [body for body in REFUSALS if check(f"model{suffix}", body, allow_pickle=True) != "not-a-model"] == []


@each("name", ["12345", "download.php", "sd-v1.5", "download", "model.tensors", "a.html"])
def test_an_error_page_is_refused_where_only_the_kind_requires_a_model(name: str) -> None:
    assert [body for body in REFUSALS if check(name, body, weights=True) != "not-a-model"] == []


@each("suffix", [".bin", ".pt", ".pth", ".pkl", ".ckpt"])
@each("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_allowed_pickle_may_be_short_if_it_is_whole(suffix: str, protocol: int) -> None:
    data = pickle.dumps({}, protocol)
    assert check(f"model{suffix}", data) == "pickle-not-allowed"
    assert check(f"model{suffix}", data, allow_pickle=True) is None
    assert check(f"model{suffix}", data[:-1], allow_pickle=True) == "not-a-model"


def test_an_image_is_an_embedding_only_under_the_name_of_one() -> None:
    image = b"\x89PNG\r\n\x1a\n" + bytes(100)
    assert check("style.png", image, weights=True) is None
    assert check("12345", image, weights=True) == "not-a-model"


def test_safetensors_without_data_or_of_an_impossible_type_are_no_model() -> None:
    assert check("a.safetensors", safetensors({})) == "not-a-model"
    assert check("a.safetensors", safetensors({"x": 0})) == "not-a-model"


@each(
    "body",
    [safetensors({"x": 10}), gguf(), b"lmgg" + bytes(100), b"\x89HDF\r\n\x1a\n" + bytes(100), b"\x08\x07" + bytes(100)],
)
def test_any_model_format_is_accepted_where_only_the_kind_requires_a_model(body: bytes) -> None:
    assert check("sd-v1.5", body, weights=True) is None


def test_header_and_pickles_are_checked_where_only_the_kind_requires_a_model() -> None:
    assert check("12345", safetensors({"x": 10})[:-1], weights=True) == "not-a-model"
    assert check("12345", gguf()[:-20], weights=True) == "not-a-model"
    assert check("12345", b"%PDF-1.7\n\xff" + bytes(100), weights=True) == "not-a-model"
    assert check("12345", pickle.dumps({"a": [1] * 20}, protocol=0), weights=True) == "pickle-not-allowed"
    assert check("12345", pickle.dumps({"a": [1] * 20}, protocol=0), weights=True, allow_pickle=True) is None


def test_other_files_of_a_snapshot_need_not_be_models() -> None:
    assert check("v1-inference.yaml", b"model:\n  target: x\n", weights=True) is None
    assert check("config.json", b"{}", weights=True) is None


@each("protocol", range(6))
def test_a_pickle_by_its_suffix_passes_once_it_is_allowed(protocol: int) -> None:
    data = pickle.dumps({"a": [1, "x"] * 300}, protocol=protocol)
    assert check("m.ckpt", data, allow_pickle=True) is None
    assert check("m.ckpt", data) == "pickle-not-allowed"
    assert check("m.bin", data) == "pickle-not-allowed"


@each("name", ["m.pt", "m.ckpt", "m.onnx", "m.h5", "m.npy", "m.npz", "m.tflite", "m.gguf"])
def test_weights_that_begin_as_another_format_are_refused(name: str) -> None:
    assert check(name, b"\x00\xff" * 500, allow_pickle=True) == "not-a-model"


def test_a_tokenizer_may_be_text() -> None:
    assert check("tokenizer.model", b"IQ== 0\nIg== 1\n" * 100) is None
    assert check("spiece.model", b"\n\x0e\n\x05<unk>" + bytes(600)) is None


@pytest.mark.parametrize(
    "text",
    ["<html><body>Anmelden</body></html>".encode("utf-16"), b"<Error><Code>AccessDenied</Code></Error>\n", b"Denied. "],
    ids=["utf-16", "xml", "one-line"],
)
def test_a_long_message_is_no_tokenizer(text: bytes) -> None:
    assert check("tokenizer.model", text * 20) == "not-a-model"


def tar_of(*names: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return out.getvalue()


NUMBERS = (
    b"\x93NUMPY\1\0\x76\0" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (64,), }".ljust(0x76) + bytes(256)
)
GOOD = {
    "m.onnx": b"\x08\x08\x12\x07pytorch\x1a\x052.1.0" + bytes(range(256)),
    "reordered.onnx": b"\x42\x04\x0a\x00\x10\x11\x3a\xff\x7f" + bytes(range(256)),
    "named.onnx": b"\x12\x07pytorch\x08\x08\x3a\xff\x7f" + bytes(range(256)),
    "versioned.onnx": b"\x28\x01\x08\x08\x3a\xff\x7f" + bytes(range(256)),
    "with-functions.onnx": b"\xca\x01\x02\x0a\x00\x08\x0a\x3a\xff\x7f" + bytes(range(256)),
    "m.msgpack": b"\x82\xa6params\x81\xa1w\xc7" + bytes(range(256)),
    "large.msgpack": b"\xde\x00\x21\xd9\x28" + bytes(range(256)),
    "m.pb": b"\x0a\x14\x0a\x05input\x12\x0bPlaceholder\x0a\xff\x7f" + bytes(range(256)),
    "saved_model.pb": b"\x08\x01\x12\xff\xff\x7f" + bytes(range(256)),
    "m.caffemodel": b"\x0a\x05VGG16\xa2\x06\xff\x7f" + bytes(range(256)),
    "m.mlmodel": b"\x08\x04\x12\xff\x01" + bytes(range(256)),
    "m.ftz": b"\xba\x16\x4f\x2f\x0c\0\0\0" + bytes(range(256)),
    "m.pte": b"\x20\0\0\0ET12" + bytes(range(256)),
    "m.tensors": b"|TZR|\3\0\0\0" + bytes(range(256)),
    "m.nemo": tar_of("model_config.yaml"),
    "m.mar": zip_of({"MAR-INF/MANIFEST.json": b"{}", "m.onnx": b"x"}),
    "m.dduf": zip_of({"model_index.json": b"{}"}),
    "m.keras": zip_of({"metadata.json": b"{}", "config.json": b"{}", "model.weights.h5": b"\x89HDF"}),
    "fasttext.bin": b"\xba\x16\x4f\x2f\x0c\0\0\0" + bytes(range(256)),
    "word2vec.bin": b"3000000 300\n</s> " + bytes(4096),
    "lm.bin": b"mmap lm http://kheafield.com/code format version 5\n\0" + bytes(12) + b"\x80?" + bytes(400),
    "half.bin": struct.pack("<300e", *[0.01 * step for step in range(300)]),
    "single.bin": struct.pack("<300f", *[-0.5 + step / 300 for step in range(300)]),
    "bytes.bin": bytes(range(256)) * 4,
    "llama2.bin": struct.pack("<7i", 288, 768, 6, 6, 6, 32000, 256) + bytes(500),
    "ncnn.bin": b"\x47\x6b\x30\x01" + bytes(range(256)),
    "ggml.bin": b"lmgg" + bytes(500),
    "old.ggml": b"tjgg\3\0\0\0" + bytes(500),
    "arrays.bin": zip_of({"af.npy": NUMBERS}),
    "array.bin": NUMBERS,
    "voices.npz": zip_of({"af.npy": NUMBERS, "am.npy": NUMBERS}),
    "m.engine": b"ftrt\0\0\0\0" + bytes(range(256)),
    "m.task": zip_of({"m.tflite": b"\x1c\0\0\0TFL3" + bytes(64)}),
    "llm.task": zip_of({"TF_LITE_PREFILL_DECODE": b"\x1c\0\0\0TFL3", "METADATA": b"x"}),
    "plain.task": b"\x1c\0\0\0TFL3" + bytes(64),
    "m.ort": b"\x20\0\0\0ORTM" + bytes(range(256)),
    "m.weights": b"\0\0\0\0\2\0\0\0\0\0\0\0" + bytes(range(256)),
    "m.litertlm": b"LITERTLM\1\0\0\0" + bytes(range(256)),
    "shape_predictor.dat": b"\x01\x01\x01\x44\x01\x0f" + bytes(range(256)),
    "data.tar.gz": gzip.compress(bytes(257) + b"ustar" + bytes(1000)),
    "zeros.bin": bytes(4096),
    "merges": b"#version: 0.2\ni n\nt h\na n\nN o\n" * 50,
}


@pytest.mark.parametrize("name", GOOD)
def test_formats_of_other_programs_pass(name: str) -> None:
    assert check(name, GOOD[name]) is None


@each("name", ["m.bin", "m.onnx_data", "tokenizer.model", "m.weights"])
@each("pack", [gzip.compress, bz2.compress, lzma.compress, zlib.compress])
def test_a_compressed_copy_of_weights_is_refused(name: str, pack: Callable[[bytes], bytes]) -> None:
    weights = b"\0\1\2\3weights" * 999
    assert check(name, pack(weights)) == "not-a-model"
    assert check(name, pack(weights)[:3] + weights) is None
    assert check(f"{name}.gz", gzip.compress(weights)) is None
    assert check(name, pack(pickle.dumps([1] * 99, 4))) == "pickle-not-allowed"
    assert check(name, pack(pickle.dumps([1] * 99, 4)), allow_pickle=True) is None


BINARY = bytes(range(128, 256)) * 30
OTHER_FILES = {
    "a padded page": b"<html><body>log in</body></html>" + bytes(4000),
    "a padded line": b"404: Not Found" + bytes(4000),
    "a padded message": b"<Error><Code>NoSuchKey</Code></Error>\n" + bytes(4000),
    "padded JSON": b'{"error": "gone"}' + bytes(4000),
    "JPEG": b"\xff\xd8\xff\xe0\0\x10JFIF" + BINARY,
    "MP4": b"\0\0\0\x20ftypisom" + BINARY,
    "QuickTime": b"\0\0\0\x08wide\0\1\0\0mdat" + BINARY,
    "HEIC": b"\0\0\0\x18ftypheic" + BINARY,
    "TIFF": b"II*\0\x08\0\0\0" + BINARY,
    "BMP": b"BM\xd6\x0f\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0" + BINARY,
    "MP3": b"ID3\x03\0\0" + BINARY,
    "PDF": b"%PDF-1.7\n" + BINARY,
    "PostScript": b"%!PS-Adobe-3.0\n" + BINARY,
    "DOC": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(4000),
    "ELF": b"\x7fELF\2\1\1" + bytes(4000),
    "EXE": b"MZ\x90\0\3".ljust(64, b"\0") + b"\x0e\x1f\xba\x0e\0!This program cannot be run in DOS mode." + bytes(4000),
    "Mach-O": b"\xcf\xfa\xed\xfe\7\0\0\1" + bytes(4000),
    "Java": b"\xca\xfe\xba\xbe\0\0\0\x34" + BINARY,
    "deb": b"!<arch>\ndebian-binary   " + BINARY,
    "SQLite": b"SQLite format 3\0" + bytes(4000),
    "Parquet": b"PAR1\x15\4" + BINARY,
    "torrent": b"d8:announce35:udp://tracker.example/announce4:infod6:pieces20:" + BINARY,
    "form data": b"------WebKitFormBoundary7MA\r\nContent-Disposition: form-data; name=f\r\n\r\n" + BINARY,
    "parts": b"--3d6b6a416f9b5\r\ncontent-type: application/octet-stream\r\n\r\n" + BINARY,
    "a stored response": b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Type: application/octet-stream\r\n\r\n" + BINARY,
    "AppleDouble": b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(4000),
    "docx": zip_of({"[Content_Types].xml": b"<x/>", "word/document.xml": b"<x/>"}),
    "tar": tar_of("photos/1.jpg"),
    "7z": b"7z\xbc\xaf\x27\x1c\0\4" + BINARY,
}


@each("suffix", sorted(STARTS.keys() - {".zip", ".nemo", ".onnx_data"}))
def test_a_file_of_another_kind_is_no_weights_whatever_their_suffix(suffix: str) -> None:
    found = {kind: check(f"m{suffix}", body, allow_pickle=True) for kind, body in OTHER_FILES.items()}
    assert found == dict.fromkeys(OTHER_FILES, "not-a-model")


@each("name", ["m.bin", "m.weights", "tokenizer.model"])
def test_a_compressed_copy_is_refused_and_a_compressed_pickle_is_not_where_pickles_are_allowed(name: str) -> None:
    assert check(name, gzip.compress(BINARY), allow_pickle=True) == "not-a-model"
    assert check(name, gzip.compress(pickle.dumps([1] * 99, 0)), allow_pickle=True) is None


PIECES = ["m.onnx.data", "m.onnx_data_1", "m.onnx_data.2", "m.gguf.part1of2", "m.gguf-split-a", "m.bin.part0"]
PIECES += ["M.CKPT.data-00000-of-00001", "m.safetensors.001", "m.pt-part-aa"]


@each("name", [*PIECES, "m.plan", "m.dduf", "m.tar.gz", "m.tgz", "m.tar.bz2", "m.txz", "m.7z", "m.rar"])
@each(
    "text",
    [b"404: Not Found", b"<Error><Code>NoSuchKey</Code></Error>", b'{"error": "no"}', b"<!doctype html><p>no", b""],
)
def test_a_text_is_neither_a_part_of_weights_nor_an_archive(name: str, text: bytes) -> None:
    assert check(name, text) == "not-a-model"
    assert not is_listed(name)


@each("name", PIECES)
def test_a_part_of_weights_begins_with_anything(name: str) -> None:
    assert check(name, bytes(range(256)) * 20) is None


@each(
    "name",
    [
        "iris.data",
        "m.data.json",
        "m.onnx.json",
        "m.gguf.sha256",
        "m.safetensors.index.json",
        "m.onnx.data.json",
        "my.part",
    ],
)
def test_what_accompanies_weights_may_be_text(name: str) -> None:
    assert check(name, b'{"a": 1}') is None


def test_a_git_sha1_is_not_a_digest_for_weights() -> None:
    digest = Digest("git-sha1", "0" * 40)
    artifact = Artifact(uri="hf://a/b/model.bin", path="model.bin", digest=digest)
    assert not digest_decides(artifact)
    assert digest_decides(replace(artifact, path="config.json"))
    assert digest_decides(replace(artifact, digest=Digest.sha256(b"")))


def torch_zip() -> bytes:
    return zip_of({"archive/data.pkl": pickle.dumps([1])})


@pytest.mark.parametrize("name", ["m.bin", "m.pickle", "m.joblib", "m.pdparams", "m.dat", "m", "m.t7", "m.csv"])
def test_a_pickle_is_refused_under_any_name_that_a_program_may_load_it_by(name: str) -> None:
    for data in (pickle.dumps({"a": [1] * 99}, 0), pickle.dumps({"a": [1] * 99}, 4), torch_zip()):
        assert check(name, data) == "pickle-not-allowed"
        assert check(name, data, allow_pickle=True) is None


def test_a_packed_checkpoint_counts_as_a_pickle() -> None:
    packed = gzip.compress(bytes(257) + b"ustar" + bytes(1000))
    assert check("m.nemo", packed) == "pickle-not-allowed"
    assert check("m.nemo", packed, allow_pickle=True) is None
    with_lz4 = b"\x04\x22\x4d\x18" + bytes(range(256))
    assert check("m.joblib", with_lz4) == "pickle-not-allowed"
    assert check("m.joblib", with_lz4, allow_pickle=True) is None
    assert check("words.tar.lz4", with_lz4) is None


@each("head", [pickle.dumps({"a": 1}), pickle.dumps([1], protocol=2), torch_zip()])
def test_a_bin_that_is_a_pickle_is_refused_unless_allowed(head: bytes) -> None:
    found = check_head("pytorch_model.bin", head, url="", html_type=False, allow_pickle=False)
    assert isinstance(found, NotAModelError)
    assert (found.code, found.exit_code) == ("pickle-not-allowed", 65)
    assert check_head("pytorch_model.bin", head, url="", html_type=False, allow_pickle=True) is None


WEIGHTS_IN_ZIP = {"a/data.pkl": b"\x80\x02}.", "a/data/0": b"0000", "a/version": b"3"}
OTHER_ZIPS: dict[str, dict[str, bytes]] = {
    "docx": {"[Content_Types].xml": b"<x/>", "word/document.xml": b"<x/>"},
    "jar": {"META-INF/MANIFEST.MF": b"x", "a/B.class": b"\xca\xfe"},
    "apk": {"AndroidManifest.xml": b"x", "assets/version": b"1", "classes.dex": b"dex"},
    "photos": {"photos/1.jpg": b"\xff\xd8", "photos/2.jpg": b"\xff\xd8"},
    "model in a zip": {"model.safetensors": safetensors({"x": 10})},
    "arrays and more": {"a.npy": b"\x93NUMPY", "readme.txt": b"x"},
    "empty": {"a/": b""},
}
MODEL_ZIPS: dict[str, dict[str, bytes]] = {
    "torch.save": {**WEIGHTS_IN_ZIP, "a/byteorder": b"little", "a/.data/serialization_id": b"1"},
    "torch.save without a folder": {"data.pkl": b"\x80\x02}."},
    "TorchScript": {**WEIGHTS_IN_ZIP, "a/code/__torch__.py": b"x", "a/constants.pkl": b"\x80\x02)."},
    "TorchScript of PyTorch 1.0": {"a/version": b"1", "a/model.json": b"{}", "a/tensors/0": b"0"},
    "torch.package": {"a/.data/version": b"6", "a/.data/extern_modules": b"sys", "a/model/model": b"\x80\x02}."},
    "torch.export": {"serialized_exported_program.json": b"{}", "serialized_state_dict.pt": b"x", "version": b"5"},
    "torch.export since 2.7": {"a/archive_format": b"pt2", "a/models/model.json": b"{}", "a/.data/version": b"6"},
    "arrays": {"af.npy": b"\x93NUMPY", "am.npy": b"\x93NUMPY"},
}


def judged(name: str, data: bytes, **more: Any) -> str | None:
    artifact = Artifact(uri="https://h/x", path=name, size=None, locations=(), weights=True, **more)
    error = check_artifact(artifact, len(data), lambda at, count: data[at : at + count])
    return error.code if error else None


@pytest.mark.parametrize("name", ["a.ckpt", "a.pt", "a.PTH", "a.bin", "a.pkl", "a.pickle", "a"])
def test_a_zip_that_neither_torch_nor_numpy_wrote_is_no_model(name: str) -> None:
    found = {kind: judged(name, zip_of(members), allow_pickle=True) for kind, members in OTHER_ZIPS.items()}
    assert found == dict.fromkeys(OTHER_ZIPS, "not-a-model")
    assert judged(name, zip_of(WEIGHTS_IN_ZIP)[:-30], allow_pickle=True) == "not-a-model"  # its directory is cut off
    passed = {kind: judged(name, zip_of(members), allow_pickle=True) for kind, members in MODEL_ZIPS.items()}
    assert passed == dict.fromkeys(MODEL_ZIPS)


def test_a_zip_of_another_kind_passes_under_other_names_and_if_its_digest_is_known() -> None:
    data = zip_of(OTHER_ZIPS["photos"])
    assert judged("a.zip", data) is judged("a.zip.001", data[:-9], allow_pickle=True) is None
    assert judged("a.mar", data) == judged("a.npz", data) == judged("a.keras", data) == "not-a-model"
    assert judged("a.model", zip_of(WEIGHTS_IN_ZIP), allow_pickle=True) is None
    assert judged("a.bin", data) == "not-a-model"
    assert judged("a.bin", zip_of(WEIGHTS_IN_ZIP)) == "pickle-not-allowed"
    assert digest_decides(Artifact(uri="u", path="a.ckpt", size=1, digest=Digest("sha256", "0" * 64), locations=()))


def test_a_bin_of_ctranslate2_passes() -> None:
    head = struct.pack("<IH", 6, 12) + b"WhisperSpec\0" + bytes(500)
    assert not starts_as_pickle(head)
    assert check_head("model.bin", head, url="", html_type=False, allow_pickle=False) is None


@each("page", [b"<!DOCTYPE html><html>", b"\xef\xbb\xbf  \n<HTML>", b"<head>", b"<?xml version='1'?>"])
@each("path", ["a.safetensors", "a.gguf", "a.ckpt", "a.bin", "a.onnx", "A.SAFETENSORS"])
def test_an_html_page_is_refused_as_weights(path: str, page: bytes) -> None:
    assert isinstance(check_head(path, page, url="https://a/b", html_type=False, allow_pickle=True), NotAModelError)
    login = check_head(path, page, url="https://a/login?next=b", html_type=True, allow_pickle=True)
    assert isinstance(login, CredentialsError)


@each("text", [b'{"error": "x"}', b"[1, 2]", b'\n {"a":\t1}'])
def test_a_json_message_is_refused_as_weights_and_accepted_as_a_json_file(text: bytes) -> None:
    assert check_head("a.gguf", text, url="", html_type=False, allow_pickle=False) is not None
    assert check_head("a.json", text, url="", html_type=False, allow_pickle=False) is None


def test_text_files_are_refused_only_where_the_answer_is_a_page() -> None:
    page = b"<html>sorry</html>"
    assert check_head("README.md", page, url="", html_type=False, allow_pickle=False) is None
    assert check_head("README.md", page, url="", html_type=True, allow_pickle=False) is not None
    assert check_head("index.html", page, url="", html_type=True, allow_pickle=False) is None


@each("name", ["config.json", "conf.yaml", "x.index.json"])
@each("page", [b"<html>sorry</html>", b"\xef\xbb\xbf\n<!DOCTYPE html>", "\n<html>".encode("utf-16")])
def test_a_page_in_the_place_of_json_is_refused_whatever_its_type(name: str, page: bytes) -> None:
    assert check_head(name, page, url="", html_type=False, allow_pickle=False) is not None
    assert check_head("README.md", page, url="", html_type=True, allow_pickle=False) is not None


def test_a_truncated_file_without_a_digest_is_not_kept(world: World) -> None:
    data = safetensors({"x": 300_000})
    with Origin(data[:-1000]) as origin, pytest.raises(NotAModelError) as caught:
        world.fetch(origin, path="model.safetensors")
    assert caught.value.exit_code == 65
    assert not list(world.store.blobs())
    with Origin(data) as origin:
        assert world.fetch(origin, path="model.safetensors").blob.path.read_bytes() == data


def test_a_pickle_in_a_bin_is_refused_before_it_is_downloaded(world: World) -> None:
    data = zip_of({**WEIGHTS_IN_ZIP, "a/data/1": bytes(20_000_000)})
    with Origin(data) as origin:
        with pytest.raises(NotAModelError) as caught:
            world.fetch(origin, path="pytorch_model.bin")
        assert caught.value.code == "pickle-not-allowed"
        assert origin.sent < len(data) / 2
        assert world.fetch(origin, path="pytorch_model.bin", allow_pickle=True).blob.size == len(data)
