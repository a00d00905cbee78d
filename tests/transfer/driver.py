"""A process that fetches one file: for tests that kill it, stop it, or run eight of it.

Usage: driver.py STORE URL DIGEST|- SIZE|- [KEY=VALUE …]; the keys are those of `Tuning`, `LockTiming` and
`Options`; ``noflock=1`` makes flock do nothing,
``grow=1`` opens every connection that is allowed, ``threads=3`` allows no more threads than these, ``memory=N`` no more
bytes of address space beyond what the process has. It prints one JSON object, and exits as the command would.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import resource
import signal
import sys
import threading
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from modelfetch.config.options import Options
from modelfetch.core.artifact import Artifact, Location
from modelfetch.core.cancel import Cancel
from modelfetch.core.digest import Digest
from modelfetch.errors import ModelfetchError
from modelfetch.http import Http, Timeouts
from modelfetch.store import Store
from modelfetch.store.locks.lock import LockTiming
from modelfetch.transfer import Engine, Tuning
from modelfetch.transfer.concurrency import ConcurrencyController
from tests.transfer.world import TIMING, quick


def _chosen(kind: type, given: dict[str, str]) -> dict[str, Any]:
    names = {f.name for f in fields(kind)}
    return {name: json.loads(value) for name, value in given.items() if name in names}


def main(arguments: list[str]) -> int:
    store, url, digest, size, *rest = arguments
    given = dict(pair.split("=", 1) for pair in rest)
    if given.get("noflock"):
        fcntl.flock = lambda _fd, _operation: None
    if given.get("grow"):  # a connection more whenever one is allowed
        setattr(ConcurrencyController, "step", lambda self, _n, _t, *, active, left, behind: int(active < self.most))  # noqa: B010 - mypy
        given["min_piece"] = str(2**20)
    _limit(given)
    cancel = Cancel()
    signal.signal(signal.SIGTERM, lambda _n, _f: cancel.set(code="terminated", exit_code=143))
    signal.signal(signal.SIGINT, lambda _n, _f: cancel.set())
    artifact = Artifact(
        uri=url,
        path=given.get("path", "file.bin"),
        size=None if size == "-" else int(size),
        digest=None if digest == "-" else Digest.parse(digest),
        locations=(Location(uri=url, url=url),),
    )
    if folder := given.get("ready"):  # everything is imported: what follows takes little time
        Path(folder, str(os.getpid())).touch()
    tuning: Tuning = replace(
        quick(), lock_timing=replace(TIMING, **_chosen(LockTiming, given)), **_chosen(Tuning, given)
    )
    try:
        _say(asyncio.run(_fetch(Path(store), artifact, tuning, Options(**_chosen(Options, given)), cancel)))
    except ModelfetchError as error:
        _say({"code": error.code, "message": error.message})
        return error.exit_code
    return 0


def _limit(given: dict[str, str]) -> None:
    """Set the limits that a container may have."""
    start = threading.Thread.start

    def limited(self: threading.Thread) -> None:
        if threading.active_count() >= int(given["threads"]):
            raise RuntimeError("can't start new thread")
        start(self)

    if "threads" in given:
        threading.Thread.start = limited  # type: ignore[method-assign]
    if "memory" in given:
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + int(given["memory"]), resource.RLIM_INFINITY))


def _say(result: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(result) + "\n")


async def _fetch(path: Path, artifact: Artifact, tuning: Tuning, options: Options, cancel: Cancel) -> dict[str, Any]:
    http = Http(timeouts=Timeouts(connect=5.0, headers=30.0, idle=10.0))
    engine = Engine(http=http, store=Store(path), options=options, cancel=cancel, tuning=tuning)
    try:
        fetched = await engine.fetch(artifact, label=artifact.path)
        await engine.close()
    finally:
        http.close()
    return {"action": fetched.action, "bytes_fetched": fetched.bytes_fetched, "digest": str(fetched.blob.digest)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
