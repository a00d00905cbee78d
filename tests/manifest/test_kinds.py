from __future__ import annotations

import pytest

from modelfetch.core.root import CONSUMERS
from modelfetch.formats.pickles import is_pickle_name
from modelfetch.manifest.kinds import (
    FOLDERS,
    HF_CACHES,
    KINDS,
    REPO_KINDS,
    consumers_of,
    kinds_of,
    manifest_warnings,
    upstream_name,
)
from modelfetch.manifest.uri import parse_uri
from tests.cases import each
from tests.manifest.helpers import COMMIT, DIGEST, entry, load, model, models, problems, wrong

# The contract's table of layouts, written down again: the code is compared with it.
IMAGE = """
checkpoint      | models/Stable-diffusion | models/checkpoints
diffusion-model | models/Stable-diffusion | models/diffusion_models
text-encoder    | models/text_encoder     | models/text_encoders
vae             | models/VAE              | models/vae
lora            | models/Lora             | models/loras
controlnet      | models/ControlNet       | models/controlnet
upscaler        | models/ESRGAN           | models/upscale_models
embedding       | embeddings              | models/embeddings
clip-vision     | -                       | models/clip_vision
model-patch     | -                       | models/model_patches
latent-upscaler | -                       | models/latent_upscale_models
audio-encoder   | -                       | models/audio_encoders
style-model     | -                       | models/style_models
geometry        | -                       | models/geometry_estimation
detection       | -                       | models/detection
optical-flow    | -                       | models/optical_flow
background-removal  | -                   | models/background_removal
frame-interpolation | -                   | models/frame_interpolation
snapshot        | models/diffusers        | models/diffusers
"""
TABLE = {
    ("whisper", "snapshot"): "hub",
    ("whisper", "torch-checkpoint"): "torch/hub/checkpoints",
    ("whisper", "whisper"): "openai",
    ("immich", "immich-model"): "",
    ("anythingllm", "snapshot"): "models",
}
TABLE |= {("diffrhythm", "snapshot"): ""} | {(consumer, "file"): "" for consumer in CONSUMERS}
for _line in IMAGE.strip().splitlines():
    _kind, *_folders = (cell.strip() for cell in _line.split("|"))
    TABLE |= {(c, _kind): f for c, f in zip(("stable-diffusion", "comfyui"), _folders, strict=True) if f != "-"}


def test_the_table_of_kinds_is_the_documented_one() -> None:
    assert TABLE == FOLDERS
    assert set(KINDS) == {kind for _, kind in TABLE}
    assert HF_CACHES == {"whisper": "hub", "diffrhythm": ""}
    assert kinds_of("ollama") == ("file",)
    assert consumers_of("clip-vision") == ("comfyui",)


def single(kind: str, consumer: str) -> dict[str, str]:
    keys = {"name": "m", "kind": kind, "source": f"hf://a/b@{COMMIT}/c.safetensors", "_for": f"[{consumer}]"}
    if kind in REPO_KINDS:
        keys["source"] = f"hf://a/b@{COMMIT}"
    if kind == "immich-model":
        keys["task"] = "clip"
    if kind == "file":
        keys["path"] = "some/where.bin"
    return keys


@each(("consumer", "kind"), [(consumer, kind) for consumer in CONSUMERS for kind in KINDS])
def test_each_kind_goes_to_the_consumers_of_the_table_alone(consumer: str, kind: str) -> None:
    found = problems(models(entry(**single(kind, consumer))))
    if (consumer, kind) in TABLE:
        assert found == []
    else:
        (message,) = found
        assert f"expected a consumer of kind {kind}" in message
        assert f"found {consumer}" in message


@each("consumer", [c for c in CONSUMERS if c != "ollama"])
def test_an_ollama_model_is_for_ollama_alone(consumer: str) -> None:
    assert "expected ollama, the only consumer" in wrong(source="ollama://x", _for=f"[{consumer}]")
    assert "expected ollama, the only consumer" in wrong(source="ollama://x", _for=f"[ollama, {consumer}]")


@each("kind", KINDS)
def test_an_ollama_model_has_no_kind(kind: str) -> None:
    assert "expected no kind for an ollama:// source" in wrong(source="ollama://x", kind=kind, _for="[ollama]")


@each("source", ["hf://a/b/c.gguf", "https://h.example/c.gguf", "civitai://1", "file:///c.gguf", "oci://h/r"])
def test_every_other_source_needs_a_kind(source: str) -> None:
    assert "expected a kind" in wrong(source=f"'{source}'", _for="[ollama]")
    assert "expected a kind" in wrong(source=f"'{source}'", _for="[comfyui]")
    model(source=f"'{source}'", kind="file", path="models/c.gguf", _for="[ollama]")


@each(
    ("key", "value"),
    [
        ("files", "[{path: x}]"),
        ("include", "['*']"),
        ("cache_as", "a/b"),
        ("path", "x"),
        ("unpack", "zip"),
        ("task", "ocr"),
    ],
)
@each("kind", KINDS)
def test_keys_that_do_not_apply_to_a_kind_are_refused(kind: str, key: str, value: str) -> None:
    owners = {
        **dict.fromkeys(("files", "include"), ("snapshot", "immich-model")),
        **dict.fromkeys(("path", "unpack"), ("file",)),
        "cache_as": ("snapshot",),
        "task": ("immich-model",),
    }[key]
    keys = single(kind, consumers_of(kind)[0])
    if kind in owners:
        model(**(keys | {key: value}))
    else:
        expected = f"expected {key} only with kind {' or '.join(owners)}, found it with kind {kind}"
        assert expected in wrong(**(keys | {key: value}))


def test_a_model_of_immich_has_a_task_that_immich_knows() -> None:
    keys = single("immich-model", "immich")
    assert model(**keys).task == "clip"
    assert "expected a task for kind immich-model, found none" in wrong(
        **{k: v for k, v in keys.items() if k != "task"}
    )
    assert "facial-recognition" in wrong(**(keys | {"task": "faces"}))


@each(
    ("key", "value"),
    [
        ("files", "[{path: x}]"),
        ("include", "['*']"),
        ("cache_as", "a/b"),
        ("path", "x"),
        ("unpack", "zip"),
        ("filename", "x"),
    ],
)
def test_file_keys_are_refused_for_an_ollama_model(key: str, value: str) -> None:
    assert f"expected no {key} for an ollama:// source" in wrong(source="ollama://x", _for="[ollama]", **{key: value})


@each("kind", [kind for kind in KINDS if kind not in REPO_KINDS])
def test_a_single_file_of_the_hub_needs_its_path(kind: str) -> None:
    keys = single(kind, consumers_of(kind)[0])
    assert "expected hf://NS/REPO[@REV]/PATH" in wrong(**(keys | {"source": "hf://a/b@main"}))
    assert "expected hf://NS/REPO[@REV]/PATH" in wrong(**(keys | {"mirrors": "['hf://a/b']"}))


@each("source", ["hf://a/b/c", "https://h.example/x", "civitai://1", "file:///x", "oci://h/r"])
def test_a_snapshot_is_a_whole_repo_of_the_hub(source: str) -> None:
    message = wrong(kind="snapshot", source=f"'{source}'", _for="[whisper]")
    assert "expected an hf:// source" in message or "expected a whole repo" in message


@each(
    ("mirror", "good"),
    [
        ("hf://c/d@main", True),
        ("oci://h/r:t", True),
        ("hf://c/d/e", False),
        ("https://h.example/x", False),
        ("ollama://x", False),
        ("civitai://1", False),
        ("file:///x", False),
    ],
)
def test_a_mirror_of_a_snapshot_holds_several_files(mirror: str, good: bool) -> None:
    found = problems(models(entry(kind="snapshot", source="hf://a/b", _for="[whisper]", mirrors=f"['{mirror}']")))
    assert len(found) == (0 if good else 1)


@each(
    ("mirror", "good"),
    [("ollama://h.example/n/m:t", True), ("oci://h/r:t", True), ("hf://c/d/e", False), ("https://h.example/x", False)],
)
def test_a_mirror_of_an_ollama_model_is_a_registry(mirror: str, good: bool) -> None:
    found = problems(models(entry(source="ollama://x", _for="[ollama]", mirrors=f"['{mirror}']")))
    assert len(found) == (0 if good else 1)


def test_a_snapshot_has_files_or_globs_and_pins_each_file() -> None:
    keys = {"kind": "snapshot", "source": "hf://a/b", "_for": "[whisper]"}
    assert "expected files or include, found both" in wrong(**keys, files="[{path: x}]", include="['*']")
    assert "expected no digest for kind snapshot" in wrong(**keys, digest=DIGEST)
    assert "expected no size for kind snapshot" in wrong(**keys, size="1")


@pytest.mark.parametrize("consumer", ["whisper", "diffrhythm"])
def test_a_cache_names_its_own_folders(consumer: str) -> None:
    assert "expected no filename" in wrong(kind="snapshot", source="hf://a/b", _for=f"[{consumer}]", filename="x")


def test_a_snapshot_in_a_plain_folder_may_be_named() -> None:
    assert model(kind="snapshot", source="hf://a/b", _for="[comfyui]", filename="x").filename == "x"


def test_kind_file_needs_a_path_and_nothing_else_that_names_it() -> None:
    keys = {"kind": "file", "source": "hf://a/b/c", "_for": "[whisper]"}
    assert "expected a path for kind file" in wrong(**keys)
    assert "expected no filename for kind file" in wrong(**keys, path="x", filename="y")
    assert "expected zip, found 'tar'" in wrong(**keys, path="x", unpack="tar")
    assert "path: expected a path that stays below" in wrong(**keys, path="../x")
    assert model(**keys, path="nltk_data/tokenizers", unpack="zip").unpack == "zip"


PICKLES = ["x.ckpt", "x.pt", "x.pth", "x.pkl", "X.CKPT", "x.safetensors.pt", "a/b/x.Pth"]


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_needs_a_digest_or_allow_pickle(name: str) -> None:
    hub = {"kind": "checkpoint", "source": f"hf://a/b/{name}", "_for": "[comfyui]"}
    web = hub | {"source": f"'https://h.example/{name}?download=1'"}
    disk = hub | {"source": f"file:///{name}"}
    renamed = hub | {"source": "hf://a/b/x.safetensors", "filename": name}
    placed = hub | {"source": "hf://a/b/x", "kind": "file", "path": name}
    hidden = hub | {"filename": "x.safetensors"}
    api = hub | {"source": "civitai://1", "filename": name}
    for keys in (hub, web, disk, renamed, placed, hidden, api):
        assert "can run code when loaded: expected a digest or allow_pickle: true" in wrong(**keys)
        assert "can run code" in wrong(**keys, allow_pickle="false")
        model(**keys, allow_pickle="true")
        model(**keys, digest=DIGEST)


@each("name", ["x.safetensors", "x.gguf", "x.bin", "x.pt.json", "pt", "ckpt", "x.ptx", "x.ckpt/x.bin"])
def test_other_suffixes_are_not_pickle_names(name: str) -> None:
    model(kind="checkpoint", source=f"hf://a/b/{name}", _for="[comfyui]")
    assert not is_pickle_name(name)


LISTED = [
    ("comfyui", "checkpoint", "x.SFT x.gguf x.bin x.st x", "x.onnx x.txt x.h5 x.json x.zip a.safetensors.md"),
    ("comfyui", "detection", "x.onnx x.safetensors", "x.tflite x.yaml"),
    ("comfyui", "embedding", "x.png x.bin", "x.onnx x.txt"),
    ("stable-diffusion", "checkpoint", "x.safetensors x.gguf", "x.bin x.sft x.onnx x.json"),
    ("stable-diffusion", "lora", "x.safetensors", "x.txt x.npz"),
    ("whisper", "torch-checkpoint", "x.th x.onnx", ""),
]


@each(("consumer", "kind", "good", "bad"), LISTED)
def test_a_name_that_the_service_does_not_list_is_a_warning(consumer: str, kind: str, good: str, bad: str) -> None:
    for number, name in enumerate((*good.split(), *bad.split())):
        for keys in ({"source": f"hf://a/b/{name}"}, {"source": "https://a/x.onnx", "filename": name}):
            text = models(entry(kind=kind, _for=f"[{consumer}]", digest=DIGEST, **keys))
            found = list(manifest_warnings(load(text)))
            assert len(found) == (number >= len(good.split())), name
            assert all(f"m.yaml:3:5: {consumer} does not list {name!r}: for kind {kind}" in one for one in found)


REPEATED = [
    ({"kind": "vae", "source": "hf://a/b/x.safetensors", "filename": "models/vae/x.safetensors"}, "comfyui/models/vae"),
    ({"kind": "snapshot", "source": "hf://a/b", "filename": "models/diffusers/b"}, "comfyui/models/diffusers"),
    ({"kind": "file", "source": "hf://a/b/x.json", "path": "comfyui/models/x.json"}, "comfyui"),
]


@each(("keys", "below"), REPEATED)
def test_a_folder_that_a_name_repeats_is_a_warning(keys: dict[str, str], below: str) -> None:
    (warning,) = manifest_warnings(load(models(entry(_for="[comfyui]", **keys))))
    name = keys.get("filename") or keys["path"]
    assert warning.endswith(f"begins with the folder that it is placed in anyway: {below}/{name}")
    inner = {key: value.removeprefix("comfyui/").replace("models/", "sub/") for key, value in keys.items()}
    assert list(manifest_warnings(load(models(entry(_for="[comfyui]", **inner))))) == []


def test_a_snapshot_is_a_warning_where_no_folder_is_listed() -> None:
    (warning,) = manifest_warnings(load(models(entry(kind="snapshot", source="hf://a/b", _for="[stable-diffusion]"))))
    assert warning.startswith("m.yaml:3:5: stable-diffusion lists no snapshot")


def test_a_snapshot_and_a_file_have_no_manifest_warnings() -> None:
    file = entry(kind="file", path="models/checkpoints/x.onnx", source="hf://a/b/x.onnx", _for="[comfyui]")
    assert list(manifest_warnings(load(models(file)))) == []
    repo = entry(kind="snapshot", filename="x.json", source="hf://a/b", _for="[comfyui]")
    assert list(manifest_warnings(load(models(repo)))) == []


def test_a_pickle_suffix_in_an_invalid_file_name_is_refused() -> None:
    assert "'a/C:x.pt' (.ckpt .pt .pth .pkl) can run code" in wrong(
        kind="checkpoint", source="hf://a/b/a/C:x.pt", _for="[comfyui]", filename="x.safetensors"
    )


def test_each_pickle_of_a_snapshot_needs_its_own_digest() -> None:
    keys = {"kind": "snapshot", "source": "hf://a/b", "_for": "[diffrhythm]"}
    assert "'cfm.pt' (.ckpt .pt .pth .pkl) can run code" in wrong(**keys, files="[{path: cfm.pt}]")
    assert "'b.pt'" in wrong(**keys, files=f"[{{path: a.pt, digest: {DIGEST}}}, {{path: b.pt}}]")
    model(**keys, files=f"[{{path: a.pt, digest: {DIGEST}}}]")
    model(**keys, files="[{path: a.pt}]", allow_pickle="true")
    assert "'*.pt'" in wrong(**keys, include="['*.pt']")
    model(**keys, include="['*.pt']", allow_pickle="true")
    model(**keys)


@each(
    ("source", "name"),
    [
        ("hf://a/b/c/d.bin", "d.bin"),
        ("hf://a/b", None),
        ("https://h.example/a/b%20c.bin?x=/y.bin", "b c.bin"),
        ("https://h.example/", None),
        ("https://h.example/..%2f..%2fx.bin", "x.bin"),
        ("https://h.example/a%3Fb%7C", "ab"),
        ("https://h.example/..", None),
        ("file:///a/b.bin", "b.bin"),
        ("file:///a/..", None),
        ("civitai://1", None),
        ("oci://h/r", None),
        ("ollama://x", None),
    ],
)
def test_the_file_name_is_taken_from_the_uri(source: str, name: str | None) -> None:
    assert upstream_name(parse_uri(source)) == name


def test_a_file_of_this_machine_without_a_name_needs_one() -> None:
    assert "expected a filename" in wrong(kind="vae", source="file:///a/..", _for="[comfyui]")
    model(kind="vae", source="file:///a/..", _for="[comfyui]", filename="x")
