"""After a kill or a disk error at any moment, the next run finishes the work, and only foreign files stay."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelfetch.errors import ModelfetchError
from modelfetch.placement import PlacementJob
from modelfetch.placement.layouts import Placement, PlacementMethod
from tests.examples import SHARE, examples
from tests.placement.crashes import killed_at
from tests.placement.world import LARGE, SMALL, World

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FOREIGN = "comfyui/models/vae/of-the-user.bin"
LINK, COPY, TEXT, SYMLINK, DEEP = (
    f"comfyui/models/{name}" for name in ("vae/big.bin", "a.json", "ref", "l", "x/y/z.bin")
)
PATHS = (LINK, COPY, TEXT, SYMLINK, DEEP)

State = dict[str, int]
"""Which version of each path is wanted."""


def content(path: str, version: int) -> bytes:
    return b"%d" % version + (LARGE if path in (LINK, DEEP) else SMALL)


def job(world: World, path: str, version: int) -> PlacementJob:
    if path == SYMLINK:
        return PlacementJob(placement=Placement(path=path, how=PlacementMethod.SYMLINK, target=f"vae/v{version}"))
    if path == TEXT:
        text = content(path, version)
        return PlacementJob(placement=Placement(path=path, how=PlacementMethod.TEXT, text=text))
    return world.job(path, content(path, version))


def place(world: World, wanted: Mapping[str, int]) -> None:
    world.place(*(job(world, path, version) for path, version in wanted.items()))


def require(world: World, wanted: Mapping[str, int]) -> None:
    for path, version in wanted.items():
        there = world.root / path
        if path == SYMLINK:
            assert str(there.readlink()) == f"vae/v{version}"
        else:
            assert there.read_bytes() == content(path, version), path
        assert world.receipt(path).made, path
    assert (world.root / FOREIGN).read_bytes() == b"precious"
    left = [path for path in world.root.rglob("*.part") if path.is_file()]
    removed_an_hour_later = {".modelfetch", "locks", "journal", "noop"}  # as several processes write into these folders
    assert {path.parent.name for path in left} <= removed_an_hour_later, left


def new_world(folder: Path) -> World:
    world = World(folder)
    (folder / FOREIGN).parent.mkdir(parents=True)
    (folder / FOREIGN).write_bytes(b"precious")
    for path in PATHS:
        for version in range(3):
            if path not in (SYMLINK, TEXT):
                world.blob(content(path, version))
    return world


@pytest.fixture
def folder() -> Iterator[Path]:
    with in_memory() as folder:
        yield folder


def in_memory() -> contextlib.AbstractContextManager[Path]:
    """A folder on a RAM disk where there is one: hundreds of roots are made here."""
    memory = "/dev/shm"  # noqa: S108 - not a name in it
    return _as_path(tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None))


@contextlib.contextmanager
def _as_path(made: tempfile.TemporaryDirectory[str]) -> Iterator[Path]:
    with made as name:
        yield Path(name)


ALL = dict.fromkeys(PATHS, 1)
STRIDE = 1 if SHARE >= 1 else 4
"""`make test` tries every fourth step."""


@pytest.mark.parametrize("before", [{}, dict.fromkeys(PATHS, 0)], ids=["first sync", "upgrade"])
def test_a_kill_at_any_step_is_finished_by_the_next_run(folder: Path, before: State) -> None:
    step = 0
    struck = True
    while struck:
        world = new_world(folder / str(step))
        if before:
            place(world, before)
        with killed_at(step) as killer:
            place(world, ALL)
        struck = killer.struck
        place(world, ALL)
        require(world, ALL)
        assert not (world.root / ".modelfetch/displaced").exists()
        shutil.rmtree(world.root)
        step += STRIDE
    assert step > 40


states = st.dictionaries(st.sampled_from(PATHS), st.integers(0, 2))


@settings(max_examples=examples(60))
@example(first={COPY: 0}, killed=[({COPY: 1}, 7)], last={LINK: 0}, accident="")  # its model is not wanted any more
@given(
    states,
    st.lists(st.tuples(states, st.integers(0, 90)), max_size=3),
    states.filter(bool),
    st.sampled_from(["", "receipts lost", "receipts damaged"]),
)
def test_any_sequence_of_kills_ends_in_the_requested_files(
    first: State, killed: list[tuple[State, int]], last: State, accident: str
) -> None:
    """Upgrades, downgrades, files added and dropped, each cut off anywhere, also with its receipt lost."""
    with in_memory() as folder:
        world = new_world(folder / "root")
        place(world, first)
        for wanted, step in killed:
            with killed_at(step):
                place(world, wanted)
        for receipt in (world.root / ".modelfetch/receipts").glob("*.json"):
            if accident == "receipts lost":
                receipt.unlink()
            elif accident:
                receipt.write_bytes(receipt.read_bytes()[:-9])
        place(world, last)
        require(world, last)
        assert not (world.root / ".modelfetch/displaced").exists()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_error_at_any_step_is_a_typed_error_and_finished_by_the_next_run(folder: Path, error: int) -> None:
    failures: list[ModelfetchError] = []
    for step in range(0, 70, STRIDE):
        world = new_world(folder / str(step))
        place(world, dict.fromkeys(PATHS, 0))
        with killed_at(step, error=error):
            try:
                place(world, ALL)
            except ModelfetchError as failure:
                failures.append(failure)
        place(world, ALL)
        require(world, ALL)
        shutil.rmtree(world.root)
    assert len(failures) > 5  # a hardlink that fails becomes a copy
    assert {failure.exit_code for failure in failures} <= {73, 74}
