"""A planted secret is looked for in all output and in all files, over every source, every credential, every failure."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import re
import shutil
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.cli.app import run
from modelfetch.demo import models as made
from modelfetch.demo.world import CivitaiFile
from tests.cases import first
from tests.faults import RateLimited, RedirectTo, Refuse, Status

if TYPE_CHECKING:
    from modelfetch.demo.faults import Fault
    from tests.pipeline.conftest import Bench

PLANTED = "planted-Secret-0123456789abcdef"
FORMS = (PLANTED, base64.b64encode(f"me:{PLANTED}".encode()).decode(), base64.b64encode(PLANTED.encode()).decode()[:-4])
WEIGHTS = made.vae()
DATA = bytes(WEIGHTS.read(0, WEIGHTS.size))

FAULTS: dict[str, Fault | None] = {
    "none": None,
    **{str(code): Status(code=code, body=f"no {PLANTED}") for code in (400, 401, 403, 404, 429, 500)},
    "gated": Status(code=403, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": f"not for {PLANTED}"}),
    "challenge": Status(code=401, headers={"WWW-Authenticate": f'Bearer realm="http://a.example/{PLANTED}"'}),
    "limited": RateLimited(wait=500),
    "page": Status(code=200, body=f"<html>{PLANTED}</html>", content_type="text/html"),
    "json": Status(code=200, body=f'{{"error": "{PLANTED}"}}', content_type="application/json"),
    "in the clear": RedirectTo(url=f"http://elsewhere.invalid/x?token={PLANTED}#{PLANTED}"),
    "with a user": RedirectTo(url=f"https://me:{PLANTED}@elsewhere.invalid/"),
    "nowhere": RedirectTo(url=f"ftp://{PLANTED}"),
    "cut": Refuse(),
}


@pytest.fixture
def models(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """One entry for each source, pinned and open; each needs its own credential, and has it."""
    world, home = bench.world, bench.folder / "home"
    host = bench.hub.ollama.removeprefix("http://")
    world.hf_repo("org/repo", {"model.safetensors": WEIGHTS}, gated="auto")
    world.token("hf", PLANTED, gated=["org/*"])
    world.civitai_version(1, [CivitaiFile(id=1, name="a.safetensors", body=WEIGHTS)], login="json")
    world.token("civitai", PLANTED)
    world.file("a.safetensors", WEIGHTS, basic=("me", PLANTED))
    world.ollama_model("tiny:1b", [("model", DATA)])
    world.ollama_login = ("me", PLANTED)
    (home / ".docker").mkdir(parents=True)
    (home / "token").write_text(PLANTED + "\n")
    (home / ".netrc").write_text(f"machine 127.0.0.1 login me password {PLANTED}\n")
    auths = {host: {"auth": FORMS[1]}}
    (home / ".docker/config.json").write_text(json.dumps({"auths": auths}))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setenv("CIVITAI_API_TOKEN_FILE", str(home / "token"))
    for name in ("NETRC", "DOCKER_CONFIG", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "CIVITAI_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    pins = {"size": len(DATA), "digest": "sha256:" + hashlib.sha256(DATA).hexdigest()}
    commit = world.repos["org/repo"].main
    sources = {
        "hf": ("hf://org/repo/model.safetensors", {}),
        "hf-pinned": (f"hf://org/repo@{commit}/model.safetensors", pins),
        "civitai": ("civitai://1", {}),
        "civitai-pinned": ("civitai://1", pins),
        "web": (f"{bench.hub.files}a.safetensors", {}),
        "web-pinned": (f"{bench.hub.files}a.safetensors", pins),
    }
    entries: list[dict[str, Any]] = [
        {"name": n, "kind": "vae", "source": s, "for": ["comfyui"], "filename": f"{n}.safetensors", **more}
        for n, (s, more) in sources.items()
    ]
    return [*entries, {"name": "chat", "source": "ollama://tiny:1b", "for": ["ollama"]}]


QUICK = [("none", None), ("401", None), ("404", "cdn"), ("gated", None), ("challenge", "cdn"), ("page", "cdn")]
QUICK += [("in the clear", "cdn"), ("nowhere", None)]
OTHERS = [
    (name, origin) for origin in (None, "cdn") for name in FAULTS if (name, origin) not in [*QUICK, ("none", "cdn")]
]


@pytest.mark.parametrize(("name", "origin"), first(len(QUICK), QUICK + OTHERS))
def test_a_planted_secret_appears_in_no_output(
    bench: Bench, models: list[dict[str, Any]], name: str, origin: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.NOTSET)  # so that whatever a client logs would be seen if -v let it through
    if (fault := FAULTS[name]) is not None:
        bench.hub.faults.add("*", fault, times=None, origin=origin)
    manifest = bench.manifest(*models)
    progress = "json" if origin else "log"
    said = [
        bench.run("plan", manifest),
        bench.run("sync", manifest, "--keep-going", "-v", "--progress", progress),
        bench.run("status", manifest),
    ]
    for result in said:
        assert not [form for form in FORMS if form in result.out + result.err]
        assert "X-Amz-" not in result.out + result.err  # a signed address is a credential too
    for path in (p for p in bench.root.rglob("*") if p.is_file()):
        assert not [form for form in FORMS if form.encode() in path.read_bytes()], path
    _went_only_where_it_belongs(bench)
    assert (said[1].code == 0) is (fault is None), said[1].err


def _went_only_where_it_belongs(bench: Bench) -> None:
    requests = bench.hub.log.requests()
    assert any(form in str(entry.authorization) for entry in requests for form in FORMS)
    assert [entry.authorization for entry in requests if entry.origin == "cdn" and entry.authorization] == []
    assert not [entry.target for entry in requests if any(form in entry.target for form in FORMS)]


SECRETS = [
    f"?token={PLANTED}",
    f"?a=1&api_key={PLANTED}&b=2",
    f"?X-Amz-Credential=x&X-Amz-Signature={PLANTED}",
    f"?sv=2024&se=x&sig={PLANTED}",
    f"?unheard-of={PLANTED}",
    f"?{PLANTED}",
    f";token={PLANTED}",
    f";v=1;unheard-of={PLANTED}",
]


@pytest.mark.parametrize("pinned", first(1, [False, True]))
@pytest.mark.parametrize("secret", first(4, [*SECRETS[::2], *SECRETS[1::2]]))
def test_a_secret_in_an_address_is_only_in_the_request(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, secret: str, pinned: bool
) -> None:
    monkeypatch.setenv("HOME", str(bench.folder))
    served = f"dl{secret if secret[0] == ';' else ''}/1.safetensors"
    bench.world.file(served, WEIGHTS)
    pins = {"size": len(DATA), "digest": "sha256:" + hashlib.sha256(DATA).hexdigest()} if pinned else {}
    entry = {
        "name": "a",
        "kind": "vae",
        "source": f"{bench.hub.files}{served}{secret if secret[0] == '?' else ''}",
        "for": ["comfyui"],
        **pins,
    }
    manifest = bench.manifest(entry)
    said = [bench.run("plan", manifest), bench.run("sync", manifest), bench.run("sync", manifest)]
    assert [result.code for result in said] == [0, 0, 0], [result.err for result in said]
    named = "unheard-of" not in secret and secret != f"?{PLANTED}"
    assert ("its address holds what looks like a credential" in said[0].err + said[1].err) is named
    assert set(said[2].actions().values()) == {"present"}
    shutil.rmtree(bench.root / ".modelfetch/blobs")
    (bench.root / "comfyui/models/vae/1.safetensors").unlink()
    said += [bench.run("sync", manifest, "-v", "--progress", "json"), bench.run("status", manifest)]
    assert [result.code for result in said[3:]] == [0, 0], [result.err for result in said[3:]]
    bench.world.files.clear()
    (bench.root / "comfyui/models/vae/1.safetensors").unlink()
    shutil.rmtree(bench.root / ".modelfetch/blobs")
    said += [bench.run("sync", manifest), bench.run("pin", manifest, "--check")]
    for result in said:
        assert PLANTED not in result.out + result.err
    for path in (p for p in bench.root.rglob("*") if p.is_file()):
        assert PLANTED.encode() not in path.read_bytes(), path
    assert PLANTED in bench.hub.log.requests(f"/files/{served}")[-1].target


def _documented_modes() -> dict[str, set[int]]:
    """The modes of modelfetch's own files, by glob, as the documentation has them."""
    table = (Path(__file__).parents[2] / "docs/concepts/on-disk.md").read_text().partition("## Modes")[2]
    rows = re.findall(r"^\| (`[^|]*`) \| ([^|]*) \|", table, re.MULTILINE)
    return {
        glob: {int(mode, 8) for mode in re.findall(r"\b0\d{3}\b", modes)}
        for globs, modes in rows
        for glob in re.findall(r"`([^`]*)`", globs)
    }


def _own_folders(bench: Bench) -> dict[Path, Path]:
    """Every file in modelfetch's own folders, with its path below that folder."""
    folders = (
        bench.root / ".modelfetch",
        bench.folder / "store",
        bench.folder / "cache",
        bench.folder / "cache/.modelfetch",
    )
    return {
        file: file.relative_to(folder)
        for folder in folders
        for file in folder.rglob("*")
        if file.is_file() and not file.is_symlink()
    }


def test_after_every_command_no_secret_is_on_disk_and_every_mode_is_the_documented_one(
    bench: Bench, models: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.world.file("dl/2.safetensors", WEIGHTS)
    link = f"{bench.hub.files}dl/2.safetensors?token={PLANTED}"
    others = [bench.hub.endpoint, bench.hub.ollama, bench.hub.civitai, bench.hub.cdn]
    monkeypatch.setenv("NO_PROXY", ",".join(address.partition("//")[2] for address in others))
    monkeypatch.setenv("HTTP_PROXY", bench.hub.files.replace("://", f"://me:{PLANTED}@").partition("/files")[0])
    monkeypatch.setenv("MODELFETCH_CACHE", str(bench.folder / "cache"))
    old_mask = os.umask(0)
    manifest = bench.manifest(*models, {"name": "q", "kind": "vae", "source": link, "for": ["comfyui"]})
    store = ("--store", str(bench.folder / "store"))
    page = bench.folder / "page.html"
    said = [
        bench.run("plan", manifest, "-v", *store),
        bench.run("sync", manifest, "-v", "--progress", "json", *store),
        bench.run("sync", manifest, *store),
        bench.run("sync", manifest, "--refresh", "--progress", "log", *store),
        bench.run("status", manifest, "-v", *store),
        bench.run("pin", manifest, "--check"),
    ]
    codes = []
    for words in (
        ("status", "--manifest", str(manifest), "--root", str(bench.root), "--format", "prom", *store),
        ("verify", "--root", str(bench.root), "--json", *store),
        ("list", "--root", str(bench.root), "--json", *store),
        ("report", "--html", str(page), "--root", str(bench.root), *store),
        ("fetch", link, "--json"),
        ("fetch", link, "-o", str(bench.folder / "out.safetensors"), "-v"),
        ("fit", link, "--json"),
        ("add", link, "--manifest", str(bench.folder / "new.yaml"), "--kind", "vae", "--for", "comfyui", "--dry-run"),
    ):
        bench.capsys.readouterr()
        codes.append(run(words))
        out, err = bench.capsys.readouterr()
        assert not [form for form in FORMS if form in (err if words[0] == "add" else out + err)], (words, out, err)
    os.umask(old_mask)
    assert codes == [0, 0, 0, 0, 0, 0, 1, 0]
    assert [result.code for result in said[:5]] == [0] * 5, [result.err for result in said]
    assert not [form for form in FORMS for result in said if form in result.out + result.err]
    searched = [bench.root, bench.folder / "store", bench.folder / "cache", page]
    files = [file for top in searched for file in (top, *top.rglob("*")) if file.is_file()]
    assert not [file for file in files for form in FORMS if form.encode() in file.read_bytes()]
    modes = _documented_modes()
    odd = {}
    for file, name in _own_folders(bench).items():
        glob = max((glob for glob in modes if fnmatchcase(str(name), glob)), key=len, default="")
        if file.stat().st_mode & 0o7777 not in modes.get(glob, ()):
            odd[str(name)] = oct(file.stat().st_mode)
    assert odd == {}
