"""What may be kept when no digest decides."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfetch.errors import CredentialsError, NotAModelError
from modelfetch.formats.content_check import judge_head, judge_whole, looks_like_pickle
from tests.transfer.server import Origin

if TYPE_CHECKING:
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


def verdict(path: str, data: bytes) -> str | None:
    error = judge_whole(path, len(data), lambda at, count: data[at : at + count])
    return error.message if error else None


def test_good_headers_pass() -> None:
    assert verdict("a.safetensors", safetensors({"x": 10, "y": 20})) is None
    assert verdict("a.safetensors", safetensors({})) is None
    assert verdict("a.gguf", gguf()) is None
    assert verdict("a.gguf", gguf(version=2)) is None
    assert verdict("config.json", b"{}") is None
    assert verdict("empty.txt", b"") is None


@pytest.mark.parametrize(
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


@pytest.mark.parametrize(
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
def test_no_bytes_make_the_gate_fail(data: bytes, path: str, start: bytes) -> None:
    verdict(path, b"GGUF\x03\0\0\0" + data)
    verdict(path, start + data)


@given(st.data())
def test_no_damage_makes_the_gate_fail(data: st.DataObject) -> None:
    path, good = data.draw(st.sampled_from([("a.gguf", gguf()), ("a.safetensors", safetensors({"x": 10}))]))
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    verdict(path, bytes(bad[: data.draw(st.integers(0, len(bad)))]))


def test_gguf_of_a_large_vocabulary_is_read_in_little_time() -> None:
    words = b"".join(gguf_text(f"token{number}") for number in range(150_000))
    body = gguf_text("tokens") + struct.pack("<IIQ", 9, 8, 150_000) + words
    assert verdict("a.gguf", b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + body) is None


def torch_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([1]))
    return out.getvalue()


@pytest.mark.parametrize("head", [pickle.dumps({"a": 1}), pickle.dumps([1], protocol=2), torch_zip()])
def test_a_bin_that_is_a_pickle_is_refused_unless_allowed(head: bytes) -> None:
    found = judge_head("pytorch_model.bin", head, url="", html_type=False, allow_pickle=False)
    assert isinstance(found, NotAModelError)
    assert (found.code, found.exit_code) == ("pickle-not-allowed", 65)
    assert judge_head("pytorch_model.bin", head, url="", html_type=False, allow_pickle=True) is None


def test_a_bin_of_ctranslate2_passes() -> None:
    head = struct.pack("<IH", 6, 12) + b"WhisperSpec\0" + bytes(500)
    assert not looks_like_pickle(head)
    assert judge_head("model.bin", head, url="", html_type=False, allow_pickle=False) is None


@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html><html>", b"\xef\xbb\xbf  \n<HTML>", b"<head>", b"<?xml version='1'?>"]
)
@pytest.mark.parametrize("path", ["a.safetensors", "a.gguf", "a.ckpt", "a.bin", "a.onnx", "A.SAFETENSORS"])
def test_a_page_is_no_weights(path: str, page: bytes) -> None:
    assert isinstance(judge_head(path, page, url="https://a/b", html_type=False, allow_pickle=True), NotAModelError)
    login = judge_head(path, page, url="https://a/login?next=b", html_type=True, allow_pickle=True)
    assert isinstance(login, CredentialsError)


@pytest.mark.parametrize("text", [b'{"error": "x"}', b"[1, 2]", b'\n {"a":\t1}'])
def test_a_json_message_is_no_weights_but_may_be_a_json_file(text: bytes) -> None:
    assert judge_head("a.gguf", text, url="", html_type=False, allow_pickle=False) is not None
    assert judge_head("a.json", text, url="", html_type=False, allow_pickle=False) is None


def test_text_files_are_refused_only_where_the_answer_is_a_page() -> None:
    page = b"<html>sorry</html>"
    assert judge_head("README.md", page, url="", html_type=False, allow_pickle=False) is None
    assert judge_head("README.md", page, url="", html_type=True, allow_pickle=False) is not None
    assert judge_head("index.html", page, url="", html_type=True, allow_pickle=False) is None


def test_a_torn_file_without_a_digest_is_not_kept(world: World) -> None:
    data = safetensors({"x": 300_000})
    with Origin(data[:-1000]) as origin, pytest.raises(NotAModelError) as caught:
        world.fetch(origin, path="model.safetensors")
    assert caught.value.exit_code == 65
    assert not list(world.store.blobs())
    with Origin(data) as origin:
        assert world.fetch(origin, path="model.safetensors").blob.path.read_bytes() == data


def test_a_pickle_in_a_bin_is_refused_before_it_is_downloaded(world: World) -> None:
    data = torch_zip() + bytes(20_000_000)
    with Origin(data) as origin:
        with pytest.raises(NotAModelError) as caught:
            world.fetch(origin, path="pytorch_model.bin")
        assert caught.value.code == "pickle-not-allowed"
        assert origin.sent < len(data) / 2
        assert world.fetch(origin, path="pytorch_model.bin", allow_pickle=True).blob.size == len(data)
