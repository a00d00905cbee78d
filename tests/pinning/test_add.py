"""`modelfetch add`: from a link to a pinned entry."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import modelfetch
from modelfetch.cli.app import run
from modelfetch.cli.commands.add import _choose
from modelfetch.demo import models as made
from modelfetch.demo.world import CivitaiFile
from modelfetch.tiers.loader import load_manifest
from tests.cases import first
from tests.pinning.conftest import LORA, UPSCALER, VAE, Result, sha256, size

if TYPE_CHECKING:
    from tests.pinning.conftest import PinBench

EMPTY = "# mine\nversion: 1\nmodels: []  # none yet\n"


def add(bench: PinBench, *words: str, as_json: bool = True) -> Result:
    bench.capsys.readouterr()
    code = run(["add", *words, "--retries", "1", *(["--json"] if as_json else [])])
    out, err = bench.capsys.readouterr()
    return Result(code, out, err, json.loads(out) if as_json else {})


def entries(bench: PinBench) -> list[modelfetch.Model]:
    return list(load_manifest(bench.folder / "models.yaml").models)


def test_a_link_makes_a_manifest_with_its_schema(bench: PinBench) -> None:
    bench.world.repos["acme/art"].license = "apache-2.0"
    result = add(bench, "hf://acme/art/sub/more.safetensors")
    assert result.code == 0
    text = (bench.folder / "models.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=manifest.schema.json\nversion: 1\n")
    assert json.loads((bench.folder / "manifest.schema.json").read_text())["$schema"]
    (model,) = entries(bench)
    assert (model.name, model.kind, model.license) == ("more", "lora", "apache-2.0")
    assert str(model.source) == f"hf://acme/art@{bench.commit()}/sub/more.safetensors"
    assert (str(model.digest), model.size) == (sha256(LORA), size(LORA))
    assert model.consumers == ("stable-diffusion", "comfyui")


def test_only_the_header_is_read_where_the_hub_gives_size_and_digest(bench: PinBench) -> None:
    head = b'{"x.lora_up.weight":{"dtype":"U8","shape":[30000000],"data_offsets":[0,30000000]}}'
    bench.world.hf_repo("acme/big", {"x.safetensors": len(head).to_bytes(8, "little") + head + bytes(30_000_000)})
    mark = bench.hub.log.mark()
    assert add(bench, "hf://acme/big/x.safetensors").code == 0
    assert entries(bench)[0].kind == "lora"
    assert sum(one.sent for one in bench.hub.log.since(mark)) < 2_000_000


def test_the_report_has_the_detected_entry_and_its_fit(bench: PinBench) -> None:
    bench.world.file("big.safetensors", made.checkpoint())
    result = add(bench, f"{bench.hub.files}big.safetensors", "--dry-run")
    (model,) = result.report["models"]
    assert (model["kind"], model["family"], model["added"]) == ("checkpoint", "sd15", True)
    assert model["fit"]["needed"] > 0
    assert not (bench.folder / "models.yaml").exists()
    shown = add(bench, f"{bench.hub.files}big.safetensors", "--dry-run", as_json=False)
    assert "sd15" in shown.out
    assert "- name: big" in shown.out
    assert "would be added" in shown.err


def test_an_unknown_need_is_not_called_too_large(bench: PinBench) -> None:
    head = b'{"first_stage_model.x":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},'
    head += b'"model.diffusion_model.x":{"dtype":"U8","shape":[8],"data_offsets":[8,16]}}'
    bench.world.file("odd.safetensors", len(head).to_bytes(8, "little") + head + bytes(16))
    shown = add(bench, f"{bench.hub.files}odd.safetensors", "--dry-run", as_json=False)
    assert "unknown (over " in shown.out
    assert "does not fit" not in shown.out


def test_a_model_of_ollama_is_shown_with_the_size_of_its_layers(bench: PinBench) -> None:
    (model,) = add(bench, "ollama://tiny:1b", "--dry-run").report["models"]
    assert model["size"] > 0


def test_add_writes_the_same_pins_as_pin(bench: PinBench) -> None:
    links = ("ollama://tiny:1b", "civitai://7", f"{bench.hub.files}up.safetensors")
    assert add(bench, *links).code == 0
    tiny, style, up = entries(bench)
    assert (tiny.kind, tiny.consumers, tiny.name) == (None, ("ollama",), "tiny-1b")
    assert tiny.digest is not None
    assert (style.kind, str(style.digest)) == ("lora", sha256(LORA))
    assert (up.kind, str(up.digest), up.size) == ("upscaler", sha256(UPSCALER), size(UPSCALER))
    assert bench.pin("--check", file=bench.folder / "models.yaml").code in (0, 1)
    before = (bench.folder / "models.yaml").read_bytes()
    assert bench.pin(file=bench.folder / "models.yaml").code == 0
    assert (bench.folder / "models.yaml").read_bytes() == before


def test_an_address_is_written_without_its_credential_and_with_what_finds_the_file(bench: PinBench) -> None:
    link = f"{bench.hub.files}up.safetensors?variant=a-name-of-some-length&token=planted-Secret-0123456789"
    assert add(bench, link).code == 0
    text = (bench.folder / "models.yaml").read_text()
    assert "up.safetensors?variant=a-name-of-some-length" in text
    assert "planted" not in text
    assert "redacted" not in text
    before = text
    assert add(bench, link).code == 0
    assert (bench.folder / "models.yaml").read_text() == before


def test_comments_and_layout_of_a_manifest_are_kept(bench: PinBench) -> None:
    (bench.folder / "models.yaml").write_text(EMPTY + "x-end: 1\n")
    assert add(bench, "hf://acme/art/art.safetensors", "--name", "my vae").code == 0
    text = (bench.folder / "models.yaml").read_text()
    assert text.startswith("# mine\nversion: 1\nmodels:")
    assert text.endswith("x-end: 1\n")
    assert "# none yet" in text
    assert [model.name for model in entries(bench)] == ["my vae"]


def test_a_link_that_is_there_already_changes_nothing(bench: PinBench) -> None:
    assert add(bench, "hf://acme/art/art.safetensors").code == 0
    before = (bench.folder / "models.yaml").read_bytes()
    result = add(bench, "hf://acme/art/art.safetensors")
    assert (result.code, [m["added"] for m in result.report["models"]]) == (0, [False])
    assert (bench.folder / "models.yaml").read_bytes() == before
    assert not result.report["written"]


def test_a_choice_that_the_entry_contradicts_is_reported_as_ignored(bench: PinBench) -> None:
    assert add(bench, "hf://acme/art/art.safetensors", "--name", "mine").code == 0
    again = ("hf://acme/art/art.safetensors", "--name", "other", "--for", "comfyui")
    result = add(bench, *again, as_json=False)
    assert result.code == 0
    assert "--name other was ignored: models.yaml:4:5 has this link as 'mine'" in result.err
    assert "--for comfyui was ignored: models.yaml:4:5" in result.err
    assert "was ignored" not in add(bench, "hf://acme/art/art.safetensors", "--name", "mine", as_json=False).err


@pytest.mark.parametrize(
    "link",
    [
        "https://huggingface.co/acme/art/blob/main/art.safetensors",
        "huggingface.co/acme/art/resolve/main/art.safetensors?download=true",
        "hf.co/acme/art/blob/v1/art.safetensors",
        "hf download acme/art art.safetensors",
    ],
)
def test_the_link_of_a_file_page_is_read_as_the_file(bench: PinBench, link: str) -> None:
    assert add(bench, link).code == 0
    (model,) = entries(bench)
    assert str(model.source) == f"hf://acme/art@{bench.commit()}/art.safetensors"
    assert [m["added"] for m in add(bench, "hf://acme/art@main/art.safetensors").report["models"]] == [False]


@pytest.mark.parametrize(
    "page",
    first(
        2,
        [
            "/acme/art/resolve/main/art.safetensors?download=true&token=SECRET",
            "/acme/one",
            "/acme/art/blob/v1/art.safetensors",
            "/acme/one/tree/main",
        ],
    ),
)
def test_a_page_of_the_configured_endpoint_is_written_as_its_hub_s_uri(bench: PinBench, page: str) -> None:
    bench.world.hf_repo("acme/one", {"one.safetensors": VAE})
    result = add(bench, bench.hub.endpoint.replace("http:", "HTTP:") + page, "--kind", "vae", "--for", "comfyui")
    assert result.code == 0, result.err
    (model,) = entries(bench)
    repo = page[1:].partition("/")[2].partition("/")[0]
    assert str(model.source) == f"hf://acme/{repo}@{bench.commit(f'acme/{repo}')}/{repo}.safetensors"
    assert "SECRET" not in result.out + result.err


def test_a_prompt_accepts_a_number_or_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    for answer in ("2\n", "lora\n", "nonsense\n2\n"):
        with CliRunner().isolation(input=answer):
            assert _choose("What kind?", ["vae", "lora"]) == "lora"


def test_a_chosen_name_that_is_taken_is_refused_with_a_free_one(bench: PinBench) -> None:
    assert add(bench, "ollama://tiny:1b", "--name", "mine").code == 0
    result = add(bench, "hf://acme/art/art.safetensors", "--name", "mine")
    assert (result.code, result.report["errors"][0]["hint"]) == (2, "add --name mine-2")


def test_names_are_made_unique(bench: PinBench) -> None:
    bench.world.file("art.safetensors", UPSCALER)
    assert add(bench, "hf://acme/art/art.safetensors", f"{bench.hub.files}art.safetensors").code == 0
    assert [model.name for model in entries(bench)] == ["art", "art-2"]


def test_a_ctranslate2_repo_is_a_snapshot_for_whisper(bench: PinBench) -> None:
    bench.world.hf_repo("acme/faster-whisper-tiny", made.faster_whisper())
    assert add(bench, "hf://acme/faster-whisper-tiny").code == 0
    (model,) = entries(bench)
    assert (model.kind, model.consumers) == ("snapshot", ("whisper",))
    assert model.files is not None
    assert all(spec.digest is not None and spec.size is not None for spec in model.files)


def test_a_repo_of_several_files_names_them(bench: PinBench) -> None:
    result = add(bench, "hf://acme/art")
    assert (result.code, result.codes()) == (2, ["usage"])
    hint = result.report["errors"][0]["hint"]
    assert hint.startswith("for one of them: modelfetch add hf://acme/art/art.safetensors (the others: hf://acme/art/")
    assert not (bench.folder / "models.yaml").exists()


def test_an_undetected_kind_fails_with_the_choices_unless_given(bench: PinBench) -> None:
    bench.world.file("x.pth", made.openai_whisper())
    link = f"{bench.hub.files}x.pth"
    result = add(bench, link)
    assert (result.code, result.codes()) == (2, ["usage"])
    assert "--kind, one of checkpoint" in result.report["errors"][0]["hint"]
    assert add(bench, link, "--kind", "upscaler", "--for", "comfyui").code == 0
    (model,) = entries(bench)
    assert (model.kind, model.consumers, model.allow_pickle) == ("upscaler", ("comfyui",), False)
    assert model.digest is not None


def test_an_undetected_kind_is_prompted_for_on_a_terminal(bench: PinBench) -> None:
    bench.world.file("x.pth", made.openai_whisper())
    asked: list[tuple[str, int]] = []

    def choose(question: str, choices: Any) -> str:
        asked.append((question, len(choices)))
        return str(choices[0])

    report = modelfetch.add([f"{bench.hub.files}x.pth", "hf://acme/art"], choose=choose, retries=1)
    assert report.ok, report.errors
    assert [question for question, _ in asked] == [
        f"What kind of model is {bench.hub.files}x.pth?",
        "Which file of acme/art?",
    ]
    assert [one.model.kind for one in report.added] == ["checkpoint", "vae"]


def test_a_language_model_of_the_hub_gets_the_line_to_type(bench: PinBench) -> None:
    bench.world.hf_repo("acme/tiny-GGUF", {"tiny-Q4_K_M.gguf": made.llama()})
    result = add(bench, "hf://acme/tiny-GGUF/tiny-Q4_K_M.gguf")
    assert result.codes() == ["usage"]
    assert result.report["errors"][0]["hint"] == "modelfetch add ollama://hf.co/acme/tiny-GGUF:Q4_K_M"


@pytest.mark.parametrize(
    ("words", "code", "slug"),
    [
        (["hf://acme/art/gone.safetensors"], 66, "not-found"),
        (["hf://acme/art/art.safetensors", "--kind", "chekpoint"], 2, "usage"),
        (["hf://acme/art/art.safetensors", "--for", "comfy"], 2, "usage"),
        (["hf://acme/art/art.safetensors", "ollama://tiny:1b", "--name", "x"], 2, "usage"),
        (["what is this"], 2, "usage"),
        (["hf://acme/art/art.safetensors", "--kind", "vae", "--for", "whisper"], 2, "usage"),
        (["hf://acme/art/art.safetensors", "--for", "ollama"], 2, "usage"),
        (["ollama://tiny:1b", "--kind", "vae"], 2, "usage"),
    ],
)
def test_a_failure_writes_nothing(bench: PinBench, words: list[str], code: int, slug: str) -> None:
    result = add(bench, *words)
    assert (result.code, result.codes()) == (code, [slug])
    assert not (bench.folder / "models.yaml").exists()
    (bench.folder / "models.yaml").write_text(EMPTY)
    assert add(bench, "ollama://tiny:1b", *words).code != 0
    assert (bench.folder / "models.yaml").read_text() == EMPTY


def test_a_full_disk_leaves_no_part_of_a_manifest(bench: PinBench, monkeypatch: pytest.MonkeyPatch) -> None:
    open_path = Path.open

    class FullDisk(io.BytesIO):
        def write(self, _data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open_full(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        opened = open_path(self, mode, *args, **options)
        if mode != "xb":
            return opened
        opened.close()
        return FullDisk()

    monkeypatch.setattr(Path, "open", open_full)
    assert add(bench, "ollama://tiny:1b").code == 74
    assert not (bench.folder / "models.yaml").exists()


@pytest.mark.parametrize("body", [b"404: Not Found", b"<html></html>", b"{}"])
def test_a_file_that_is_not_a_model_is_not_added(bench: PinBench, body: bytes) -> None:
    bench.world.file("x.safetensors", body)
    assert add(bench, f"{bench.hub.files}x.safetensors").codes() == ["not-a-model"]
    assert not (bench.folder / "models.yaml").exists()


def test_the_error_names_the_file_that_is_no_model(bench: PinBench) -> None:
    bench.world.hf_repo("acme/text", {"README.md": b"# A model, described in a few words"})
    result = add(bench, "hf://acme/text/README.md")
    assert result.codes() == ["not-a-model"]
    assert "error: README.md: not a safetensors file" in result.err


@pytest.mark.parametrize(
    ("words", "kinds"), [(["--for", "whisper"], "torch-checkpoint, whisper\n"), ([], "checkpoint, diffusion-model, ")]
)
def test_an_unknown_kind_is_one_that_the_chosen_services_load(bench: PinBench, words: list[str], kinds: str) -> None:
    bench.world.file("x.pth", b"PK\x03\x04" + bytes(64))
    result = add(bench, f"{bench.hub.files}x.pth", *words)
    assert result.code == 2
    assert f"add --kind, one of {kinds}" in result.err


def test_two_models_that_want_one_path_are_refused(bench: PinBench) -> None:
    bench.world.hf_repo("acme/other", {"art.safetensors": made.vae()})
    assert add(bench, "hf://acme/art/art.safetensors").code == 0
    before = (bench.folder / "models.yaml").read_bytes()
    result = add(bench, "hf://acme/other/art.safetensors")
    assert (result.code, result.codes()) == (78, ["invalid-manifest"])
    assert (bench.folder / "models.yaml").read_bytes() == before


def test_an_added_entry_can_be_synced(bench: PinBench) -> None:
    bench.world.civitai_version(9, [CivitaiFile(id=90, name="v.safetensors", body=VAE)])
    assert add(bench, "civitai://9", "ollama://tiny:1b", f"{bench.hub.files}up.safetensors").code == 0
    assert run(["sync", "models.yaml", "--root", str(bench.folder / "ai"), "--progress", "none"]) == 0
    assert (bench.folder / "ai/comfyui/models/vae/v.safetensors").is_file()
