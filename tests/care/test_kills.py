"""SIGKILL, or a share that drops, at any moment of care's commands: nothing is lost, and the next run finishes."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from modelfetch.store.chunks import CHUNK
from tests.care.killing import count_changes, drop_at_change, kill_at_change
from tests.care.test_repair import large
from tests.damage import flip
from tests.pipeline.entries import ollama, sha256, vae

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.pipeline.conftest import Bench, Result

KILLS = int(os.environ.get("KILLS", "7"))
"""The number of kills, over all commands; `make e2e` runs 300."""
DROPS = (errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN)
"""What calls fail with when the server of a share, or the process behind a FUSE mount, is gone."""
_IN_A_ROW = 2
"""Kills before the work is finished: the second one interrupts the recovery from the first."""
_MOST_TRIES = 20


def contents(folder: Path) -> dict[str, str]:
    """The digest of every file that a program would load from a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".modelfetch-") and ".modelfetch" not in path.parts
    }


def temporaries(folder: Path) -> list[Path]:
    return list(folder.rglob(".modelfetch-*"))


class Scenario:
    """A command that is killed: what comes before it, what must hold after a kill, and what the next run must do."""

    words: tuple[str, ...] = ()

    def __init__(self, bench: Bench, care: Callable[..., Result]) -> None:
        self.bench = bench
        self.care = care
        self.root = bench.root

    @property
    def command(self) -> list[str]:
        return [*self.words, "--root", str(self.root), "--json"]

    def prepare(self) -> None:
        """Bring everything to the state before the command."""
        raise NotImplementedError

    def check(self) -> None:
        """Check after a kill that nothing is lost."""
        raise NotImplementedError

    def finish(self) -> None:
        """Run the command again, and check that its work is done."""
        raise NotImplementedError


class Removal(Scenario):
    """Two models that go, one that stays, and a file of the user's."""

    def __init__(self, bench: Bench, care: Callable[..., Result]) -> None:
        super().__init__(bench, care)
        files = {f"part-{number}.bin": bytes([number]) * 70_000 for number in range(8)} | {"config.json": b"{}"}
        bench.world.hf_repo("acme/many", files)
        spec = [{"path": name, "size": len(data), "digest": sha256(data)} for name, data in files.items()]
        many = {"name": "many", "kind": "snapshot", "source": "hf://acme/many", "for": ["whisper"], "files": spec}
        self.large = bench.manifest(many, vae(bench), ollama(bench), tier="large")
        self.small = bench.manifest(ollama(bench), tier="small")
        mine = bench.root / "whisper/hub/mine.bin"
        mine.parent.mkdir(parents=True)
        mine.write_bytes(b"mine")
        self.prepare()
        self.before = contents(self.root)
        self.kept = {path: digest for path, digest in self.before.items() if not self._goes(path)}

    def _goes(self, path: str) -> bool:
        return "acme--many" in path or path.startswith(("stable-diffusion", "comfyui"))

    def prepare(self) -> None:
        assert self.bench.run("sync", self.large).code == 0

    def check(self) -> None:
        left = contents(self.root)
        assert left.items() <= self.before.items()
        assert self.kept.items() <= left.items()

    def finish(self) -> None:
        result = self.care(*self.words)
        assert result.code == 0, result.err
        self.check_done()

    def check_done(self) -> None:
        assert contents(self.root) == self.kept
        blobs = {path.name for path in (self.root / ".modelfetch/blobs/sha256").glob("??/" + "?" * 64)}
        assert blobs <= set(self.kept.values())
        assert self.care("verify").code == 0


class Remove(Removal):
    words = ("remove", "many", "vae")

    def finish(self) -> None:
        result = self.care(*self.words)
        assert set(result.codes()) <= {"not-placed"}, result.err  # a model whose removal was finished
        self.check_done()


class Prune(Removal):
    @property
    def words(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("prune", str(self.small))


class SyncPrune(Removal):
    @property
    def words(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("sync", str(self.small), "--prune")


class Repair(Scenario):
    """Two damaged models: a small one, and one of several chunks with two names."""

    words = ("verify", "--repair")

    def __init__(self, bench: Bench, care: Callable[..., Result]) -> None:
        super().__init__(bench, care)
        entry, _ = large(bench, CHUNK + 100_000)
        assert bench.sync(entry, vae(bench)).code == 0
        self.before = contents(self.root)
        self.round = 0

    def prepare(self) -> None:
        self.round += 1
        flip(self.root / "comfyui/large.bin", offset=self.round)
        flip(self.root / "comfyui/models/vae/art.safetensors", offset=self.round)

    def check(self) -> None:
        assert contents(self.root).keys() == self.before.keys()
        assert (self.root / "comfyui/large.bin").stat().st_size == CHUNK + 100_000

    def finish(self) -> None:
        result = self.care(*self.words)
        assert result.code == 0, result.err
        assert contents(self.root) == self.before
        assert (self.root / "comfyui/large.bin").samefile(self.root / "whisper/large.bin")


class Adopt(Scenario):
    """Two collections with equal files, from which a model is taken."""

    options: tuple[str, ...] = ()

    def __init__(self, bench: Bench, care: Callable[..., Result]) -> None:
        super().__init__(bench, care)
        self.folders = [bench.folder / name for name in ("one", "two")]
        for folder in self.folders:
            (folder / "models/checkpoints").mkdir(parents=True)
            for number in range(4):
                file = folder / f"models/checkpoints/{number}.safetensors"
                file.write_bytes(bytes([number]) * (1 << 20))
            (folder / "models/checkpoints/own.safetensors").write_bytes(folder.name.encode() * (1 << 19))
        self.before = [contents(folder) for folder in self.folders]
        self.states = self._states()

    def _states(self) -> dict[str, Any]:
        found = {}
        for folder in self.folders:
            for path in folder.rglob("*.safetensors"):
                stat = path.stat()
                found[str(path)] = (stat.st_ino, stat.st_mode, stat.st_uid, stat.st_mtime_ns)
        return found

    @property
    def words(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("adopt", *self.options, *map(str, self.folders))

    def prepare(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def check(self) -> None:
        assert [contents(folder) for folder in self.folders] == self.before
        self.check_untouched()

    def check_untouched(self) -> None:
        assert self._states() == self.states
        assert [path for folder in self.folders for path in temporaries(folder)] == []

    def finish(self) -> None:
        result = self.care(*self.words)
        assert result.code == 0, result.err
        self.check()
        self.check_done()

    def check_done(self) -> None:
        data = (self.folders[1] / "models/checkpoints/3.safetensors").read_bytes()
        entry = {
            "name": "three",
            "kind": "file",
            "path": "three.bin",
            "source": f"hf://acme/nowhere@{40 * 'a'}/three.bin",
            "digest": sha256(data),
            "size": len(data),
            "for": ["comfyui"],
        }
        result = self.bench.sync(entry, options=("--offline",))
        assert result.code == 0, result.err
        assert (self.root / "comfyui/three.bin").read_bytes() == data


class AdoptInPlace(Adopt):
    options = ("--in-place",)


class Dedupe(Adopt):
    options = ("--dedupe", "--no-dry-run")

    def prepare(self) -> None:
        super().prepare()
        for path in self.folders[1].rglob("?.safetensors"):
            copy = path.with_name("copy")
            shutil.copy2(path, copy)
            copy.replace(path)

    def check_untouched(self) -> None:
        """The files are replaced on purpose."""

    def check_done(self) -> None:
        super().check_done()
        one, two = ([folder / f"models/checkpoints/{n}.safetensors" for n in range(4)] for folder in self.folders)
        assert all(a.samefile(b) for a, b in zip(one, two, strict=True))
        assert [path for folder in self.folders for path in temporaries(folder)] == []


SCENARIOS = (Remove, Prune, SyncPrune, Repair, Adopt, AdoptInPlace, Dedupe)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", SCENARIOS, ids=lambda kind: kind.__name__)
def test_no_file_is_lost_after_a_kill_and_the_next_run_finishes(
    kind: Callable[[Bench, Callable[..., Result]], Scenario],
    bench: Bench,
    care: Callable[..., Result],
) -> None:
    scenario = kind(bench, care)
    chance = random.Random(str(kind))
    scenario.prepare()
    changes = count_changes(scenario.command)
    assert changes > 0
    scenario.finish()
    wanted = -(-KILLS // len(SCENARIOS))
    killed = tries = 0
    while killed < wanted:
        tries += 1
        assert tries <= wanted + _MOST_TRIES, "most of the runs ended before they were killed"
        scenario.prepare()
        for _ in range(min(_IN_A_ROW, wanted - killed)):
            killed += kill_at_change(scenario.command, chance.randint(1, changes))
            scenario.check()
        error = chance.choice(DROPS)
        code = drop_at_change(scenario.command, chance.randint(1, changes), error, scenario.root)
        # 2: a killed run has already removed one of the models.
        assert code in ((0, 74) if kind is not Remove else (0, 2, 74)), f"{code} after {errno.errorcode[error]}"
        scenario.check()
        scenario.finish()
