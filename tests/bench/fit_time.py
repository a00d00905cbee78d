"""How long `modelfetch fit` takes for each tier over round trips of 50 ms; part of `make bench-fit`.

The hub on this machine waits 50 ms before each response; two more round trips are added for each new connection (TCP
and TLS), which the hub does not have.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import time

from modelfetch.cli.app import run
from modelfetch.demo.hub import Hub
from tests.faults import Stall
from tests.fitting.world import shipped, tier_world

TIERS = ("8g", "12g", "16g", "24g", "32g", "94g")
ROUND_TRIP = 0.05
LIMIT, MOST = 3.0, 8 * 2**20


def measure(hub: Hub, tier: str, folder: str) -> tuple[float, int, int, int]:
    """Seconds, requests, connections and bytes of one tier."""
    hub.log.clear()
    output = io.StringIO()
    started = time.monotonic()
    with contextlib.redirect_stdout(output):
        run(["fit", "--tier", tier, "--json", "--root", f"{folder}/{tier}"])
    taken = time.monotonic() - started
    requests = hub.log.requests()
    connections = len({request.connection for request in requests})
    return (
        taken + 2 * ROUND_TRIP * connections,
        len(requests),
        connections,
        json.loads(output.getvalue())["bytes_fetched"],
    )


def main() -> int:
    slow = False
    with tempfile.TemporaryDirectory() as folder, Hub(tier_world(*(shipped(tier) for tier in TIERS))) as hub:
        os.environ |= {"HF_ENDPOINT": hub.endpoint, "MODELFETCH_OLLAMA_REGISTRY": hub.ollama, "HF_TOKEN": "hf_member"}
        hub.faults.add("*", Stall(seconds=ROUND_TRIP), times=None)
        measure(hub, TIERS[0], f"{folder}/first")  # imports
        print("tier   seconds  requests  connections    MiB")  # noqa: T201
        for tier in TIERS:
            seconds, requests, connections, size = measure(hub, tier, folder)
            print(f"{tier:6} {seconds:7.2f} {requests:9} {connections:12} {size / 2**20:6.2f}")  # noqa: T201
            slow = slow or seconds >= LIMIT or size > MOST
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
