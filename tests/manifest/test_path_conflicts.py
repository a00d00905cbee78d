from __future__ import annotations

from typing import Any

from modelfetch.manifest.model import Position
from modelfetch.manifest.path_conflicts import PathClaim, Shape, claims_of, find_clashes
from tests.cases import each
from tests.manifest.helpers import COMMIT, DIGEST, OTHER_COMMIT, SHA, entry, load, models, problems


def paths(**keys: str) -> list[str]:
    return [claim.path for claim in claims_of(load(models(entry(**keys))))]


def clash(*entries: str) -> str:
    """The only problem of two models, reported at the second; it names the first."""
    found = problems(models(*entries))
    assert len(found) == 1, found
    assert found[0].startswith("4:5: ")
    assert "line 3)" in found[0]
    return found[0]


def fine(*entries: str) -> bool:
    return problems(models(*entries)) == []


def image(name: str, source: str = "hf://a/b/x.safetensors", kind: str = "vae", **keys: str) -> str:
    return entry(name, kind=kind, source=source, **({"_for": "[comfyui]"} | keys))


def snapshot(name: str, source: str = f"hf://a/b@{COMMIT}", consumer: str = "whisper", **keys: str) -> str:
    return entry(name, kind="snapshot", source=source, _for=f"[{consumer}]", **keys)


def placed(name: str, path: str, consumer: str = "comfyui", **keys: str) -> str:
    return entry(name, kind="file", source=f"https://h.example/{name}", path=path, _for=f"[{consumer}]", **keys)


def test_the_paths_that_a_model_requests() -> None:
    assert paths(kind="checkpoint", source="hf://a/b/c/x.safetensors", _for="[stable-diffusion, comfyui]") == [
        "stable-diffusion/models/Stable-diffusion/x.safetensors",
        "comfyui/models/checkpoints/x.safetensors",
    ]
    assert paths(kind="lora", source="civitai://1", _for="[comfyui]", filename="sub/y.safetensors") == [
        "comfyui/models/loras/sub/y.safetensors"
    ]
    assert paths(kind="lora", source="civitai://1", _for="[comfyui]") == []
    assert paths(source="ollama://hf.co/a/b:Q4", _for="[ollama]") == ["ollama/models/manifests/hf.co/a/b/Q4"]
    assert paths(kind="file", source="civitai://1", path="a/b", _for="[ollama]") == ["ollama/a/b"]
    assert paths(kind="whisper", source="https://h.example/base.pt", digest=DIGEST, _for="[whisper]") == [
        "whisper/openai/base.pt"
    ]
    assert paths(kind="snapshot", source="hf://a/b", _for="[diffrhythm, whisper]", cache_as="c") == [
        "diffrhythm/models--c",
        "whisper/hub/models--c",
    ]
    assert paths(kind="snapshot", source=f"hf://a/b@{COMMIT}", _for="[whisper]", files="[{path: c/d}]") == [
        "whisper/hub/models--a--b",
        f"whisper/hub/models--a--b/snapshots/{COMMIT}/c/d",
    ]
    assert paths(kind="snapshot", source="hf://a/b", _for="[comfyui]", files="[{path: c/d}]") == [
        "comfyui/models/diffusers/b",
        "comfyui/models/diffusers/b/c/d",
    ]
    assert paths(kind="snapshot", source="hf://a/b", _for="[comfyui]", filename="n") == ["comfyui/models/diffusers/n"]


def test_two_models_that_want_one_path_are_refused() -> None:
    assert "found 'comfyui/models/vae/x.safetensors', which is already taken (a, line 3)" in clash(
        image("a"), image("b")
    )
    assert clash(image("a"), image("b", "https://h.example/x.safetensors?v=2"))
    assert clash(image("a"), image("b", "civitai://1", filename="x.safetensors"))
    assert clash(image("a"), placed("b", "models/vae/x.safetensors"))
    assert clash(placed("a", "x"), placed("b", "x"))


def test_two_models_with_the_same_file_at_one_path_are_refused() -> None:
    assert clash(image("a", digest=DIGEST), image("b", digest=DIGEST))


def test_kinds_conflict_only_in_folders_that_they_share() -> None:
    both = (
        image("a", kind="checkpoint", _for="[stable-diffusion, comfyui]"),
        image("b", kind="diffusion-model", _for="[stable-diffusion, comfyui]"),
    )
    assert "stable-diffusion/models/Stable-diffusion/x.safetensors" in clash(*both)
    assert fine(image("a"), image("b", kind="lora"))
    assert fine(image("a"), image("b", _for="[stable-diffusion]"))


def test_a_conflict_of_two_models_is_reported_once() -> None:
    assert clash(image("a", _for="[stable-diffusion, comfyui]"), image("b", _for="[stable-diffusion, comfyui]"))


def test_a_path_can_not_be_a_file_and_a_folder() -> None:
    assert "to be a folder, but that is a file" in clash(placed("a", "x"), placed("b", "x/y/z"))
    assert "to be a folder, but that is a file" in clash(placed("a", "x/y/z"), placed("b", "x"))
    assert clash(placed("a", "models/diffusers/b"), snapshot("b", consumer="comfyui"))
    assert clash(placed("a", "zip"), placed("b", "zip", unpack="zip"))
    assert clash(placed("a", "zip/x", unpack="zip"), placed("b", "zip"))
    assert fine(placed("a", "x"), placed("b", "xy"), placed("c", "x-y/z"))


def test_paths_that_differ_only_by_case_are_one_on_some_disks() -> None:
    assert "which differs from 'comfyui/models/vae/x.safetensors' only by case" in clash(
        image("a"), image("b", filename="X.SafeTensors")
    )
    assert clash(placed("a", "caf\u00e9"), placed("b", "cafe\u0301"))
    assert clash(placed("a", "X"), placed("b", "x/y"))
    assert clash(snapshot("a"), snapshot("b", f"hf://A/b@{COMMIT}"))
    assert clash(snapshot("a", consumer="comfyui"), snapshot("b", "hf://a/B", consumer="comfyui"))
    assert clash(
        entry("a", source="ollama://Llama:3b", _for="[ollama]"), entry("b", source="ollama://llama:3b", _for="[ollama]")
    )
    assert fine(placed("a", "Models/x"), placed("b", "models/y"))


def test_one_tag_of_ollama_is_wanted_once_however_it_is_written() -> None:
    assert clash(
        entry("a", source="ollama://x", _for="[ollama]"),
        entry("b", source="ollama://registry.ollama.ai/library/x:latest", _for="[ollama]"),
    )
    assert fine(entry("a", source="ollama://x:1", _for="[ollama]"), entry("b", source="ollama://x:2", _for="[ollama]"))


def test_archives_may_be_unpacked_into_one_folder() -> None:
    assert fine(
        placed("a", "nltk_data/t", unpack="zip"), placed("b", "nltk_data/t", unpack="zip"), placed("c", "nltk_data/t/x")
    )


def test_two_commits_of_one_repo_in_one_cache_are_refused() -> None:
    assert f"the folder of another commit, {COMMIT}" in clash(snapshot("a"), snapshot("b", f"hf://a/b@{OTHER_COMMIT}"))
    assert fine(snapshot("a"), snapshot("b", f"hf://a/b@{OTHER_COMMIT}", "diffrhythm"))
    assert fine(snapshot("a"), snapshot("b", f"hf://a/c@{OTHER_COMMIT}"))


def test_every_pair_of_models_in_one_cache_is_compared() -> None:
    found = problems(models(snapshot("a", "hf://a/b"), snapshot("b"), snapshot("c", f"hf://a/b@{OTHER_COMMIT}")))
    assert [line.partition(":")[0] for line in found] == ["5"]


def test_two_models_may_request_parts_of_one_commit() -> None:
    assert fine(snapshot("a", include="['*.json']"), snapshot("b"))
    assert fine(snapshot("a", files="[{path: x}, {path: y}]"), snapshot("b", files="[{path: x}, {path: z}]"))
    assert fine(
        snapshot("a", files=f"[{{path: x, digest: {DIGEST}}}]"), snapshot("b", files=f"[{{path: x, digest: {DIGEST}}}]")
    )


def test_two_models_with_different_digests_for_one_file_are_refused() -> None:
    other = f"sha256:{SHA[::-1]}"
    assert clash(
        snapshot("a", files=f"[{{path: x, digest: {DIGEST}}}]"), snapshot("b", files=f"[{{path: x, digest: {other}}}]")
    )


def test_a_revision_by_name_may_turn_out_to_be_the_same_commit() -> None:
    assert fine(snapshot("a", "hf://a/b"), snapshot("b", f"hf://a/b@{COMMIT}"), snapshot("c", "hf://a/b@v1"))


def test_two_repos_can_not_share_a_cache_folder() -> None:
    assert "the folder of another repo, a/b" in clash(
        snapshot("a", "hf://a/b"), snapshot("b", "hf://c/d", cache_as="a/b")
    )
    assert fine(snapshot("a"), snapshot("b", f"hf://c/d@{COMMIT}", cache_as="a/b"))


@each(
    "path",
    [
        "hub/models--a--b/x",
        "hub/models--a--b",
        f"hub/models--a--b/snapshots/{COMMIT}/x",
        "hub/models--A--b/refs/main",
        "hub",
    ],
)
def test_a_file_inside_a_models_cache_folder_is_a_conflict(path: str) -> None:
    assert clash(snapshot("a"), placed("b", path, "whisper"))
    assert clash(placed("a", path, "whisper"), snapshot("b"))


def test_a_hub_cache_may_contain_other_files() -> None:
    assert fine(snapshot("a"), placed("b", "hub/models--a--c/x", "whisper"), placed("c", "hub/version.txt", "whisper"))
    assert fine(snapshot("a", consumer="diffrhythm"), placed("b", "x", "diffrhythm"))


def test_two_repos_of_one_name_can_not_share_a_plain_folder() -> None:
    one, other = snapshot("a", "hf://a/sdxl", "comfyui"), snapshot("b", "hf://b/sdxl", "comfyui")
    assert "found 'comfyui/models/diffusers/sdxl', the folder of another repo, a/sdxl" in clash(one, other)
    assert fine(one, snapshot("b", "hf://b/sdxl", "comfyui", filename="other"))
    assert fine(
        snapshot("a", consumer="comfyui", include="['x/*']"), snapshot("b", consumer="comfyui", include="['y/*']")
    )
    assert clash(snapshot("a", consumer="comfyui"), snapshot("b", f"hf://a/b@{OTHER_COMMIT}", "comfyui"))


def test_a_file_that_a_plain_snapshot_lacks_may_be_placed_in_its_folder() -> None:
    assert fine(snapshot("a", consumer="comfyui", files="[{path: x}]"), placed("b", "models/diffusers/b/y"))
    assert clash(snapshot("a", consumer="comfyui", files="[{path: x}]"), placed("b", "models/diffusers/b/x"))


def claim(path: str, manifest: str = "m", model: str = "a", line: int = 1, **keys: Any) -> PathClaim:
    return PathClaim(
        path=path,
        model=model,
        manifest=manifest,
        position=Position(file=manifest, line=line, column=1),
        **({"source": "s"} | keys),
    )


def test_two_manifests_may_request_the_same_file() -> None:
    assert find_clashes([claim("x"), claim("x", "n")]) == ()
    assert find_clashes([claim("x", digest="d", source="s"), claim("x", "n", digest="d", source="t")]) == ()
    assert find_clashes([claim("x", digest="d"), claim("x", "n")]) == ()


def test_two_manifests_with_different_files_at_one_path_are_refused() -> None:
    (problem,) = find_clashes([claim("x", line=7), claim("x", "n", "b", 9, source="t")])
    assert str(problem) == "n:9:1: b: expected an unused path, found 'x', which is already taken (a, m:7:1)"
    assert len(find_clashes([claim("x", digest="d"), claim("x", "n", digest="e")])) == 1
    assert len(find_clashes([claim("x"), claim("x", "n", digest="d"), claim("x", "o", digest="e")])) == 1


def test_models_of_one_manifest_may_share_blobs() -> None:
    blob = claim("ollama/models/blobs/sha256-1", digest="1", shared=True)
    assert find_clashes([blob, blob]) == ()
    assert len(find_clashes([blob, claim(blob.path, digest="1")])) == 1


def test_many_claims_are_compared_fast() -> None:
    many = [claim(f"c/d{i % 100}/e/f{i}", model=str(i), line=i + 1) for i in range(20_000)]
    assert find_clashes([*many, claim("c", shape=Shape.FOLDER)]) == ()
    assert len(find_clashes([*many, claim("c/d1", model="z")])) == 1


def test_addresses_whose_files_only_the_server_names_do_not_clash() -> None:
    assert fine(image("a", "https://h.example/a/download"), image("b", "https://h.example/b/download"))
    assert fine(image("a", "https://h.example/models/1"), image("b", "https://h.example/models/1?fileId=2"))
    assert clash(image("a", "https://h.example/a/x.safetensors"), image("b", "https://h.example/b/x.safetensors"))
