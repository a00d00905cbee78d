"""A command that is suspended (SIGSTOP) while it changes files, and another one that takes over meanwhile."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.demo import models as made
from tests import interpreter
from tests.care.suspending import age_locks, suspended_after
from tests.care.test_kills import contents, temporaries
from tests.cases import first
from tests.damage import flip
from tests.pipeline.entries import sha256

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.pipeline.conftest import Bench

MOMENTS = {
    "upgrade": (20, 110, 180),
    "repair": (10, 40, 75),
    "adopt": (8, 25, 42),
    "adopt in place": (3, 6),
    "dedupe": (4, 9, 14),
}
"""After how many changes of the file system a command is suspended."""


class Scene:
    """A root with the first version of five models, the manifests of two versions, and a folder of other models."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.root = bench.root
        self.folder = bench.folder / "collection"
        self.manifests = {version: self._manifest(version) for version in (1, 2)}
        self.small = bench.manifest(self._tiny(), tier="small")
        self._fill_folder()
        self.collected = contents(self.folder)
        self.sync(1)

    def words(self, command: str) -> Sequence[str]:
        """The arguments of a command of `MOMENTS`, or of one that takes over."""
        return {
            "upgrade": ("sync", str(self.manifests[2])),
            "downgrade": ("sync", str(self.manifests[1])),
            "prune": ("prune", str(self.small)),
            "remove": ("remove", "a", "b", "snap"),
            "verify": ("verify",),
            "repair": ("verify", "--repair"),
            "adopt": ("adopt", str(self.folder)),
            "adopt in place": ("adopt", "--in-place", str(self.folder)),
            "dedupe": ("adopt", "--dedupe", "--no-dry-run", str(self.folder)),
        }[command]

    def arguments(self, command: str) -> list[str]:
        return [*self.words(command), "--root", str(self.root), "--json"]

    def run(self, command: str) -> Any:
        """Run a command in another process."""
        self.publish(2 if command == "upgrade" else 1)
        return interpreter.run("-m", "modelfetch", *self.arguments(command))

    def sync(self, version: int) -> None:
        self.publish(version)
        result = self.bench.run("sync", self.manifests[version])
        assert result.code == 0, result.err

    def damage(self) -> None:
        flip(self.root / "comfyui/a.bin")
        flip(self.root / "comfyui/b.bin")
        (self.root / "comfyui/c.bin").unlink()

    def publish(self, version: int) -> None:
        """Let Ollama's tag lead to a version."""
        layers = [
            (kind, body if kind == "model" else f"text {version}".encode()) for kind, body in made.ollama_layers()
        ]
        self.bench.world.ollama_model("tiny:1b", layers, config=made.ollama_config())

    def _manifest(self, version: int) -> Path:
        files = {f"{name}.bin": f"{name}{version}".encode() * 40_000 for name in "abc"}
        self.bench.world.hf_repo(f"acme/v{version}", files)
        snapshot = {"config.json": b'{"v": %d}' % version, "model.bin": b"s%d" % version * 40_000, "same.txt": b"same"}
        repo = self.bench.world.repos.get("acme/s") or self.bench.world.hf_repo("acme/s", snapshot)
        snap = {"kind": "snapshot", "source": f"hf://acme/s@{repo.commit(snapshot)}", "for": ["whisper"]}
        a, b, c = (
            {"name": name, "kind": "file", "path": f"{name}.bin", "source": f"hf://acme/v{version}/{name}.bin"}
            for name in "abc"
        )
        return self.bench.manifest(
            {**a, "digest": sha256(files["a.bin"]), "for": ["comfyui", "whisper"]},
            {**b, "digest": sha256(files["b.bin"]), "for": ["comfyui"]},
            {**c, "for": ["comfyui"]},
            {**snap, "name": "snap"},
            self._tiny(),
            tier=f"v{version}",
        )

    def _tiny(self) -> dict[str, Any]:
        return {"name": "tiny", "source": "ollama://tiny:1b", "for": ["ollama"]}

    def _fill_folder(self) -> None:
        """Models of the second version, others, and one that is there twice."""
        models = self.folder / "models/checkpoints"
        models.mkdir(parents=True)
        for name in "ab":
            (models / f"{name}.safetensors").write_bytes(f"{name}2".encode() * 40_000)
            (models / f"other-{name}.safetensors").write_bytes(f"other {name}".encode() * 200_000)
        shutil.copy(models / "other-a.safetensors", models / "other-copy.safetensors")


OTHERS = ("downgrade", "upgrade", "prune", "remove", "repair", "adopt", "dedupe")
CASES = [
    ("upgrade", "prune", 110),
    ("repair", "upgrade", 40),
    *(
        (suspended, other, moment)
        for suspended, moments in MOMENTS.items()
        for other in OTHERS
        if suspended != other
        for moment in moments
    ),
]


@pytest.mark.parametrize(("suspended", "other", "moment"), first(2, CASES))
def test_a_command_that_was_overtaken_while_it_was_suspended_does_no_harm(
    suspended: str, other: str, moment: int, bench: Bench
) -> None:
    scene = Scene(bench)
    if suspended == "repair":
        scene.damage()
    scene.publish(2 if suspended == "upgrade" else 1)
    with suspended_after(moment, scene.arguments(suspended)) as process:
        assert process.poll() is None, process.communicate()
        age_locks(scene.root)
        result = scene.run(other)
        assert result.returncode == 0, result.stderr
    out, err = process.communicate()
    assert process.returncode in (0, 75), f"{out}\n{err}"
    if process.returncode == 0 and suspended != "repair":
        assert scene.run("verify").returncode == 0
    if other in ("upgrade", "downgrade") and suspended != "upgrade":
        assert bench.run("status", scene.manifests[2 if other == "upgrade" else 1]).code == 0
    check_recovery(scene, 2 if other == "upgrade" else 1)


def check_recovery(scene: Scene, version: int) -> None:
    """Whatever happened, a sync brings everything into place, and a prune leaves nothing behind."""
    scene.sync(version)
    bench = scene.bench
    assert bench.run("status", scene.manifests[version]).code == 0
    assert (scene.root / "comfyui/a.bin").read_bytes() == f"a{version}".encode() * 40_000
    assert bench.run("prune", scene.small).code == 0
    assert [path for path in contents(scene.root) if not path.startswith("ollama/")] == []
    assert temporaries(scene.root) == temporaries(scene.folder) == []
    assert contents(scene.folder) == scene.collected
