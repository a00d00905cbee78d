"""`pin --check` compares pins with upstream: nothing is written, no body is fetched."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.demo import models as made
from tests.faults import Status
from tests.pinning.conftest import LORA, UPSCALER, VAE, sha256, size
from tests.pinning.test_run import EVERYTHING

if TYPE_CHECKING:
    from tests.pinning.conftest import PinBench, Result

WITH_A_BODY = EVERYTHING + "      - {name: up, kind: upscaler, source: FILES/up.safetensors, for: [comfyui]}\n"

PLAIN = """\
version: 1
models:
- {name: a, kind: file, path: a, source: 'hf://acme/plain/a.json', for: [comfyui]}
"""


def pinned(bench: PinBench, text: str = WITH_A_BODY) -> None:
    bench.write(text)
    result = bench.pin()
    assert result.code == 0, result.err
    bench.hub.log.clear()


def states(bench: PinBench, *options: str) -> tuple[int, dict[str, str]]:
    before = bench.file.read_bytes()
    result = bench.pin("--check", *options, as_json=False)
    assert bench.file.read_bytes() == before
    assert bench.bodies() == []
    head, *rows = (line.split() for line in result.out.splitlines())
    assert head == ["MODEL", "STATE", "PINNED", "UPSTREAM"]
    return result.code, {row[0]: row[1] for row in rows}


def test_pins_that_match_upstream_are_current_and_those_of_web_servers_unknown(bench: PinBench) -> None:
    pinned(bench)
    found = dict.fromkeys(("vae", "tiny", "style", "snap"), "current") | {"up": "unknown", "lora": "behind"}
    assert states(bench) == (1, found)
    pinned(bench, WITH_A_BODY.replace("@dev", ""))
    assert states(bench) == (0, found | {"lora": "current"})
    assert bench.hub.log.requests("*", origin="civitai") == []
    assert bench.hub.log.requests("*", origin="files") == []


def test_a_file_that_moved_at_main_is_behind_and_a_commit_that_left_it_alone_is_not(bench: PinBench) -> None:
    pinned(bench)
    repo = bench.world.repos["acme/art"]
    files: dict[str, Any] = {"art.safetensors": LORA, "config.json": b'{"a": 1}', "sub/more.safetensors": LORA}
    repo.commit({**files, "README.md": b"# new"})
    code, found = states(bench)
    assert (code, found["vae"], found["snap"], found["lora"]) == (1, "behind", "current", "current")
    repo.commit({**files, "config.json": b'{"b": 2}'})
    assert states(bench)[1]["snap"] == "behind"


def test_the_hint_has_the_command_that_brings_the_pins_up_to_date(bench: PinBench) -> None:
    pinned(bench)
    err = bench.pin("--check", as_json=False).err
    assert f"hint: `modelfetch pin {bench.file} --upgrade lora` updates" in err
    pinned(bench, WITH_A_BODY.replace("@dev", ""))
    assert "hint" not in bench.pin("--check", as_json=False).err


def test_the_report_has_the_upstream_values(bench: PinBench) -> None:
    pinned(bench)
    bench.world.repos["acme/art"].commit(
        {"art.safetensors": UPSCALER, "config.json": b"[]", "sub/more.safetensors": LORA}
    )
    result = bench.pin("--check")
    (vae,) = result.report["models"][0]["artifacts"]
    assert vae["uri"] == f"hf://acme/art@{bench.commit()}/art.safetensors"
    assert (vae["digest"], vae["size"], vae["action"]) == (sha256(UPSCALER), size(UPSCALER), "changed")
    (snap,) = result.report["models"][4]["artifacts"]
    assert (snap["uri"], snap["action"]) == (f"hf://acme/art@{bench.commit()}", "changed")
    assert result.report["exit_code"] == result.code == 1
    assert result.report["ok"] is False
    assert result.report["errors"] == []
    assert result.actions() == {
        "vae": ["changed"],
        "lora": ["changed"],
        "tiny": ["present"],
        "style": ["present"],
        "snap": ["changed"],
        "up": ["skipped"],
    }


def test_an_ollama_tag_that_moved_is_behind(bench: PinBench) -> None:
    pinned(bench)
    assert states(bench)[1]["tiny"] == "current"
    bench.world.ollama_model("tiny:1b", [("model", made.llama())], config=made.ollama_config())
    assert states(bench)[1]["tiny"] == "behind"


def test_a_tag_that_names_a_list_is_current_while_the_pinned_manifest_is_in_it(bench: PinBench) -> None:
    pinned(bench)
    (model,) = bench.world.ollama.values()
    other = bench.world.ollama_model("other:1", [("model", made.llama())], config=made.ollama_config())
    media_type = "application/vnd.docker.distribution.manifest.v2+json"
    for name, one in (("tiny:" + other.digest, other), ("tiny:" + model.digest, model)):
        bench.world.ollama[f"library/{name}"] = one
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
        "manifests": [
            {"mediaType": media_type, "digest": one.digest, "size": len(one.manifest)} for one in (other, model)
        ],
    }
    bench.world.ollama_manifest("tiny:1b", json.dumps(index).encode(), [])
    assert states(bench)[1]["tiny"] == "current"
    index["manifests"] = index["manifests"][:1]  # type: ignore[index]
    bench.world.ollama_manifest("tiny:1b", json.dumps(index).encode(), [])
    assert states(bench)[1]["tiny"] == "behind"


def test_unpinned_entries_are_listed_with_upstream_values(bench: PinBench) -> None:
    bench.write(WITH_A_BODY)
    code, found = states(bench)
    assert (code, set(found.values())) == (1, {"unpinned"})
    result = bench.pin("--check", as_json=False)
    assert result.out.splitlines()[1].split() == ["vae", "unpinned", "-", bench.commit()[:12]]
    assert result.out.splitlines()[6].split() == ["up", "unpinned", "-", "unknown"]
    assert {a for actions in bench.pin("--check").actions().values() for a in actions} == {"missing"}


def test_an_offline_check_sends_no_request_and_fails_only_for_unpinned_entries(bench: PinBench) -> None:
    pinned(bench)
    code, found = states(bench, "--offline")
    assert (code, found["vae"], found["style"], found["up"]) == (0, "unknown", "current", "unknown")
    bench.file.write_bytes(
        bench.file.read_bytes() + b"- {name: n, source: 'ollama://n', for: [ollama]}\n".replace(b"- ", b"  - ", 1)
    )
    code, found = states(bench, "--offline")
    assert (code, found["n"], found["vae"]) == (1, "unpinned", "unknown")
    assert bench.hub.log.since(0) == []


def test_a_failed_source_does_not_hide_the_states_of_the_others(bench: PinBench) -> None:
    pinned(bench)
    bench.hub.faults.add("/v2/*", Status(code=404), times=None)
    result = bench.pin("--check")
    assert (result.code, result.codes()) == (66, ["unknown-tag"])
    assert result.actions()["tiny"] == ["failed"]
    assert result.actions()["vae"] == ["present"]


@pytest.mark.parametrize("lfs", [True, False])
def test_a_file_that_goes_into_lfs_or_out_of_it_is_still_compared(bench: PinBench, *, lfs: bool) -> None:
    repo = bench.world.hf_repo("acme/plain", {"a.json": b"[1]"}, lfs=lfs)
    pinned(
        bench,
        "version: 1\nmodels:\n- {name: a, kind: file, path: a, source: 'hf://acme/plain/a.json', for: [comfyui]}\n",
    )
    assert states(bench) == (0, {"a": "current"})
    repo.lfs = not lfs
    repo.commit({"a.json": b"[1]", "b": b""})
    assert states(bench) == (0, {"a": "current" if not lfs else "unknown"})
    repo.commit({"a.json": b"[1, 2]"})
    assert states(bench) == (1, {"a": "behind"})


def test_a_file_of_the_same_size_outside_lfs_is_compared_by_its_git_name(bench: PinBench) -> None:
    repo = bench.world.hf_repo("acme/plain", {"a.json": b"[1]"})
    pinned(
        bench,
        "version: 1\nmodels:\n- {name: a, kind: file, path: a, source: 'hf://acme/plain/a.json', for: [comfyui]}\n",
    )
    repo.commit({"a.json": b"[1]", "b": b""})
    assert states(bench) == (0, {"a": "current"})
    repo.commit({"a.json": b"[2]"})
    assert states(bench) == (1, {"a": "behind"})


def test_a_check_needs_no_right_to_write(bench: PinBench, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned(bench, WITH_A_BODY.replace("@dev", ""))
    monkeypatch.setattr("os.access", lambda *_args, **_kwargs: False)
    assert states(bench)[0] == 0


def test_a_blake3_pin_is_compared_with_the_metadata_of_the_pinned_commit(bench: PinBench) -> None:
    import blake3

    digest = "blake3:" + blake3.blake3(VAE.read(0, VAE.size)).hexdigest()
    repo = bench.world.repos["acme/art"]
    bench.write(
        f"version: 1\nmodels:\n- {{name: vae, kind: vae, source: 'hf://acme/art@{bench.commit()}/art.safetensors', "
        f"digest: '{digest}', for: [comfyui]}}\n"
    )
    repo.commit({"art.safetensors": VAE, "b": b""})
    assert states(bench) == (0, {"vae": "current"})
    repo.commit({"art.safetensors": LORA})
    result: Result = bench.pin("--check")
    assert (result.code, result.actions()) == (1, {"vae": ["changed"]})
