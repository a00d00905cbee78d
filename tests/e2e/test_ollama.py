"""The real Ollama with the store that `sync` filled."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from modelfetch.demo import Hub, PatternBody
from tests.e2e.manifests import write_manifest
from tests.e2e.program import OTHER_USER
from tests.e2e.servers import serve_ollama, serve_registry
from tests.e2e.tree import assert_store_is_whole, contents, copy_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelfetch.demo.world import Content
    from tests.e2e.program import Modelfetch

TEMPLATE = "{{ .Prompt }}"
CONFIG = (
    b'{"model_format":"gguf","model_family":"llama","model_type":"1B","file_type":"F32","rootfs":{"type":"layers"}}'
)
WEIGHTS = 3_000_000


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub with one registry model, `tiny:1b`."""
    with Hub() as running:
        put_model(running, seed=1)
        yield running


def put_model(hub: Hub, *, seed: int) -> None:
    """Set what `tiny:1b` is from now on."""
    layers: list[tuple[str, Content]] = [
        ("model", PatternBody(WEIGHTS, seed=seed, prefix=b"GGUF")),
        ("template", TEMPLATE),
    ]
    hub.world.ollama_model("tiny:1b", layers, config=CONFIG)


def pulled_name(hub: Hub) -> str:
    """The hub's model as Ollama names it."""
    return hub.ollama.removeprefix("http://") + "/library/tiny:1b"


def short_names(models: Path) -> list[str]:
    """The models of a store, as `ollama list` shows them."""
    tags = sorted((models / "manifests").glob("*/*/*/*"))
    names = [(tag.parts[-4:-1], tag.name) for tag in tags]
    return [
        "/".join(part for part in parts if part not in ("registry.ollama.ai", "library")) + f":{tag}"
        for parts, tag in names
    ]


def test_ollama_lists_and_generates_offline(filled: Path, ollama_binary: Path, workplace: Path) -> None:
    models = copy_tree(filled / "ollama", workplace / "ollama") / "models"
    before = contents(models)
    with serve_ollama(ollama_binary, models, workplace / "served") as ollama:
        names = short_names(models)
        assert sorted(ollama.names()) == names != []
        for name in names:
            answer = ollama.generate(name)
            assert answer["done"]
            assert answer["eval_count"] > 0
    assert contents(models) == before, "Ollama's own clean-up when it starts removed or changed something"


def test_ollama_as_another_user_generates_from_a_store_that_it_can_only_read(
    filled: Path, ollama_binary: Path, workplace: Path
) -> None:
    models = filled / "ollama" / "models"
    binary = Path(shutil.copy(ollama_binary, workplace / "ollama"))
    with serve_ollama(binary, models, workplace / "served", uid=OTHER_USER) as ollama:
        for name in short_names(models):
            assert ollama.generate(name)["eval_count"] > 0


def test_sync_creates_the_same_files_as_a_pull_of_ollama_from_the_hub(
    hub: Hub, modelfetch: Modelfetch, ollama_binary: Path, workplace: Path
) -> None:
    with serve_ollama(ollama_binary, workplace / "pulled", workplace / "served") as ollama:
        ollama.run("pull", "--insecure", pulled_name(hub))
        assert ollama.names() == [pulled_name(hub)]
    model = {"name": "tiny", "source": f"ollama://{pulled_name(hub)}", "for": ["ollama"]}
    modelfetch.report("sync", "--manifest", str(write_manifest(workplace / "m.yaml", model)))
    assert contents(modelfetch.root / "ollama" / "models") == contents(workplace / "pulled")


def test_sync_fetches_from_a_registry_without_redirects(
    filled: Path, modelfetch: Modelfetch, ollama_binary: Path, workplace: Path
) -> None:
    models = copy_tree(filled / "ollama", workplace / "pushing") / "models"
    with serve_registry(workplace / "registry") as registry:
        name = f"{registry}/library/pushed:1b"
        with serve_ollama(ollama_binary, models, workplace / "served") as ollama:
            ollama.run("cp", short_names(models)[0], name)
            ollama.run("push", "--insecure", name)
        model = {"name": "pushed", "source": f"ollama://{name}", "for": ["ollama"]}
        modelfetch.report("sync", "--manifest", str(write_manifest(workplace / "m.yaml", model)))
    made = modelfetch.root / "ollama" / "models"
    with serve_ollama(ollama_binary, made, workplace / "serves-ours") as ollama:
        assert ollama.names() == [name]
        assert ollama.generate(name)["eval_count"] > 0


def test_ollama_create_over_our_tag_leaves_the_store_whole_and_sync_restores_the_tag(
    modelfetch: Modelfetch, ollama_binary: Path, workplace: Path
) -> None:
    modelfetch.report("sync", "--tier", "demo")
    models = modelfetch.root / "ollama" / "models"
    name = short_names(models)[0]
    tag = min((models / "manifests").glob("*/*/*/*"))
    ours = contents(models)
    original = tag.read_bytes()
    modelfile = workplace / "Modelfile"
    modelfile.write_text(f"FROM {name}\nSYSTEM You are somebody else now.\nPARAMETER temperature 0.1\n")
    with serve_ollama(ollama_binary, models, workplace / "served") as ollama:
        ollama.run("create", name, "-f", str(modelfile))
        changed = tag.read_bytes()
        assert changed != original
        assert ollama.generate(name)["eval_count"] > 0
    assert_restores(modelfetch, ["--tier", "demo"], tag, original=original, changed=changed)
    assert ours.items() <= contents(models).items()
    with serve_ollama(ollama_binary, models, workplace / "served-again") as ollama:
        assert name in ollama.names()
        assert ollama.generate(name)["eval_count"] > 0


def test_a_newer_pull_over_our_tag_leaves_the_store_whole_and_sync_restores_the_tag(
    hub: Hub, modelfetch: Modelfetch, ollama_binary: Path, workplace: Path
) -> None:
    model = {"name": "tiny", "source": f"ollama://{pulled_name(hub)}", "for": ["ollama"]}
    manifest = write_manifest(workplace / "m.yaml", model)
    modelfetch.report("sync", "--manifest", str(manifest))
    models = modelfetch.root / "ollama" / "models"
    ours = contents(models)
    (tag,) = (models / "manifests").glob("*/*/*/*")
    original = tag.read_bytes()
    put_model(hub, seed=2)
    with serve_ollama(ollama_binary, models, workplace / "served") as ollama:
        ollama.run("pull", "--insecure", pulled_name(hub))
    changed = tag.read_bytes()
    assert changed != original
    assert not ours.items() <= contents(models).items(), "Ollama kept the old layer: the test shows nothing"
    hub.stop()
    assert_restores(modelfetch, ["--manifest", str(manifest)], tag, original=original, changed=changed)
    assert ours.items() <= contents(models).items()


def assert_restores(program: Modelfetch, choice: list[str], tag: Path, *, original: bytes, changed: bytes) -> None:
    """The store is whole, and the next sync restores our tag from it, moves theirs aside, and reports that."""
    assert_store_is_whole(program.root)
    done = program.run("sync", *choice)
    assert done.returncode == 0, done.stderr
    assert tag.read_bytes() == original
    relative = tag.relative_to(program.root)
    (displaced,) = (program.root / ".modelfetch" / "displaced").glob(f"*/{relative}")
    assert displaced.read_bytes() == changed
    assert "warning" in done.stderr.lower()
    assert str(relative) in done.stderr
    assert_store_is_whole(program.root)
    assert program.report("sync", *choice)["bytes_fetched"] == 0
