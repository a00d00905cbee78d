"""`pin` writes the pins from upstream into the file, and nothing else."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from modelfetch import Digest, load_manifest
from modelfetch.demo import BytesBody
from modelfetch.demo import models as made
from modelfetch.demo.world import CivitaiFile
from modelfetch.manifest.model import FileSpec
from modelfetch.pipeline.plan import require_digests, select
from tests.pinning.conftest import LORA, UPSCALER, VAE, sha256, size
from tests.sources.test_oci import ONE, layer, manifest, publish

if TYPE_CHECKING:
    from tests.pinning.conftest import PinBench

EVERYTHING = """\
    # A tier for tests: every comment stays.
    version: 1
    tier: test

    models:
      # the VAE
      - name: vae      # its name
        kind: vae
        source: hf://acme/art/art.safetensors   # from the hub
        license: mit

        for: [comfyui]
      - {name: lora, kind: lora, source: "hf://acme/art@dev/art.safetensors", filename: dev.safetensors, for: [comfyui]}
      - name: tiny
        source: ollama://tiny:1b
        for: [ollama]
      - name: style
        kind: embedding
        source: 'civitai://7'
        for: [ comfyui ]
      - name: snap
        kind: snapshot
        source: hf://acme/art
        include:       # only these
          - '*.json'   # settings
          - "sub/*"
        for: [comfyui]
      # the end
"""


def test_all_missing_pins_are_added_and_all_other_text_is_kept(bench: PinBench) -> None:
    bench.write(EVERYTHING)
    dev = bench.world.repos["acme/art"].refs["dev"]
    (ollama,) = bench.world.ollama.values()
    layers = [made.ollama_config(), *(content for _, content in made.ollama_layers())]
    result = bench.pin()
    assert result.code == 0, result.err
    inline = f"size: {size(LORA)}, digest: {sha256(LORA)}, filename: dev.safetensors"
    config = b'{"a": 1}'
    assert (
        bench.text
        == f"""\
# A tier for tests: every comment stays.
version: 1
tier: test

models:
  # the VAE
  - name: vae      # its name
    kind: vae
    source: hf://acme/art@{bench.commit()}/art.safetensors   # from the hub
    size: {size(VAE)}
    digest: {sha256(VAE)}
    license: mit

    for: [comfyui]
  - {{name: lora, kind: lora, source: "hf://acme/art@{dev}/art.safetensors", {inline}, for: [comfyui]}}
  - name: tiny
    source: ollama://tiny:1b
    size: {sum(len(layer) for layer in layers)}
    digest: {ollama.digest}
    for: [ollama]
  - name: style
    kind: embedding
    source: 'civitai://7'
    size: {size(LORA)}
    digest: {sha256(LORA)}
    for: [ comfyui ]
  - name: snap
    kind: snapshot
    source: hf://acme/art@{bench.commit()}
    files:
      # only these
      # settings
      - {{path: config.json, size: {len(config)}, digest: {sha256(config)}}}
      - {{path: sub/more.safetensors, size: {size(LORA)}, digest: {sha256(LORA)}}}
    for: [comfyui]
  # the end
"""
    )


def test_no_body_is_fetched_where_the_source_publishes_the_digest(bench: PinBench) -> None:
    bench.write(EVERYTHING.replace("'*.json'", "art*"))
    result = bench.pin()
    assert result.code == 0, result.err
    assert bench.bodies() == []
    assert result.report["bytes_fetched"] == 0
    assert {action for actions in result.actions().values() for action in actions} == {"would-fetch"}


def test_a_body_without_a_published_digest_is_fetched_once(bench: PinBench) -> None:
    bench.write(
        """\
        version: 1
        models:
          - {name: up, kind: upscaler, source: FILES/up.safetensors, for: [comfyui]}
          - {name: again, kind: upscaler, source: FILES/up.safetensors, filename: b.safetensors, for: [comfyui]}
          - {name: config, kind: file, source: hf://acme/art/config.json, path: config.json, for: [comfyui]}
        """
    )
    result = bench.pin()
    assert result.code == 0, result.err
    up, again, config = load_manifest(bench.file).models
    assert (up.size, str(up.digest)) == (again.size, str(again.digest)) == (size(UPSCALER), sha256(UPSCALER))
    assert (config.size, str(config.digest)) == (8, sha256(b'{"a": 1}'))
    assert result.report["bytes_fetched"] == size(UPSCALER) + 8
    assert result.actions()["up"] == result.actions()["config"] == ["fetched"]
    assert sum(e.sent for e in bench.hub.log.requests("*/up.safetensors", origin="files")) < 1.5 * size(UPSCALER)
    assert (bench.folder / "cache/.modelfetch/blobs").is_dir()


def test_a_pinned_file_sends_no_request_and_is_not_written_again(bench: PinBench) -> None:
    bench.write(EVERYTHING)
    assert bench.pin().code == 0
    text, before, mark = bench.text, bench.file.stat(), bench.hub.log.mark()
    result = bench.pin()
    after = bench.file.stat()
    assert (result.code, bench.text) == (0, text)
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert bench.hub.log.since(mark) == []
    assert result.report["requests"] == 0
    assert {action for actions in result.actions().values() for action in actions} == {"present"}


def test_pinning_a_pinned_manifest_needs_no_request(bench: PinBench) -> None:
    bench.write(EVERYTHING)
    assert bench.pin().code == 0
    assert bench.pin("--offline").code == 0
    bench.write(EVERYTHING)
    result = bench.pin("--offline")
    assert (result.code, set(result.codes())) == (69, {"offline"})
    assert len(result.codes()) == 5


def test_a_local_file_is_hashed_in_place(bench: PinBench) -> None:
    (bench.folder / "own.safetensors").write_bytes(VAE.read(0, VAE.size))
    bench.write(
        f"""\
        version: 1
        models:
          - name: own
            kind: vae
            source: file://{bench.folder}/own.safetensors
            for: [comfyui]
        """
    )
    result = bench.pin()
    assert result.code == 0, result.err
    (model,) = load_manifest(bench.file).models
    assert (model.size, str(model.digest)) == (size(VAE), sha256(VAE))
    assert not (bench.folder / "cache").exists()
    (bench.folder / "own.safetensors").write_bytes(b"<!DOCTYPE html><html>please log in</html>")
    bench.write(bench.text.split("    size")[0] + "    for: [comfyui]\n")
    result = bench.pin()
    assert (result.code, result.codes()) == (65, ["not-a-model"])


def test_the_file_keeps_its_line_ends_mark_mode_and_link(bench: PinBench) -> None:
    target = bench.folder / "elsewhere/real.yaml"
    target.parent.mkdir()
    text = "\ufeffversion: 1\r\nmodels:\r\n- name: vae\r\n  kind: vae\r\n"
    text += "  source: hf://acme/art/art.safetensors # é\r\n  for: [comfyui]"
    target.write_bytes(text.encode())
    target.chmod(0o640)
    bench.file.symlink_to(target)
    assert bench.pin().code == 0
    assert bench.file.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    pins = f"  size: {size(VAE)}\r\n  digest: {sha256(VAE)}\r\n"
    pinned = text.replace("art/art.", f"art@{bench.commit()}/art.").replace("  for:", pins + "  for:")
    assert target.read_bytes() == pinned.encode()
    assert sorted(p.name for p in target.parent.iterdir()) == ["real.yaml"]


def test_entries_of_a_base_manifest_are_not_pinned(bench: PinBench) -> None:
    base = bench.folder / "base.yaml"
    base.write_text(
        "version: 1\nmodels:\n"
        "- {name: base, kind: vae, source: hf://acme/art/art.safetensors, for: [comfyui]}\n"
        "- {name: other, kind: vae, source: hf://acme/art/sub/more.safetensors, for: [comfyui]}\n"
    )
    before = base.read_bytes()
    bench.write(
        """\
        version: 1
        extends: base.yaml
        models:
        - {name: other, kind: vae, source: hf://acme/art@dev/art.safetensors, filename: other.st, for: [comfyui]}
        """
    )
    result = bench.pin()
    assert result.code == 0, result.err
    assert base.read_bytes() == before
    assert list(result.actions()) == ["other"]
    assert bench.text.count("sha256:") == 1
    refused = bench.pin("--upgrade", "base")
    assert refused.code == 2
    assert "base.yaml" in refused.err


def test_partial_pins_are_completed_and_existing_ones_kept(bench: PinBench) -> None:
    bench.write(
        f"""\
        version: 1
        models:
          - name: vae
            kind: vae
            digest: "{sha256(VAE)}"
            source: hf://acme/art/art.safetensors
            for: [comfyui]
          - name: snap
            kind: snapshot
            source: hf://acme/art@v1
            files:
              - path: art.safetensors
                digest: {sha256(VAE).upper().replace("SHA256", "sha256")}
              - size: 8
                path: config.json
              - {{path: "sub/more.safetensors"}}
            for: [whisper]
        """
    )
    result = bench.pin()
    assert result.code == 0, result.err
    assert (
        bench.text
        == f"""\
version: 1
models:
  - name: vae
    kind: vae
    digest: "{sha256(VAE)}"
    source: hf://acme/art@{bench.commit()}/art.safetensors
    size: {size(VAE)}
    for: [comfyui]
  - name: snap
    kind: snapshot
    source: hf://acme/art@{bench.commit()}
    files:
      - path: art.safetensors
        size: {size(VAE)}
        digest: {sha256(VAE).upper().replace("SHA256", "sha256")}
      - size: 8
        digest: {sha256(b'{"a": 1}')}
        path: config.json
      - {{path: "sub/more.safetensors", size: {size(LORA)}, digest: {sha256(LORA)}}}
    for: [whisper]
"""
    )


def test_a_whole_repo_at_a_commit_gets_its_files_and_pickles_stay_a_matter_of_consent(bench: PinBench) -> None:
    bench.world.hf_repo("acme/dr", made.diffrhythm_cfm())
    entry = f"- name: dr\n  kind: snapshot\n  source: hf://acme/dr@{bench.commit('acme/dr')}\n  for: [diffrhythm]\n"
    bench.write("version: 1\nmodels:\n" + entry)
    before = bench.text
    result = bench.pin()
    assert (result.code, result.codes(), bench.text) == (65, ["pickle-not-allowed"], before)
    bench.write("version: 1\nmodels:\n" + entry.replace("  for", "  allow_pickle: true\n  for"))
    assert bench.pin().code == 0
    (model,) = load_manifest(bench.file).models
    assert model.files is not None
    assert [spec.path for spec in model.files] == ["README.md", "cfm_model.pt"]
    assert "  files:\n  - {path: README.md" in bench.text


def test_a_pickle_that_only_the_hub_names_is_a_matter_of_consent_too(bench: PinBench) -> None:
    bench.world.civitai_version(8, [CivitaiFile(id=80, name="old.pt", body=BytesBody(b"\x80\x02}q\x00."))])
    entry = "- name: old\n  kind: embedding\n  source: civitai://8\n  for: [comfyui]\n"
    before = bench.write("version: 1\nmodels:\n" + entry).read_text()
    for options in ((), ("--check",)):
        result = bench.pin(*options)
        assert (result.code, result.codes(), bench.text) == (65, ["pickle-not-allowed"], before)
    bench.write("version: 1\nmodels:\n" + entry.replace("  for", "  allow_pickle: true\n  for"))
    assert bench.pin().code == 0


def test_a_pasted_link_of_the_hub_gets_its_commit_and_its_digest(bench: PinBench) -> None:
    link = f"{bench.hub.endpoint}/acme/art/resolve/main/art.safetensors?download=true"
    bench.write(f"version: 1\nmodels:\n- name: vae\n  kind: vae\n  source: {link}\n  for: [comfyui]\n")
    assert bench.pin().code == 0
    assert bench.text.splitlines()[4] == f"  source: {link.replace('main', bench.commit())}"
    assert sha256(VAE) in bench.text
    assert bench.bodies() == []


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("hf://acme/art/art.safetensors", ("hf://acme/art@", "/art.safetensors")),
        ("hf://acme/art@v1/art.safetensors", ("hf://acme/art@", "/art.safetensors")),
        ("hf://acme/art@refs/pr/3/art.safetensors", ("hf://acme/art@", "/art.safetensors")),
        ("hf://acme/art@a%2Fb/art%2Esafetensors", ("hf://acme/art@", "/art%2Esafetensors")),
        ("HF://acme/art@SHORT/art.safetensors", ("HF://acme/art@", "/art.safetensors")),
    ],
)
def test_a_revision_of_any_form_becomes_a_commit(bench: PinBench, given: str, kept: tuple[str, str]) -> None:
    bench.world.repos["acme/art"].refs.update({"refs/pr/3": bench.commit(), "a/b": bench.commit()})
    given = given.replace("SHORT", bench.commit()[:9])
    bench.write(f"version: 1\nmodels:\n- {{name: vae, kind: vae, source: '{given}', for: [comfyui]}}\n")
    result = bench.pin()
    assert result.code == 0, result.err
    assert f"source: '{kept[0]}{bench.commit()}{kept[1]}'" in bench.text


def test_an_unknown_model_to_upgrade_is_2_and_78_in_a_variable(
    bench: PinBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write("{version: 1, models: []}")
    assert bench.pin("--upgrade", "vae").code == 2
    monkeypatch.setenv("MODELFETCH_PIN_UPGRADE", "vae")
    result = bench.pin()
    assert (result.code, result.codes()) == (78, ["invalid-setting"])
    assert f"MODELFETCH_PIN_UPGRADE: {bench.file} holds no model 'vae'" in result.err


def test_upgrade_moves_the_pins_of_the_models_that_it_names(bench: PinBench) -> None:
    own = bench.folder / "own.json"
    own.write_bytes(b"[1]")
    bench.write(
        EVERYTHING
        + "      - {name: up, kind: upscaler, source: FILES/up.safetensors, for: [comfyui]}\n"
        + f"      - {{name: own, kind: file, path: own.json, source: 'file://{own}', for: [comfyui]}}\n"
    )
    assert bench.pin().code == 0
    before = load_manifest(bench.file).models
    old = bench.commit()
    repo = bench.world.repos["acme/art"]
    repo.commit({"art.safetensors": UPSCALER, "config.json": b"[]", "sub/more.safetensors": LORA, "new.json": b"{}"})
    bench.world.ollama_model("tiny:1b", [("model", made.llama())], config=made.ollama_config())
    bench.world.file("up.safetensors", VAE)
    own.write_bytes(b"[1, 2]")
    assert bench.pin().report["requests"] == 0

    result = bench.pin("--upgrade", "vae", "--upgrade", "up", "--upgrade", "own")
    assert result.code == 0, result.err
    vae, lora, tiny, style, snap, up, mine = load_manifest(bench.file).models
    assert (vae.size, str(vae.digest), vae.source.text) == (
        size(UPSCALER),
        sha256(UPSCALER),
        f"hf://acme/art@{bench.commit()}/art.safetensors",
    )
    assert (up.size, str(up.digest)) == (size(VAE), sha256(VAE))
    assert (mine.size, str(mine.digest)) == (6, sha256(b"[1, 2]"))
    untouched = {m.name: (m.source, m.digest, m.files) for m in before}
    assert all(untouched[m.name] == (m.source, m.digest, m.files) for m in (lora, tiny, style, snap))
    assert old != bench.commit()

    assert bench.pin("--upgrade", "snap", "--upgrade", "tiny").code == 0
    _, _, tiny, _, snap, _, _ = load_manifest(bench.file).models
    (ollama,) = bench.world.ollama.values()
    assert str(tiny.digest) == ollama.digest
    assert snap.files == (
        FileSpec(path="config.json", size=2, digest=Digest.sha256(b"[]")),
        FileSpec(path="sub/more.safetensors", size=size(LORA), digest=Digest.parse(sha256(LORA))),
    )
    text = bench.text
    assert bench.pin("--upgrade", "snap", "--upgrade", "tiny").code == 0
    assert bench.text == text


@pytest.mark.parametrize("chosen", ["", "files: [{path: checkpoints/tiny.safetensors}], "])
def test_an_oci_tag_is_kept_and_its_file_pinned(bench: PinBench, chosen: str) -> None:
    uri = "oci://" + bench.hub.ollama.removeprefix("http://") + "/fleet/tiny:v1"
    publish(bench.hub, ONE)
    bench.write(f"version: 1\nmodels:\n- {{name: o, kind: vae, source: '{uri}', {chosen}for: [comfyui]}}\n")
    assert bench.pin().code == 0
    manifest_now = load_manifest(bench.file)
    (model,) = manifest_now.models
    assert (model.source.text, model.size, str(model.digest)) == (uri, 88, sha256(b"w" * 88))
    assert require_digests(select([manifest_now], ())) == ()
    assert bench.pin().report["requests"] == 0
    assert bench.pin("--check").code == 0
    publish(bench.hub, manifest(layer(b"v" * 88, "checkpoints/tiny.safetensors")))
    result = bench.pin("--check")
    assert (result.code, result.actions()) == (1, {"o": ["changed"]})
    assert bench.pin("--upgrade", "o").code == 0
    assert str(load_manifest(bench.file).models[0].digest) == sha256(b"v" * 88)
    assert bench.pin("--check").code == 0
    assert bench.bodies() == []


def test_the_text_lists_the_pins_and_the_report_has_the_documented_keys(bench: PinBench) -> None:
    bench.write(EVERYTHING)
    result = bench.pin(as_json=False)
    assert result.out.splitlines()[0].split() == ["MODEL", "DONE", "BEFORE", "NOW"]
    assert result.out.splitlines()[1].split() == ["vae", "pinned", "-", bench.commit()[:12]]
    assert ": 5 models pinned\n" in result.err
    assert set(bench.pin().report) == {
        *("ok", "exit_code", "tier", "root", "seconds", "bytes_fetched", "requests", "models", "errors")
    }
