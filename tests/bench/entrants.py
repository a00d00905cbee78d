"""The programs in the races, and those that are not available."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.measure import Entrant, remove
from tests.bench.origins import File, Origins, free_ports, running, wait_for_port
from tests.e2e.cache import PeerUnavailableError, program
from tests.e2e.peers import ollama

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HERE = Path(__file__).parent
OURS = "modelfetch (sha256)"
DURABLE = "modelfetch (sha256, on disk)"
Command = list[str | Path]


@dataclass
class Peers:
    """Where the programs are; `missing` names those that are not installed, with the reason."""

    python: Path = Path(sys.executable)
    """The interpreter of an installation of modelfetch, with what that brings and nothing else."""
    found: dict[str, Path] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @classmethod
    def look(cls, python: Path) -> Peers:
        """Look for all of them; Ollama is built if it has to be."""
        peers = cls(python=python)
        wanted: dict[str, Callable[[], Path]] = {
            "curl": lambda: program("curl", "curl"),
            "aria2c": lambda: program("aria2c", "aria2"),
            "openssl": lambda: program("openssl", "openssl"),
            "ollama": ollama,
        }
        for name, find in wanted.items():
            try:
                peers.found[name] = find()
            except PeerUnavailableError as error:
                peers.missing[name] = str(error)
        return peers


class Makers:
    """Builds the entrants of each race from what was found."""

    def __init__(self, peers: Peers, origins: Origins, work: Path) -> None:
        self._peers = peers
        self._origins = origins
        self._out = work / "out"
        self._store = work / "store"
        self._work = work
        self._clean = remove(self._out, self._store)

    def _made(self, name: str, peer: str | None, command: Command, file: File, path: Path) -> list[Entrant]:
        """An entrant, or none where its program is missing."""
        if peer is not None:
            if peer not in self._peers.found:
                return []
            command = [self._peers.found[peer], *command]
        return [Entrant(name=name, command=command, clean=self._clean, check=lambda: check_file(path, file))]

    def curl(self, url: str, file: File) -> list[Entrant]:
        command: Command = ["-sf", "--cacert", self._origins.authority, "-o", self._out, url]
        return self._made("curl -o (no hash)", "curl", command, file, self._out)

    def curl_and_hash(self, url: str, file: File) -> list[Entrant]:
        if not {"curl", "openssl"} <= set(self._peers.found):
            return []
        script = '"$0" -sf -o "$1" "$2" && "$3" dgst -sha256 "$1"'
        curl, openssl = self._peers.found["curl"], self._peers.found["openssl"]
        command: Command = ["sh", "-c", script, curl, self._out, url, openssl]
        return self._made("curl, then openssl dgst", None, command, file, self._out)

    def aria2c(self, url: str, file: File, connections: int) -> list[Entrant]:
        command: Command = ["-q", f"-x{connections}", f"-s{connections}", "-k1M", "--file-allocation=none"]
        command += [f"--checksum=sha-256={file.digest[7:]}", f"--ca-certificate={self._origins.authority}"]
        command += ["-d", str(self._out.parent), "-o", self._out.name, url]
        return self._made(f"aria2c -x{connections} --checksum", "aria2c", command, file, self._out)

    def aria2c_many(self, files: Sequence[File]) -> list[Entrant]:
        if "aria2c" not in self._peers.found:
            return []
        listed = self._work / "aria2.txt"
        listed.write_text("".join(f"{self._origins.delayed}/{f.path}\n" for f in files), encoding="utf-8")
        command: Command = [
            self._peers.found["aria2c"],
            "-q",
            "-j16",
            "--file-allocation=none",
            "-d",
            self._out,
            "-i",
            listed,
        ]
        check = self._check_all(lambda file: self._out / file.path, files)
        return [Entrant(name="aria2c -j16 (no hash)", command=command, clean=self._clean, check=check)]

    def huggingface(self, file: File) -> list[Entrant]:
        code = "from huggingface_hub import hf_hub_download; hf_hub_download('bench/model', 'big.bin', cache_dir=@)"
        code = code.replace("@", repr(str(self._out)))
        env = {"HF_ENDPOINT": self._origins.http, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        path = self._out / "models--bench--model" / "snapshots" / ("1" * 40) / "big.bin"
        command: Command = [self._peers.python, "-c", code]
        made = self._made("huggingface_hub (no hash)", None, command, file, path)
        return [Entrant(**{**vars(entrant), "env": env}) for entrant in made]

    def ollama(self, file: File) -> list[Entrant]:
        if "ollama" not in self._peers.found:
            return []
        path = self._peers.found["ollama"]
        stack = contextlib.ExitStack()
        (port,) = free_ports(1)
        host = f"127.0.0.1:{port}"
        env = {"OLLAMA_HOST": host, "HOME": str(self._work), "OLLAMA_MODELS": str(self._out), "OLLAMA_NOPRUNE": "1"}

        def serve() -> None:
            self._out.mkdir()
            stack.enter_context(running([str(path), "serve"], env))
            wait_for_port(port)

        registry = self._origins.http.removeprefix("http://")
        return [
            Entrant(
                name="ollama pull",
                command=[path, "pull", "--insecure", f"{registry}/library/bench:1"],
                clean=self._clean,
                check=lambda: check_file(self._out / "blobs" / file.digest.replace(":", "-"), file),
                env=env,
                before=serve,
                after=stack.close,
            )
        ]

    def ours(self, url: str, file: File, *, connections: int = 8, durable: bool = True) -> list[Entrant]:
        how = "durable" if durable else "fast"
        command: Command = [
            self._peers.python,
            HERE / "driver.py",
            "one",
            self._store,
            url,
            file.digest,
            str(connections),
            how,
        ]
        made = self._made(DURABLE if durable else OURS, None, command, file, self._blob(file))
        return [Entrant(**{**vars(entrant), "env": self._trust()}) for entrant in made]

    def ours_by_command(self, url: str, file: File) -> list[Entrant]:
        command: Command = [
            self._peers.python,
            "-m",
            "modelfetch",
            "fetch",
            "-q",
            url,
            "--digest",
            file.digest,
            "-o",
            self._out,
        ]
        made = self._made("modelfetch fetch -o", None, command, file, self._out)
        env = {"MODELFETCH_CACHE": str(self._store), "XDG_CACHE_HOME": str(self._store)}
        return [Entrant(**{**vars(entrant), "env": env}) for entrant in made]

    def ours_many(self, files: Sequence[File], *, limit: int | None = None) -> list[Entrant]:
        listed = self._work / "files.json"
        base = self._origins.http if limit else self._origins.delayed
        listed.write_text(json.dumps([(f"{base}/{f.path}", f.digest, f.size) for f in files]), encoding="utf-8")
        what = ["many"] if limit is None else ["capped"]
        command: Command = [
            self._peers.python,
            HERE / "driver.py",
            *what,
            self._store,
            listed,
            *([str(limit)] if limit else []),
        ]
        check = self._check_all(self._blob, files)
        return [Entrant(name=DURABLE, command=command, clean=self._clean, check=check)]

    def _trust(self) -> dict[str, str]:
        return {"SSL_CERT_FILE": str(self._origins.authority)}

    def _blob(self, file: File) -> Path:
        return self._store / "blobs" / "sha256" / file.digest[7:9] / file.digest[7:]

    @staticmethod
    def _check_all(where: Callable[[File], Path], files: Sequence[File]) -> Callable[[], None]:
        def check() -> None:
            for file in files:
                check_file(where(file), file, hashed=False)

        return check


def check_file(path: Path, file: File, *, hashed: bool = True) -> None:
    """Raise if a program did not download what it should."""
    if path.stat().st_size != file.size:
        raise RuntimeError(f"{path} has {path.stat().st_size} bytes, expected {file.size}")
    if hashed:
        with path.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != file.digest[7:]:
            raise RuntimeError(f"{path} is wrong")
