from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from modelfetch.core.artifact import Artifact, Resolution
from modelfetch.core.cancel import Cancel
from modelfetch.core.digest import Digest
from modelfetch.manifest.load import load_manifest
from modelfetch.manifest.path_conflicts import claims_of
from modelfetch.placement import PlacementJob, PlacementRequest, Placer
from modelfetch.placement.inspector import Inspector, wanted_digest
from modelfetch.placement.layouts import PlacementMethod, placements
from modelfetch.placement.receipts import read_receipt
from modelfetch.placement.rewritten import rewriting_service
from modelfetch.placement.state import State
from modelfetch.store import Store
from modelfetch.store.ingest import LINK_AT_LEAST
from tests.cases import each

if TYPE_CHECKING:
    from pathlib import Path

    from modelfetch.manifest.model import Manifest
    from modelfetch.placement.layouts import Placement

COMMIT = "a" * 40
WEIGHTS = b"onnx" * LINK_AT_LEAST
FILES = {"detection/model.onnx": WEIGHTS, "recognition/model.onnx": WEIGHTS + b"!", "config.json": b"{}"}
REWRITTEN = "immich/facial-recognition/buffalo_l/recognition/model.onnx"


def manifest(task: str, extra: str = "") -> Manifest:
    keys = f"name: m, kind: immich-model, task: {task}, source: 'hf://immich-app/buffalo_l@{COMMIT}'{extra}"
    return load_manifest(f"version: 1\nmodels:\n  - {{{keys}, for: [immich]}}\n")


def layout(task: str = "facial-recognition", extra: str = "") -> tuple[Placement, ...]:
    (model,) = manifest(task, extra).models
    artifacts = tuple(
        Artifact(uri=f"hf://immich-app/buffalo_l@{COMMIT}/{p}", path=p, size=len(b), digest=Digest.sha256(b))
        for p, b in FILES.items()
    )
    return placements("immich", model, Resolution(artifacts=artifacts, revision=COMMIT))


@each("task", ["clip", "facial-recognition", "ocr"])
def test_a_model_is_in_the_folder_of_its_task_and_repository(task: str) -> None:
    assert [place.path for place in layout(task)] == [f"immich/{task}/buffalo_l/{path}" for path in FILES]
    named = layout(task, ", filename: other")
    assert {place.path.split("/")[2] for place in named} == {"other"}


def test_every_file_is_a_copy() -> None:
    assert {place.how for place in layout()} == {PlacementMethod.COPY}


def test_only_the_face_recognition_model_is_one_that_immich_rewrites() -> None:
    assert [place.path for place in layout() if rewriting_service(place.path)] == [REWRITTEN]
    assert not any(rewriting_service(place.path) for place in layout("ocr"))


def test_two_models_in_one_folder_conflict_only_if_their_commits_differ() -> None:
    assert {claim.path for claim in claims_of(manifest("ocr"))} == {"immich/ocr/buffalo_l"}


class World:
    """A root with the placed model."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store(root / ".modelfetch")
        self.events: list[object] = []
        self.place()
        self.events.clear()

    def place(self) -> None:
        jobs = tuple(
            PlacementJob(placement=place, blob=self.store.add_bytes(data))
            for place, data in zip(layout(), FILES.values(), strict=True)
        )
        inspector = Inspector(self.root, store=self.store)
        placer = Placer(self.root, self.store, inspector=inspector, sink=self.events.append, cancel=Cancel())
        placer.place(PlacementRequest(consumer="immich", model="m", requested_by="8g", jobs=jobs))
        assert not placer.finish()

    @property
    def warnings(self) -> list[object]:
        return [event for event in self.events if type(event).__name__ == "Notice"]

    def state(self, path: str) -> State:
        (place,) = [place for place in layout() if place.path == path]
        return Inspector(self.root).state(place, read_receipt(self.root, "immich"), wanted_digest(place))


@pytest.fixture
def world(tmp_path: Path) -> World:
    root = tmp_path / "root"
    root.mkdir()
    return World(root)


def test_a_model_rewritten_by_immich_is_not_changed(world: World) -> None:
    file = world.root / REWRITTEN
    file.write_bytes(b"a batch axis more")
    assert world.state(REWRITTEN) is State.REWRITTEN
    before = read_receipt(world.root, "immich").entries[REWRITTEN]
    world.place()
    assert read_receipt(world.root, "immich").entries[REWRITTEN] == before, "verify tells by it that it was rewritten"
    assert file.read_bytes() == b"a batch axis more"
    assert world.warnings == []
    assert world.state(REWRITTEN) is State.REWRITTEN
    assert world.store.add_bytes(FILES["recognition/model.onnx"]).path.read_bytes() == FILES["recognition/model.onnx"]


@pytest.mark.parametrize("damage", ["gone", "empty", "folder"])
def test_a_rewritten_model_that_is_no_model_any_more_is_placed_again(world: World, damage: str) -> None:
    file = world.root / REWRITTEN
    file.unlink()
    if damage == "empty":
        file.touch()
    if damage == "folder":
        file.symlink_to("elsewhere")
    assert world.state(REWRITTEN) in (State.MISSING, State.CHANGED)
    world.place()
    assert file.read_bytes() == FILES["recognition/model.onnx"]


def test_any_other_changed_file_is_moved_aside_and_replaced(world: World) -> None:
    file = world.root / "immich/facial-recognition/buffalo_l/detection/model.onnx"
    file.write_bytes(b"not what was placed")
    assert world.state(file.relative_to(world.root).as_posix()) is State.CHANGED
    world.place()
    assert file.read_bytes() == WEIGHTS
    assert len(world.warnings) == 1


def test_another_pin_replaces_a_rewritten_model(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.root / REWRITTEN).write_bytes(b"a batch axis more")
    monkeypatch.setitem(FILES, "recognition/model.onnx", WEIGHTS + b"newer")
    assert world.state(REWRITTEN) in (State.OUTDATED, State.CHANGED)
    world.place()
    assert (world.root / REWRITTEN).read_bytes() == WEIGHTS + b"newer"
