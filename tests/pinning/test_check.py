"""`pin --check` says how pins stand against upstream: nothing is written, no body is fetched."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.demo import models as made
from modelfetch.demo.faults import Status
from tests.pinning.conftest import LORA, UPSCALER, VAE, sha256, size
from tests.pinning.test_run import EVERYTHING

if TYPE_CHECKING:
    from tests.pinning.conftest import Desk, Result

WITH_A_BODY = EVERYTHING + "      - {name: up, kind: upscaler, source: FILES/up.safetensors, for: [comfyui]}\n"

PLAIN = """\
version: 1
models:
- {name: a, kind: file, path: a, source: 'hf://acme/plain/a.json', for: [comfyui]}
"""


def pinned(desk: Desk, text: str = WITH_A_BODY) -> None:
    desk.write(text)
    result = desk.pin()
    assert result.code == 0, result.err
    desk.hub.log.clear()


def states(desk: Desk, *options: str) -> tuple[int, dict[str, str]]:
    before = desk.file.read_bytes()
    result = desk.pin("--check", *options, as_json=False)
    assert desk.file.read_bytes() == before
    assert desk.bodies() == []
    head, *rows = (line.split() for line in result.out.splitlines())
    assert head == ["MODEL", "STATE", "PINNED", "UPSTREAM"]
    return result.code, {row[0]: row[1] for row in rows}


def test_pins_that_upstream_still_has_are_current_and_a_web_server_can_not_tell(desk: Desk) -> None:
    pinned(desk)
    found = dict.fromkeys(("vae", "tiny", "style", "snap"), "current") | {"up": "unknown", "lora": "behind"}
    assert states(desk) == (1, found)
    pinned(desk, WITH_A_BODY.replace("@dev", ""))
    assert states(desk) == (0, found | {"lora": "current"})
    assert desk.hub.log.requests("*", origin="civitai") == []
    assert desk.hub.log.requests("*", origin="files") == []


def test_a_file_that_moved_at_main_is_behind_and_a_commit_that_left_it_alone_is_not(desk: Desk) -> None:
    pinned(desk)
    repo = desk.world.repos["acme/art"]
    files: dict[str, Any] = {"art.safetensors": LORA, "config.json": b'{"a": 1}', "sub/more.safetensors": LORA}
    repo.commit({**files, "README.md": b"# new"})
    code, found = states(desk)
    assert (code, found["vae"], found["snap"], found["lora"]) == (1, "behind", "current", "current")
    repo.commit({**files, "config.json": b'{"b": 2}'})
    assert states(desk)[1]["snap"] == "behind"


def test_the_report_says_what_upstream_has(desk: Desk) -> None:
    pinned(desk)
    desk.world.repos["acme/art"].commit(
        {"art.safetensors": UPSCALER, "config.json": b"[]", "sub/more.safetensors": LORA}
    )
    result = desk.pin("--check")
    (vae,) = result.report["models"][0]["artifacts"]
    assert vae["uri"] == f"hf://acme/art@{desk.commit()}/art.safetensors"
    assert (vae["digest"], vae["size"], vae["action"]) == (sha256(UPSCALER), size(UPSCALER), "changed")
    (snap,) = result.report["models"][4]["artifacts"]
    assert (snap["uri"], snap["action"]) == (f"hf://acme/art@{desk.commit()}", "changed")
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


def test_an_ollama_tag_that_moved_is_behind(desk: Desk) -> None:
    pinned(desk)
    assert states(desk)[1]["tiny"] == "current"
    desk.world.ollama_model("tiny:1b", [("model", made.llama())], config=made.ollama_config())
    assert states(desk)[1]["tiny"] == "behind"


def test_a_tag_that_names_a_list_is_current_while_the_pinned_manifest_is_in_it(desk: Desk) -> None:
    pinned(desk)
    (model,) = desk.world.ollama.values()
    other = desk.world.ollama_model("other:1", [("model", made.llama())], config=made.ollama_config())
    media_type = "application/vnd.docker.distribution.manifest.v2+json"
    for name, one in (("tiny:" + other.digest, other), ("tiny:" + model.digest, model)):
        desk.world.ollama[f"library/{name}"] = one
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
        "manifests": [
            {"mediaType": media_type, "digest": one.digest, "size": len(one.manifest)} for one in (other, model)
        ],
    }
    desk.world.ollama_manifest("tiny:1b", json.dumps(index).encode(), [])
    assert states(desk)[1]["tiny"] == "current"
    index["manifests"] = index["manifests"][:1]  # type: ignore[index]
    desk.world.ollama_manifest("tiny:1b", json.dumps(index).encode(), [])
    assert states(desk)[1]["tiny"] == "behind"


def test_what_is_open_is_unpinned_and_upstream_is_shown(desk: Desk) -> None:
    desk.write(WITH_A_BODY)
    code, found = states(desk)
    assert (code, set(found.values())) == (1, {"unpinned"})
    result = desk.pin("--check", as_json=False)
    assert result.out.splitlines()[1].split() == ["vae", "unpinned", "-", desk.commit()[:12]]
    assert result.out.splitlines()[6].split() == ["up", "unpinned", "-", "unknown"]
    assert {a for actions in desk.pin("--check").actions().values() for a in actions} == {"missing"}


def test_offline_a_check_asks_nobody_and_fails_only_for_what_is_open(desk: Desk) -> None:
    pinned(desk)
    code, found = states(desk, "--offline")
    assert (code, found["vae"], found["style"], found["up"]) == (0, "unknown", "current", "unknown")
    desk.file.write_bytes(
        desk.file.read_bytes() + b"- {name: n, source: 'ollama://n', for: [ollama]}\n".replace(b"- ", b"  - ", 1)
    )
    code, found = states(desk, "--offline")
    assert (code, found["n"], found["vae"]) == (1, "unpinned", "unknown")
    assert desk.hub.log.since(0) == []


def test_a_source_that_fails_is_an_error_beside_the_states_of_the_others(desk: Desk) -> None:
    pinned(desk)
    desk.hub.faults.add("/v2/*", Status(code=404), times=None)
    result = desk.pin("--check")
    assert (result.code, result.codes()) == (66, ["unknown-tag"])
    assert result.actions()["tiny"] == ["failed"]
    assert result.actions()["vae"] == ["present"]


@pytest.mark.parametrize("lfs", [True, False])
def test_a_file_that_goes_into_lfs_or_out_of_it_is_still_compared(desk: Desk, *, lfs: bool) -> None:
    repo = desk.world.hf_repo("acme/plain", {"a.json": b"[1]"}, lfs=lfs)
    pinned(
        desk,
        "version: 1\nmodels:\n- {name: a, kind: file, path: a, source: 'hf://acme/plain/a.json', for: [comfyui]}\n",
    )
    assert states(desk) == (0, {"a": "current"})
    repo.lfs = not lfs
    repo.commit({"a.json": b"[1]", "b": b""})
    assert states(desk) == (0, {"a": "current" if not lfs else "unknown"})
    repo.commit({"a.json": b"[1, 2]"})
    assert states(desk) == (1, {"a": "behind"})


def test_a_file_of_the_same_size_outside_lfs_is_compared_by_its_git_name(desk: Desk) -> None:
    repo = desk.world.hf_repo("acme/plain", {"a.json": b"[1]"})
    pinned(
        desk,
        "version: 1\nmodels:\n- {name: a, kind: file, path: a, source: 'hf://acme/plain/a.json', for: [comfyui]}\n",
    )
    repo.commit({"a.json": b"[1]", "b": b""})
    assert states(desk) == (0, {"a": "current"})
    repo.commit({"a.json": b"[2]"})
    assert states(desk) == (1, {"a": "behind"})


def test_a_check_needs_no_right_to_write(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned(desk, WITH_A_BODY.replace("@dev", ""))
    monkeypatch.setattr("os.access", lambda *_args, **_kwargs: False)
    assert states(desk)[0] == 0


def test_a_blake3_pin_is_compared_by_what_the_hub_says_of_the_pinned_commit(desk: Desk) -> None:
    import blake3

    digest = "blake3:" + blake3.blake3(VAE.read(0, VAE.size)).hexdigest()
    repo = desk.world.repos["acme/art"]
    desk.write(
        f"version: 1\nmodels:\n- {{name: vae, kind: vae, source: 'hf://acme/art@{desk.commit()}/art.safetensors', "
        f"digest: '{digest}', for: [comfyui]}}\n"
    )
    repo.commit({"art.safetensors": VAE, "b": b""})
    assert states(desk) == (0, {"vae": "current"})
    repo.commit({"art.safetensors": LORA})
    result: Result = desk.pin("--check")
    assert (result.code, result.actions()) == (1, {"vae": ["changed"]})
