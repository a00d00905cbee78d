from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from modelfetch.core.digest import Digest
from modelfetch.core.urls import is_loopback
from modelfetch.errors import ManifestError, SettingError
from modelfetch.manifest.load import TEXT, load_bytes, load_manifest, sha256_of
from modelfetch.manifest.model import FileSpec, Service
from modelfetch.manifest.yaml_nodes import MAX_BYTES
from tests.cases import each
from tests.manifest.helpers import COMMIT, DIGEST, SHA, entry, load, model, models, problems, wrong

CONTRACT = f"""\
# yaml-language-server: $schema=manifest.schema.json
version: 1
tier: 16g
vram: 16GiB                      # the card's class
description: "Balanced: a 3B chat model beside SDXL"
services:
  ollama: {{vram: 4GiB, memory: 8g, model: "llama3.2:3b", context: 4096, parallel: 2}}
  stable-diffusion: {{vram: 6.5GiB, memory: 12g, offload: medium, exclusive: image}}
models:
  - name: llama3.2-3b
    source: ollama://llama3.2:3b
    digest: {DIGEST}
    for: [ollama]
  - name: sdxl-base
    kind: checkpoint
    source: hf://stabilityai/sdxl@462165984030d82259a11f4367a4eed129e94a7b/sd_xl_base_1.0.safetensors
    size: 6938078334
    digest: blake3:{SHA.upper()}
    mirrors: ["https://mirror.example/sd_xl_base_1.0.safetensors"]
    license: openrail++
    for: [stable-diffusion, comfyui]
    x-note: [anything, {{goes: here}}]
  - name: faster-whisper-small
    kind: snapshot               # a repo in Hugging Face cache form
    source: hf://Systran/faster-whisper-small@{COMMIT}
    files:
      - {{path: config.json, size: 2370, digest: {DIGEST}}}
      - {{path: model.bin}}
    for: [whisper]
x-anything: {{a: 1}}
"""


def test_the_documented_example_is_loaded() -> None:
    manifest = load(CONTRACT)
    assert (manifest.file, manifest.files, manifest.tier) == ("m.yaml", ("m.yaml",), "16g")
    assert (manifest.vram, manifest.usable) == (16 * 2**30, 15 * 2**30)
    assert manifest.description == "Balanced: a 3B chat model beside SDXL"
    assert manifest.sha256 == hashlib.sha256(CONTRACT.encode()).hexdigest()
    ollama, image = manifest.services
    assert ollama == Service(name="ollama", vram=2**32, memory=2**33, model="llama3.2:3b", context=4096, parallel=2)
    assert (image.vram, image.offload, image.exclusive) == (int(6.5 * 2**30), "medium", "image")
    chat, sdxl, whisper = manifest.models
    assert (chat.name, chat.kind, chat.consumers, chat.digest) == (
        "llama3.2-3b",
        None,
        ("ollama",),
        Digest("sha256", SHA),
    )
    assert (sdxl.kind, sdxl.size, sdxl.license, sdxl.digest) == (
        "checkpoint",
        6938078334,
        "openrail++",
        Digest("blake3", SHA),
    )
    assert sdxl.consumers == ("stable-diffusion", "comfyui")
    assert [str(mirror) for mirror in sdxl.mirrors] == ["https://mirror.example/sd_xl_base_1.0.safetensors"]
    assert whisper.files == (
        FileSpec(path="config.json", size=2370, digest=Digest("sha256", SHA)),
        FileSpec(path="model.bin"),
    )
    assert [str(one.position) for one in manifest.models] == ["m.yaml:10:5", "m.yaml:14:5", "m.yaml:23:5"]
    assert not (sdxl.optional)
    assert not (sdxl.allow_pickle)
    assert not (sdxl.allow_unscanned)


def test_a_manifest_without_models_is_valid() -> None:
    assert load("version: 1\nmodels: []\n").models == ()


def test_all_problems_of_a_file_come_at_once_with_their_places() -> None:
    text = """\
version: 2
tiers: 16g
vram: lots
services:
  ollama: {vram: 4 apples, contxt: 4096}
models:
  - name: a
    sorce: ollama://x
    for: [ollama]
  - name: b
    kind: vae
    source: hf://a/b@main/x.safetensors
    size: 1
    size: 2
    for: [comfyui, whisper]
  - name: b
    source: !!str ollama://y
    for: ollama
1: 2
"""
    size = "expected bytes or a number with B, KB, MB, GB, KiB, MiB, GiB or compose's k, m, g"
    kinds = "it takes snapshot, torch-checkpoint, whisper, file"
    unknown = "unknown key"
    assert problems(text) == [
        "1:10: version: expected 1, found the number 2",
        f"2:1: {unknown} 'tiers'; did you mean 'tier'?",
        f"3:7: vram: {size}; found 'lots'",
        f"5:18: services.ollama: vram: {size}; found '4 apples'",
        f"5:28: services.ollama: {unknown} 'contxt'; did you mean 'context'?",
        "7:5: models[0] (a): missing key 'source'",
        f"8:5: models[0] (a): {unknown} 'sorce'; did you mean 'source'?",
        "14:5: expected each key once, found 'size' again (first: line 13, column 5)",
        f"15:20: models[1] (b): expected a consumer of kind vae (stable-diffusion, comfyui), found whisper ({kinds})",
        "16:5: models[2] (b): expected each name once, found 'b' again (first: line 10)",
        "17:13: expected no YAML tag, found 'tag:yaml.org,2002:str'",
        "18:10: models[2] (b): for: expected a list, found 'ollama' (in brackets it would be one)",
        "19:1: expected a key that is text, found the number 1",
    ]


def test_a_manifest_error_is_78_and_lists_its_problems() -> None:
    with pytest.raises(ManifestError) as caught:
        load("version: 1\nmodels: {}\nfoo: 1\n")
    error = caught.value
    assert (error.exit_code, error.code, error.permanent) == (78, "invalid-manifest", True)
    assert isinstance(error, SettingError)
    assert [str(one) for one in error.each()] == [str(problem) for problem in error.problems]
    assert [(p.file, p.line, p.column) for p in error.problems] == [("m.yaml", 2, 9), ("m.yaml", 3, 1)]


def test_a_file_of_wrong_keys_gets_a_few_suggestions_and_every_problem() -> None:
    found = problems("version: 1\nmodels: []\n" + "".join(f"tier{i}: 1\n" for i in range(100)))
    assert len(found) == 100
    assert found[0].endswith("; did you mean 'tier'?")
    assert not found[-1].endswith("?")


@each("text", ["version: 1", "{version: 1}", "version: 1\nmodels:\n"])
def test_the_models_key_is_required(text: str) -> None:
    (message,) = problems(text)
    assert "models" in message


@each("version", ["2", "0", "'1'", "1.0", "true", "~", "[1]", "1.1"])
def test_only_version_1_is_known(version: str) -> None:
    (message,) = problems(f"version: {version}\nmodels: []\n")
    assert message.startswith("1:10: version: expected 1, found ")


BAD_TYPES = {
    "version": [],
    "tier": ["16", "~", "[a]", "''", "a/b", "../x", "'a b'", "-x", "x" * 65, "true"],
    "vram": ["~", "true", "-1", "1.5", "16 GiBs", "''", "[]", "0", "1e9", ".inf", "9EB", "9223372036854775808"],
    "description": ["1", "~", "[]", "''", '"a\\u0007"'],
    "services": ["~", "[]", "x"],
    "models": ["~", "{}", "x", "[~]", "[[]]", "[x]"],
    "extends": ["1", "~", "[x]"],
    "drop": ["x", "~", "[1]", "[x, x]"],
}


@each(("key", "value"), [(key, value) for key, values in BAD_TYPES.items() for value in values])
def test_a_top_key_of_a_wrong_type_is_refused(key: str, value: str) -> None:
    rest = "" if key == "models" else "models: []\n"
    lines = [message.partition(":")[0] for message in problems(f"version: 1\n{key}: {value}\n{rest}")]
    assert lines
    assert set(lines) == {"2"}


GOOD_SERVICE = {
    "vram": ["0", "4GiB", "6g", "1073741824", "7.5 GiB", "500MB", "'4096'"],
    "memory": ["8g", "512m"],
    "model": ["llama3.2:3b", "'x'"],
    "context": ["1", "131072"],
    "parallel": ["1", "16"],
    "kv_type": ["f16", "q8_0", "q4_0"],
    "flash_attention": ["true", "False"],
    "offload": ["medium", "none", "text-encoder"],
    "resolution": ["512x512", "1024x768"],
    "batch": ["1", "8"],
    "compute_type": ["int8_float16", "float16"],
    "device": ["cuda", "cpu", "cuda:0"],
    "exclusive": ["image"],
    "x-note": ["[anything]", "~"],
}
BAD_SERVICE = {
    "vram": ["-1", "~", "x", "1.5", "true"],
    "memory": ["0", "lots", "~"],
    "model": ["1", "''", "~", "[]"],
    "context": ["0", "-1", "4096.0", "'4096'", "4k", "true", "~", "99999999999"],
    "parallel": ["0", "x"],
    "kv_type": ["f32", "F16", "1", "~"],
    "flash_attention": ["yes", "1", "'true'", "~"],
    "offload": ["'a b'", "1", "true", "''", "sideways"],
    "resolution": ["512", "512x", "x512", "0x10", "'512 x 512'", "[512, 512]"],
    "batch": ["0", "many"],
    "compute_type": ["'int 8'", "8"],
    "device": ["'the gpu'", "~", "gpu", "cuda:x", "CPU"],
    "exclusive": ["true", "'a b'", "~"],
    "x": ["1"],
    "X-note": ["1"],
    "unknown": ["1"],
}


@each(("key", "value"), [(key, value) for key, values in GOOD_SERVICE.items() for value in values])
def test_every_service_key_is_read(key: str, value: str) -> None:
    (service,) = load(f"version: 1\nservices:\n  s: {{{key}: {value}}}\nmodels: []\n").services
    assert service.name == "s"
    assert key.startswith("x-") or getattr(service, key) is not None


@each(("key", "value"), [(key, value) for key, values in BAD_SERVICE.items() for value in values])
def test_a_service_key_that_is_wrong_is_refused(key: str, value: str) -> None:
    (message,) = problems(f"version: 1\nservices:\n  s: {{{key}: {value}}}\nmodels: []\n")
    assert message.startswith("3:")
    assert "services.s: " in message


@each("name", ["A", "''", "a b", "../x", "'-x'", "'1': {}, x/y", "ü"])
def test_a_service_has_a_plain_name(name: str) -> None:
    assert any(
        "expected a service's name" in line
        for line in problems(f"version: 1\nservices: {{{name}: {{}}}}\nmodels: []\n")
    )


def test_x_keys_are_ignored_at_every_level() -> None:
    text = "version: 1\nx-a: 1\nservices: {x-b: 2, s: {x-c: 3}}\nmodels:\n" + entry(
        kind="snapshot", source="hf://a/b", _for="[whisper]", x_d="4", files="[{path: p, x-e: [5]}]"
    ).replace("x_d", "x-d")
    assert [service.name for service in load(text).services] == ["s"]


GOOD_MODEL = {
    "name": ["a", "llama3.2:3b", "'A name, with spaces'", "ns/name", "ü", "'1'", "yes"],
    "size": ["1", "6.5GiB", "'12'", "0x10"],
    "digest": [DIGEST, f"blake3:{SHA}", f"sha256:{SHA.upper()}"],
    "license": ["mit", "'Apache-2.0'"],
    "optional": ["true", "false"],
    "allow_pickle": ["true", "false"],
    "allow_unscanned": ["true", "false"],
    "filename": ["a.safetensors", "sub/folder/a.safetensors", "'ü b.bin'"],
    "mirrors": ["[]", "['https://m.example/x', 'hf://a/b/c', 'civitai://1', 'file:///x', 'oci://h/r']"],
    "x-note": ["~"],
}
BAD_MODEL = {
    "name": [
        "1",
        "~",
        "''",
        "' a'",
        "'a '",
        '"a\\nb"',
        '"a\\0b"',
        "../x",
        "a/../b",
        "/a",
        "'a\\b'",
        "a//b",
        "x" * 201,
        "[a]",
        "true",
    ],
    "kind": ["Checkpoint", "checkpoints", "~", "1", "[vae]", "''"],
    "source": ["1", "~", "x", "''", "[]", "ftp://h/x", "'hf://a/b/../c'", "http://h.example/x", "'https://u:p@h/x'"],
    "mirrors": ["x", "~", "[x]", "['http://h.example/x']", "[~]", "['ollama://x']", "['hf://a/b']"],
    "size": ["0", "-1", "~", "1.5", "true", "big", "1e9", "'-1'", "9223372036854775808", "10EiB", "[1]"],
    "digest": [
        SHA,
        "md5:" + "a" * 32,
        "sha256:" + "a" * 63,
        "sha256:" + "g" * 64,
        "SHA256:" + SHA,
        "sha512:" + "a" * 128,
        "~",
        "1",
        f"git-sha1:{'a' * 40}",
    ],
    "for": ["comfyui", "[]", "~", "[ComfyUI]", "[comfyui, comfyui]", "[localai]", "[1]", "{comfyui: true}"],
    "filename": ["../x", "/x", "a/../x", "'a\\b'", "''", "~", "1", "'C:x'", "a//b", "a/", ".", '"a\\nb"', "x" * 256],
    "license": ["1", "~", "[mit]", "''"],
    "optional": ["yes", "1", "~", "'true'"],
    "allow_pickle": ["on", "~"],
    "allow_unscanned": ["1", "~"],
    "unpack": ["zip"],
    "path": ["x"],
    "files": ["[{path: x}]"],
    "include": ["['*']"],
    "cache_as": ["a/b"],
    "revision": ["main"],
    "url": ["x"],
}
BASE = {"name": "m", "kind": "checkpoint", "source": "hf://a/b/c.safetensors", "_for": "[comfyui]"}


def base(key: str, value: str) -> dict[str, str]:
    return BASE | {"_for" if key == "for" else key: value}


@each(("key", "value"), [(key, value) for key, values in GOOD_MODEL.items() for value in values])
def test_every_model_key_is_read(key: str, value: str) -> None:
    made = model(**base(key, value))
    assert key.startswith("x-") or getattr(made, key) is not None


@each(("key", "value"), [(key, value) for key, values in BAD_MODEL.items() for value in values])
def test_a_model_key_that_is_wrong_is_one_problem_there(key: str, value: str) -> None:
    (message,) = problems(models(entry(**base(key, value))))
    assert message.startswith("3:")
    assert "models[0]" in message
    assert "found " in message or "unknown key" in message


def test_weights_without_bytes_are_refused_and_other_files_may_be_empty() -> None:
    files = "files: [{path: __init__.py, size: 0}, {path: a.safetensors, size: 0}, {path: b.bin, size: 1}]"
    (message,) = problems(
        f"version: 1\nmodels:\n  - {{name: a, kind: snapshot, source: hf://a/b, for: [whisper], {files}}}\n"
    )
    assert "expected 1 byte or more for 'a.safetensors', found 0" in message


@each("key", ["name", "source", "for"])
def test_a_model_needs_name_source_and_consumers(key: str) -> None:
    keys = {k: v for k, v in base("kind", "checkpoint").items() if k.lstrip("_") != key}
    text = "version: 1\nmodels:\n  - {" + ", ".join(f"{k.lstrip('_')}: {v}" for k, v in keys.items()) + "}\n"
    (message,) = problems(text)
    assert message.endswith(f"missing key '{key}'")


FILES = {
    "path": (["a", "a/b.json"], ["../x", "/x", "~", "1", "a//b", "''", "'a\\b'"]),
    "size": (["0", "2KB"], ["-1", "~", "x"]),
    "digest": ([DIGEST], ["x", "~"]),
    "x-y": (["~"], []),
    "name": ([], ["x"]),
}


@each(
    ("key", "value", "good"),
    [
        (k, v, good)
        for k, pair in FILES.items()
        for good, values in zip((True, False), pair, strict=True)
        for v in values
    ],
)
def test_every_key_of_files_is_read(key: str, value: str, good: bool) -> None:
    spec = "{" + ", ".join(f"{k}: {v}" for k, v in ({"path": "p"} | {key: value}).items()) + "}"
    found = problems(models(entry(kind="snapshot", source="hf://a/b", _for="[whisper]", files=f"[{spec}]")))
    assert len(found) == (0 if good else 1), found
    assert good or "models[0] (m): files[0]" in found[0]


@each("files", ["[]", "~", "x", "[x]", "[{}]", "{path: x}", "[{size: 1}]"])
def test_files_are_a_list_of_records_with_paths(files: str) -> None:
    assert "files" in wrong(kind="snapshot", source="hf://a/b", _for="[whisper]", files=files)


@each(
    ("files", "why"),
    [
        ("[{path: a}, {path: a}]", "again"),
        ("[{path: a}, {path: A}]", "only by case"),
        ("[{path: a}, {path: a/b}]", "file or a folder"),
        ("[{path: a/b}, {path: a}]", "file or a folder"),
    ],
)
def test_files_of_a_snapshot_are_placed_in_one_folder(files: str, why: str) -> None:
    assert why in wrong(kind="snapshot", source="hf://a/b", _for="[whisper]", files=files)


@each("include", ["['*.json']", "['**/*.bin', config.json]", "['onnx/']", "['[!a]*', '?']"])
def test_valid_globs_are_accepted(include: str) -> None:
    assert model(kind="snapshot", source="hf://a/b", _for="[whisper]", include=include).include is not None


@each("include", ["[]", "'*'", "~", "['../*']", "['/etc/*']", "['a/../*']", "['a', 'a']", "['']", "['/']", "[1]"])
def test_a_glob_outside_of_the_repo_is_refused(include: str) -> None:
    assert "include" in wrong(kind="snapshot", source="hf://a/b", _for="[whisper]", include=include)


@each("repo", ["gpt2", "ns/repo", "xlm-roberta-base"])
def test_cache_as_is_read(repo: str) -> None:
    assert model(kind="snapshot", source="hf://a/b", _for="[diffrhythm]", cache_as=repo).cache_as == repo


@each("repo", ["../x", "a/b/c", "a--b", "''", "~", "1", "hf://a/b", "a/..", "'a b'", "/a", "a/"])
def test_cache_as_is_a_repo_id(repo: str) -> None:
    assert "cache_as: expected a repo id" in wrong(
        kind="snapshot", source="hf://a/b", _for="[diffrhythm]", cache_as=repo
    )


@each("host", ["localhost", "127.0.0.1", "127.9.9.9:8000", "[::1]:80", "hub.localhost:1"])
def test_plain_http_to_loopback_is_accepted(host: str) -> None:
    model(**base("source", f"'http://{host}/x.safetensors'"))


@each(
    "host",
    ["h.example", "10.0.0.1", "127.0.0.1.example", "localhost.example", "0.0.0.1", "2130706433", "[::]", "127.1"],
)
def test_plain_http_elsewhere_is_refused_in_sources_and_mirrors(host: str) -> None:
    assert "expected https://" in wrong(**base("source", f"'http://{host}/x.safetensors'"))
    assert "expected https://" in wrong(**base("mirrors", f"['http://{host}/x.safetensors']"))


def test_plain_http_is_allowed_by_host_and_port() -> None:
    asked: list[tuple[str, int]] = []

    def allow(host: str, port: int) -> bool:
        asked.append((host, port))
        return host == "nas"

    text = models(
        entry("a", kind="vae", source="'http://NAS:81/x'", _for="[comfyui]"),
        entry("b", kind="vae", source="http://nas/y", _for="[comfyui]"),
    )
    assert problems(text, allow_http=allow) == []
    assert asked == [("nas", 81), ("nas", 80)]
    assert is_loopback("127.0.0.1", 1)
    assert not is_loopback("nas", 80)


def test_a_str_with_a_newline_or_a_colon_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_manifest("version: 1\nmodels: []").file == TEXT
    assert load_manifest("{version: 1, models: []}").file == TEXT
    with pytest.raises(ManifestError, match=r"<text>:1:1: "):
        load_manifest("\n")


@pytest.mark.parametrize("kind", [str, Path])
def test_a_str_without_a_newline_or_a_colon_is_a_path(tmp_path: Path, kind: type[str | Path]) -> None:
    file = tmp_path / "m.yaml"
    file.write_bytes(CONTRACT.encode())
    manifest = load_manifest(kind(file))
    assert manifest.file == str(file)
    assert manifest.models[0].position.file == str(file)
    assert manifest.sha256 == load(CONTRACT).sha256


@pytest.mark.parametrize("name", ["missing.yaml", "", ".", "missing/m.yaml", "a\0b", "x" * 300, "\ud800"])
def test_a_path_that_can_not_be_read_is_a_problem_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ManifestError) as caught:
        load_manifest(name)
    assert caught.value.exit_code == 78
    (problem,) = caught.value.problems
    assert (problem.file, str(problem)) == (name or ".", f"{name or '.'}: {problem.message}")


def test_a_file_without_permission_or_end_is_a_problem_of_it(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="not a regular file"):
        load_manifest("/dev/zero")
    big = tmp_path / "big.yaml"
    big.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ManifestError, match="at most 1 MiB"):
        load_manifest(big)
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)
    with pytest.raises(ManifestError, match=os.strerror(40)):
        load_manifest(loop)


def test_text_that_is_not_utf_8_is_a_problem() -> None:
    with pytest.raises(ManifestError, match="expected UTF-8"):
        load_manifest("version: 1\nmodels: []\ntier: \ud800\n")


def test_the_hash_of_one_file_is_that_of_its_bytes() -> None:
    assert (
        load_bytes(b"version: 1\nmodels: []\n", file="f").sha256
        == hashlib.sha256(b"version: 1\nmodels: []\n").hexdigest()
    )
    assert sha256_of([b"ab", b"c"]) != sha256_of([b"a", b"bc"])
