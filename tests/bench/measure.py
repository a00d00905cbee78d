"""Run programs in turns, and measure each."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


LEAST_RUNS = 3
_ENOUGH_SECONDS = 8.0
"""A program that has run for longer in `LEAST_RUNS` runs is not run again, so that all races take some 12 minutes."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of one program: wall seconds, CPU seconds, peak memory in bytes, and what it printed as JSON."""

    wall: float
    cpu: float
    peak: int
    said: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A program in a race.

    Attributes:
        name: What the table calls it.
        command: What is run.
        clean: Removes what the last run left; its time does not count.
        check: Raises if the run did not do its work; its time does not count.
        env: Variables that are set for it.
        before, after: Around each run, uncounted: a server that it needs, say.
    """

    name: str
    command: Sequence[str | Path]
    clean: Callable[[], None]
    check: Callable[[], None]
    env: dict[str, str] = field(default_factory=dict)
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class Result:
    """All runs of an entrant."""

    name: str
    runs: tuple[Run, ...]

    @property
    def wall(self) -> float:
        """The median of the wall seconds."""
        return statistics.median(run.wall for run in self.runs)

    @property
    def cpu(self) -> float:
        """The median of the CPU seconds."""
        return statistics.median(run.cpu for run in self.runs)

    @property
    def peak(self) -> int:
        """The largest memory of all runs."""
        return max(run.peak for run in self.runs)

    @property
    def spread(self) -> float:
        """The slowest run over the fastest."""
        return max(run.wall for run in self.runs) / min(run.wall for run in self.runs)


def race(title: str, entrants: Sequence[Entrant], rounds: int) -> dict[str, Result]:
    """Run each in turn, `rounds` times, on a disk that has nothing left to write; a slow one not as often."""
    runs: dict[str, list[Run]] = {entrant.name: [] for entrant in entrants}
    for turn in range(rounds):
        for entrant in entrants:
            if turn >= LEAST_RUNS and sum(run.wall for run in runs[entrant.name]) > _ENOUGH_SECONDS:
                continue
            say(f"{title}: {entrant.name} ({turn + 1}/{rounds})")
            runs[entrant.name].append(run_once(entrant))
    return {name: Result(name=name, runs=tuple(found)) for name, found in runs.items()}


def run_once(entrant: Entrant) -> Run:
    """One run: wait for an idle disk before, clean up after."""
    entrant.clean()
    entrant.before()
    os.sync()
    try:
        run = timed(entrant.command, entrant.env)
        entrant.check()
    finally:
        entrant.after()
        entrant.clean()
    return run


def timed(command: Sequence[str | Path], env: dict[str, str]) -> Run:
    """Run a program to its end.

    Raises:
        RuntimeError: It failed.
    """
    start = time.monotonic()
    process = subprocess.Popen(
        [str(part) for part in command],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    err = process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {err.decode(errors='replace')[-2000:]}")
    said = json.loads(out) if out.startswith(b"{") else {}
    return Run(wall=wall, cpu=usage.ru_utime + usage.ru_stime, peak=usage.ru_maxrss * 1024, said=said)


def remove(*paths: Path) -> Callable[[], None]:
    """A clean-up that removes files and folders."""

    def clean() -> None:
        for path in paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    return clean


def say(text: str) -> None:
    """Print on stderr."""
    sys.stderr.write(f"bench: {text}\n")
