"""`make bench`: the engine compared with curl, aria2, the official clients and Ollama; writes docs/benchmarks.md.

Usage: run.py [--rounds N] [--size MIB] [--only WORD] [--out FOLDER] [--dir FOLDER] [--python PATH]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench import care  # noqa: E402 - the tree is no package that is installed
from tests.bench.entrants import DURABLE, OURS, Makers, Peers  # noqa: E402
from tests.bench.measure import LEAST_RUNS, Result, race, run_once, say  # noqa: E402
from tests.bench.noop import BARE, SYNC, noop_race  # noqa: E402
from tests.bench.origins import CAP, ROUND_TRIP, Origins, serving  # noqa: E402
from tests.bench.report import Table, Target, page, plot  # noqa: E402
from tests.bench.scale import Growth, scale_race  # noqa: E402
from tests.e2e.cache import program  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 40_000_000
CURL = "curl -o (no hash)"
ARIA = "aria2c -x16 --checksum"
ARIA_MANY = "aria2c -j16 (no hash)"


class Bench:
    """All races, and what they found."""

    def __init__(self, peers: Peers, origins: Origins, work: Path, rounds: int) -> None:
        self._peers = peers
        self._makers = Makers(peers, origins, work)
        self._origins = origins
        self._work = work
        self._rounds = rounds
        self.tables: list[Table] = []
        self.targets: list[Target] = []
        self.growth: list[Growth] = []

    def big(self) -> None:
        """One big file over plain HTTP."""
        file, url = self._origins.big, f"{self._origins.http}/big.bin"
        makers = self._makers
        entrants = [*makers.curl(url, file), *makers.ours(url, file, durable=False), *makers.ours(url, file)]
        entrants += [*makers.aria2c(url, file, 16), *makers.huggingface(file), *makers.ollama(file)]
        entrants += [*makers.curl_and_hash(url, file), *makers.aria2c(url, file, 1), *makers.ours_by_command(url, file)]
        results = race("big", entrants, self._rounds)
        gib = file.size / 2**30
        note = "nginx on the same cores. `modelfetch (sha256)` writes as the others do; `on disk` also waits for fsync."
        self._add(f"{gib:g} GiB, one file, loopback", note, results, CURL, file.size)
        self._promise("verified, against curl without a hash", results, OURS, CURL, 1.25)
        self._promise("verified and durable, against curl without a hash", results, DURABLE, CURL, 1.0)
        self._promise("verified, against aria2c -x16 --checksum", results, OURS, ARIA, 3.5)
        self._promise(
            "verified, against huggingface_hub without a hash", results, OURS, "huggingface_hub (no hash)", 3.5
        )
        self._promise("verified, against ollama pull", results, OURS, "ollama pull", 1.8)

    def tls(self) -> None:
        """The same over TLS."""
        file, url = self._origins.big, f"{self._origins.https}/big.bin"
        makers = self._makers
        entrants = [*makers.curl(url, file), *makers.ours(url, file, durable=False), *makers.ours(url, file)]
        entrants += makers.aria2c(url, file, 16)
        results = race("tls", entrants, self._rounds)
        note = "nginx with a certificate of the bench's own; each client checks it."
        self._add(f"{file.size / 2**30:g} GiB over TLS", note, results, CURL, file.size)
        self._promise("over TLS, verified, against curl without a hash", results, OURS, CURL, 0.65)
        self._promise("over TLS, verified, against aria2c --checksum", results, OURS, ARIA, 2.0)

    def ranges(self) -> None:
        """An origin that caps each connection."""
        file, url = self._origins.half, f"{self._origins.capped}/half.bin"
        for connections in (4, 8, 16):
            entrants = self._makers.aria2c(url, file, connections)
            entrants += self._makers.ours(url, file, connections=connections)
            results = race(f"ranges {connections}", entrants, self._rounds)
            base = f"aria2c -x{connections} --checksum"
            note = f"{CAP / 2**20:g} MiB/s for each connection, paced by the kernel; at most {connections} connections."
            self._add(f"{file.size / 2**20:g} MiB, {connections} capped connections", note, results, base, file.size)
            self._promise(f"{connections} capped connections, against aria2c --checksum", results, DURABLE, base, 1.3)
        grown = max(run.said["grown"] for run in results[DURABLE].runs)
        mib = grown / 2**20
        self.targets.append(Target(what="MiB above the import at 16 connections", found=mib, wanted=64, least=False))

    def small(self) -> None:
        """Many small files over a round trip."""
        for name, files in self._origins.small.items():
            entrants = [*self._makers.aria2c_many(files), *self._makers.ours_many(files)]
            results = race(f"{len(files)} x {name}", entrants, self._rounds)
            note = (
                f"A delay line in user space: {ROUND_TRIP} ms of round trip. modelfetch verifies and syncs each file."
            )
            title = f"{len(files)} x {name}, {ROUND_TRIP} ms"
            self._add(title, note, results, ARIA_MANY, sum(f.size for f in files))
            self._promise(f"{title}, against aria2c -j16", results, DURABLE, ARIA_MANY, 0.9)

    def rate(self) -> None:
        """The cap on the whole process."""
        files = self._origins.small["1 MiB"]
        (entrant,) = self._makers.ours_many(files, limit=LIMIT)
        found = []
        for _ in range(3):
            say("rate")
            found.append(sum(f.size for f in files) / run_once(entrant).said["seconds"] / LIMIT)
        ratio = statistics.median(found)
        self.targets.append(
            Target(what="--limit-rate: real rate over the cap, at most", found=ratio, wanted=1.05, least=False)
        )
        self.targets.append(Target(what="--limit-rate: real rate over the cap, at least", found=ratio, wanted=0.95))

    def noop(self) -> None:
        """A sync with nothing to do."""
        results, requests = noop_race(self._peers.python, self._origins, self._work, self._rounds)
        self._add("Nothing to do: a complete tier of 50 files", "No request is sent.", results, BARE, 0)
        times = results[SYNC].wall / results[BARE].wall
        self.targets.append(Target(what="no-op sync, in bare interpreter starts", found=times, wanted=4, least=False))
        self.targets.append(Target(what="no-op sync, requests", found=float(requests), wanted=0, least=False))

    def care(self) -> None:
        """What is at rest: verify, repair, list."""
        for files in (1, 200):
            size = self._origins.big.size // files // care.MIB * care.MIB
            results = care.verify_race(self._peers.python, self._work, files, size)
            gib = files * size / 2**30
            note = (
                "Pages in memory. `sha256sum` hashes one file after the other; `hf cache verify` also lists the repo."
            )
            self._add(
                f"Verify {gib:.3g} GiB in {files} file{'s' if files > 1 else ''}", note, results, care.SHA256SUM, 0
            )
            least = 0.9 if files == 1 else 1.5  # many files are hashed on both cores
            self._promise(f"verify {files}, against sha256sum", results, care.OURS, care.SHA256SUM, least)
            self._promise(f"verify {files}, against hf cache verify", results, care.OURS, "hf cache verify", 0.9)
        chunks = care.repaired_chunks(self._peers.python, self._work)
        what = "repair of one flipped byte: chunks of 16 MiB fetched"
        self.targets.append(Target(what=what, found=chunks, wanted=2, least=False))
        for name, seconds in care.growth(self._peers.python, self._work, 10_000).items():
            least, most = seconds.values()
            what = f"{name}: time for 10,000 placements over four times that for 2,500 ({most:.2f} s, {least:.2f} s)"
            self.targets.append(Target(what=what, found=most / least / 4, wanted=1.1, least=False))

    def scale(self) -> None:
        """Many models, and many files of one model."""
        self.growth = scale_race(self._peers.python, self._work, self._rounds)
        for one in self.growth:
            what = f"{one.step}: twice as many {one.what} take, at most, times"
            self.targets.append(Target(what=what, found=one.worst, wanted=2.2, least=False))

    def _add(self, title: str, note: str, results: dict[str, Result], base: str, size: int) -> None:
        self.tables.append(Table(title=title, note=note, results=results, base=base, size=size))

    def _promise(self, what: str, results: dict[str, Result], ours: str, other: str, wanted: float) -> None:
        known = ours in results and other in results
        found = results[other].wall / results[ours].wall if known else None
        self.targets.append(Target(what=what, found=found, wanted=wanted))


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--size", type=int, default=2048, help="MiB of the big file")
    options.add_argument("--only", default="", help="run only the races whose name holds this")
    options.add_argument("--out", type=Path, help="the page's folder (default: docs; with --only, the page is printed)")
    options.add_argument("--dir", type=Path, default=None, help="a folder on the disk to measure")
    options.add_argument("--python", type=Path, default=Path(sys.executable), help="of an installation of modelfetch")
    chosen = options.parse_args()
    peers = Peers.look(chosen.python.absolute())
    with (
        tempfile.TemporaryDirectory(prefix="modelfetch-bench-", dir=chosen.dir) as folder,
        serving(Path(folder, "origin"), program("nginx", "nginx"), big=chosen.size * 2**20) as origins,
    ):
        work = Path(folder, "work")
        work.mkdir()
        bench = Bench(peers, origins, work, chosen.rounds)
        races: dict[str, Callable[[], None]] = {
            "big": bench.big,
            "tls": bench.tls,
            "ranges": bench.ranges,
            "small": bench.small,
            "rate": bench.rate,
            "noop": bench.noop,
            "care": bench.care,
            "scale": bench.scale,
        }
        for name, run in races.items():
            if chosen.only in name:
                run()
    words = [
        f"{chosen.rounds} rounds, fewer of slow programs; at least {min(chosen.rounds, LEAST_RUNS)}.",
        "CPU seconds depend less on what else the machine does than wall seconds.",
        "modelfetch and huggingface_hub run from an installation without development tools.",
        "Peak memory is not seen below that of the program that measures, some 25 MiB.",
        "The kernel's netem is not needed: the delay is made in user space (`tests/bench/delay.py`).",
    ]
    text = page(bench.tables, bench.targets, peers.missing, words, bench.growth)
    if chosen.only and chosen.out is None:
        sys.stdout.write(text)
    else:
        out = chosen.out or ROOT / "docs"
        out.mkdir(parents=True, exist_ok=True)
        (out / "benchmarks.md").write_text(text, encoding="utf-8")
        (out / "benchmarks.svg").write_text(plot(bench.tables), encoding="utf-8")
    for target in bench.targets:
        say(f"{'ok  ' if target.met else 'MISS'} {target.what}: {target.found} (wanted {target.wanted})")


if __name__ == "__main__":
    main()
