"""One run of the engine as a process, for the benchmarks; the package's own code and nothing else.

Usage: driver.py one STORE URL DIGEST CONNECTIONS durable|fast
       driver.py many STORE LIST.json
       driver.py capped STORE LIST.json BYTES_PER_SECOND
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from pathlib import Path

from modelfetch.config.options import Options
from modelfetch.core.artifact import Artifact, Location
from modelfetch.core.digest import Digest
from modelfetch.http import Http
from modelfetch.store import Store
from modelfetch.transfer import Engine, Tuning


def artifact(url: str, digest: str, size: int | None = None) -> Artifact:
    name = url.rpartition("/")[2]
    where = Location(uri=url, url=url)
    return Artifact(uri=url, path=name, size=size, digest=Digest.parse(digest), locations=(where,))


async def fetch(store: Path, artifacts: list[Artifact], options: Options, tuning: Tuning) -> int:
    """Fetch all of it; returns how many requests that took."""
    http = Http()
    engine = Engine(http=http, store=Store(store), options=options, tuning=tuning)
    try:
        await asyncio.gather(*(engine.fetch(one, label=one.path) for one in artifacts))
    finally:
        await engine.close()
        http.close()
    return http.requests


def main(what: str, store: str, source: str, *rest: str) -> None:
    import httpx  # noqa: F401 - what an import costs is no part of what a download costs

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    options, tuning = Options(), Tuning()
    if what == "one":
        digest, connections, durable = rest
        wanted = [artifact(source, digest)]
        options, tuning = Options(connections=int(connections)), Tuning(durable=durable == "durable")
    else:
        listed = json.loads(Path(source).read_text(encoding="utf-8"))
        wanted = [artifact(url, digest, size) for url, digest, size in listed]
        if what == "capped":
            options = Options(limit_rate=int(rest[0]))
    start = time.monotonic()
    requests = asyncio.run(fetch(Path(store), wanted, options, tuning))
    seconds = time.monotonic() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    sys.stdout.write(json.dumps({"requests": requests, "grown": grown * 1024, "seconds": seconds}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
