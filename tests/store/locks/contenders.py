"""Processes that repeatedly take one lock, and are killed or suspended at random; prints the observations.

Usage: contenders.py FOLDER PROCESSES KILLS SEED [KEY=VALUE …]; the keys are those of `LockTiming`; ``noflock=1`` makes
flock do nothing, ``kill=0.15`` is the share of owners that are killed, ``suspend=0.1`` that of those that are suspended
for up to a second. It prints one JSON object: how often the lock was acquired and lost, how many processes were killed
and suspended, and each violation (see `_violations`).

The processes are forked from this one, which has no thread, and each is replaced when it is killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from modelfetch.store.locks.lock import Held, LockTiming, lock


def _contend(folder: Path, seed: int, timing: LockTiming, kill: float, suspend: float) -> NoReturn:
    chance, log = random.Random(seed), folder / f"log-{os.getpid()}"
    while not (folder / "stop").exists():
        with lock(folder / "key.lock", label="x", timing=timing) as held:
            _note(log, f"acquired {time.monotonic_ns()} {held.owner.nonce}")
            _confirm(held, log)
            time.sleep(chance.random() * 0.002)
            if chance.random() < kill:
                os.kill(os.getpid(), signal.SIGKILL)
            if chance.random() < suspend:
                _note(log, f"suspended {time.monotonic_ns()} {held.owner.nonce}")
                os.kill(os.getpid(), signal.SIGSTOP)
            _confirm(held, log)
    os._exit(0)


def _confirm(held: Held, log: Path) -> None:
    now = time.monotonic_ns()
    _note(log, f"{'owned' if held.still_owned() else 'lost'} {now} {held.owner.nonce}")


def _note(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text + "\n")


def _violations(lines: list[tuple[str, int, str]]) -> list[str]:
    """Return each case of an owner whose check succeeded although another one had acquired the lock."""
    found, last = [], ""
    for word, when, nonce in sorted(lines, key=lambda line: line[1]):
        if word == "acquired":
            last = nonce
        elif word == "owned" and nonce != last:
            found.append(f"{nonce} owns the lock at {when}, after {last} acquired it")
    return found


def _start_waker(folder: Path) -> int:
    """Fork a process that resumes the suspended ones, each after up to a second, until all have ended."""
    pid = os.fork()
    if pid:
        return pid
    chance = random.Random(1)
    until: dict[int, float] = {}
    while True:
        time.sleep(0.02)
        states = {pid: _state(pid) for pid in map(int, (folder / "alive").read_text().split())}
        if (folder / "stop").exists() and all(state in ("", "Z") for state in states.values()):
            os._exit(0)
        for pid in (pid for pid, state in states.items() if state == "T"):
            if time.monotonic() >= until.setdefault(pid, time.monotonic() + chance.random()):
                del until[pid]
                os.kill(pid, signal.SIGCONT)


def _state(pid: int) -> str:
    """The state of a process: T is stopped, Z has ended but was not waited for; empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def main(arguments: list[str]) -> int:
    folder, processes, kills, seed = Path(arguments[0]), *map(int, arguments[1:4])
    given = dict(pair.split("=", 1) for pair in arguments[4:])
    if given.get("noflock"):
        fcntl.flock = lambda _fd, _operation: None
    names = {f.name for f in fields(LockTiming)}
    timing = LockTiming(**{name: float(value) for name, value in given.items() if name in names})
    alive: set[int] = set()
    killed = started = 0
    (folder / "alive").touch()
    waker = _start_waker(folder)
    while killed < kills:
        while len(alive) < processes:
            started += 1
            pid = os.fork()
            if pid == 0:
                _contend(folder, seed + started, timing, float(given.get("kill", 0)), float(given.get("suspend", 0)))
            alive.add(pid)
        (folder / "alive.new").write_text(" ".join(map(str, alive)))
        (folder / "alive.new").replace(folder / "alive")
        pid, status = os.wait()
        if pid == waker or not os.WIFSIGNALED(status):
            raise SystemExit(f"process {pid} ended with {status}")
        alive.remove(pid)
        killed += 1
    (folder / "stop").touch()
    for _ in range(len(alive) + 1):
        os.wait()  # in the order in which they end: a process counts as alive until it is waited for
    words = [line.split() for log in folder.glob("log-*") for line in log.read_text().splitlines()]
    lines = [(word, int(when), nonce) for word, when, nonce in words]
    result: dict[str, Any] = {"killed": killed, "violations": _violations(lines)}
    for counted in ("acquired", "lost", "suspended"):
        result[counted] = sum(word == counted for word, _, _ in lines)
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
