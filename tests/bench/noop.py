"""The run that has nothing to do: a complete tier of 50 files."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from tests.bench.measure import Entrant, Result, race

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.origins import Origins

FILES = 50
BARE = "python -c pass"
SYNC = "modelfetch sync, complete"


def noop_race(python: Path, origins: Origins, work: Path, rounds: int) -> tuple[dict[str, Result], int]:
    """Sync a tier of 50 files, then race the same against a bare interpreter; also how many requests it sent."""
    manifest = work / "tier.yaml"
    lines = ["version: 1", "models:"]
    for number, file in enumerate(origins.small["10 KiB"][:FILES]):
        lines += [
            f"  - name: m{number}",
            "    kind: lora",
            f"    source: {origins.http}/{file.path}",
            f"    size: {file.size}",
            f"    digest: {file.digest}",
            f"    filename: m{number}.safetensors",
            "    for: [comfyui]",
        ]
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    root = work / "root"
    program = python.with_name("modelfetch")
    command: list[str | Path] = [program, "sync", "--manifest", manifest, "--root", root]
    subprocess.run([*command, "-q"], check=True, capture_output=True)
    reply = subprocess.run([*command, "--json"], check=True, capture_output=True).stdout
    requests = int(json.loads(reply)["requests"])

    def entrant(name: str, command: list[str | Path]) -> Entrant:
        return Entrant(name=name, command=command, clean=lambda: None, check=lambda: None)

    results = race(
        "no-op",
        [entrant(BARE, [python, "-c", "pass"]), entrant(SYNC, command)],
        max(rounds, 7),
    )
    return results, requests
