from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from safetensors import deserialize

from modelfetch.demo import PatternBody, ZeroBody, ct2, gguf, models, weights
from modelfetch.demo.body import hash_body, read_all
from modelfetch.demo.torchzip import Tensor, stored_zip, torch_file
from tests.cases import each

if TYPE_CHECKING:
    from modelfetch.demo.body import Body

SAFETENSORS = {
    "checkpoint": models.checkpoint,
    "vae": models.vae,
    "lora": models.lora,
    "upscaler": models.upscaler,
    "embedding": models.embedding,
}


@each("name", SAFETENSORS)
def test_safetensors_open_and_hold_finite_numbers(name: str) -> None:
    tensors = deserialize(read_all(SAFETENSORS[name]()))  # type: ignore[no-untyped-call]  # it has no types
    assert len({key for key, _ in tensors}) == len(tensors) > 0
    for _, tensor in tensors:
        assert tensor["dtype"] == "F16"
        sample = tensor["data"][:2000]
        assert all(abs(value) < 2 for value in struct.unpack(f"<{len(sample) // 2}e", sample))


def test_the_checkpoint_is_large_enough_to_show_progress() -> None:
    assert 35 << 20 < models.checkpoint().size < 45 << 20


def test_a_gguf_file_matches_its_header() -> None:
    data = models.llama()
    magic, version, tensors, pairs = struct.unpack_from("<4sIQQ", data)
    assert (magic, version, tensors, pairs) == (b"GGUF", 3, 3 + 9 * gguf.BLOCKS, 19)
    assert len(data) % gguf.ALIGNMENT == 0
    assert 400_000 < len(data) < 500_000


def test_the_weights_predict_the_next_token_of_the_chain() -> None:
    chain, vocabulary, width = [5, 3, 7, 1], 10, 16
    rows = _rows(weights.recital_embeddings(vocabulary, chain, width), width)
    outputs = _rows(weights.recital_outputs(vocabulary, chain, width, seed=1, scale=1.0), width)

    def following(token: int) -> int:
        logits = [sum(a * b for a, b in zip(rows[token], output, strict=True)) for output in outputs]
        return max(range(vocabulary), key=logits.__getitem__)

    assert [following(token) for token in (0, 5, 3, 7)] == [5, 3, 7, 1]


def test_a_quantized_value_beyond_its_width_is_refused() -> None:
    with pytest.raises(ValueError, match="16 dimensions hold 15 states"):
        weights.code(15, 16)


def test_a_ctranslate2_file_can_be_read_back() -> None:
    data = models.faster_whisper()["model.bin"]
    version, length = struct.unpack_from("<IH", data)
    name = data[6 : 6 + length]
    revision, count = struct.unpack_from("<II", data, 6 + length)
    assert (version, name, revision) == (ct2.BINARY_VERSION, b"WhisperSpec\0", ct2.REVISION)
    offset = 6 + length + 8
    names = []
    for _ in range(count):
        (size,) = struct.unpack_from("<H", data, offset)
        names.append(data[offset + 2 : offset + 1 + size].decode())
        offset += 2 + size
        rank = data[offset]
        shape = struct.unpack_from(f"<{rank}I", data, offset + 1)
        kind, stored = struct.unpack_from("<BI", data, offset + 1 + 4 * rank)
        expected = {ct2.FLOAT32: 4, ct2.INT8: 1, ct2.INT16: 2}[kind]
        for dimension in shape:
            expected *= dimension
        assert stored == expected
        offset += 6 + 4 * rank + stored
    assert names == sorted(names)
    (aliases,) = struct.unpack_from("<I", data, offset)
    assert aliases > 10


def test_the_speech_models_vocabulary_agrees_with_its_tokenizer() -> None:
    files = models.faster_whisper()
    vocabulary = json.loads(files["vocabulary.json"])
    tokenizer = json.loads(files["tokenizer.json"])
    known = dict(tokenizer["model"]["vocab"]) | {entry["content"]: entry["id"] for entry in tokenizer["added_tokens"]}
    assert known == {token: index for index, token in enumerate(vocabulary)}
    assert vocabulary[-1] == "<|30.00|>"
    assert len(set(ct2.byte_alphabet())) == 256


def test_a_torch_file_is_a_stored_zip_with_a_pickle_of_the_state() -> None:
    data = torch_file({"a": Tensor((2, 3), 1), "b": {"n": 5, "s": "x"}}, name="m")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["m/data.pkl", "m/byteorder", "m/data/0", "m/version"]
        assert len(archive.read("m/data/0")) == 24
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        state = _StateReader(archive, "m").load()
    assert state == {"a": ((2, 3), (3, 1), weights.small(6, seed=1)), "b": {"n": 5, "s": "x"}}


def test_a_stored_zip_depends_on_its_members_alone() -> None:
    members = [("a/", b""), ("a/b", b"c")]
    assert stored_zip(members) == stored_zip(members)


def test_the_sentence_splitter_data_stays_below_its_folder() -> None:
    with zipfile.ZipFile(io.BytesIO(models.nltk_punkt())) as archive:
        names = archive.namelist()
        assert archive.getinfo("punkt_tab/english/ortho_context.tab").file_size > 64 * 1024
    assert "punkt_tab/english/abbrev_types.txt" in names
    assert all(name.startswith("punkt_tab/") and ".." not in name for name in names)


@each("body", [PatternBody(200_000, seed=3), ZeroBody(200_000), PatternBody(10, prefix=b"abc")])
def test_computed_content_is_the_same_however_it_is_read(body: Body) -> None:
    whole = read_all(body)
    assert len(whole) == body.size
    assert body.sha256 == hash_body(body)
    for offset, length in [(0, 1), (65530, 20), (131070, 70000), (199_999, 10), (200_000, 5), (1, 5)]:
        assert bytes(body.read(offset, length)) == whole[offset : offset + length]


def test_no_two_blocks_of_a_pattern_are_equal() -> None:
    data = read_all(PatternBody(1 << 20, seed=1))
    blocks = {data[start : start + 65536] for start in range(0, len(data), 65536)}
    assert len(blocks) == 16


def _rows(data: bytes, width: int) -> list[tuple[float, ...]]:
    return [struct.unpack_from(f"<{width}f", data, start) for start in range(0, len(data), 4 * width)]


class _StateReader(pickle.Unpickler):
    """Reads a state dictionary as torch does, with (shape, strides, bytes) for a tensor."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{name}/data.pkl")))
        self._archive, self._name = archive, name

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._rebuild
        return {"FloatStorage": 4, "OrderedDict": dict}[name]

    def persistent_load(self, pid: Any) -> bytes:
        kind, width, key, device, count = pid
        assert (kind, device) == ("storage", "cpu")
        data = self._archive.read(f"{self._name}/data/{key}")
        assert len(data) == count * width
        return data

    def _rebuild(self, data: bytes, offset: int, shape: Any, strides: Any, grad: bool, hooks: Any) -> Any:
        assert (offset, grad, hooks) == (0, False, {})
        return shape, strides, data
