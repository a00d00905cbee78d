"""The no-op `sync` of an init container: nothing changed since the last one, so say so at once.

A successful `sync` leaves a note below ROOT (see `modelfetch.cli.fastpath.record`): for this command line, folder and
environment, which files the answer was made of and how each stood. While every one stands so still, the answer
is the same, and it is given here without importing click, YAML or a client. Anything else goes the long way. This
module decides nothing, it only compares, so it can't disagree; a test runs both ways on every case.

Only built-in modules are imported: start-up is the whole cost.
"""

from __future__ import annotations

import os
import sys
import time
from stat import S_ISLNK, S_ISREG

from modelfetch import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAGIC = "modelfetch no-op note 2"
_PREFIXES = ("MODELFETCH_", "HF_", "GPU_", "OLLAMA_", "STABLE_DIFFUSION_", "COMFYUI_", "CIVITAI_", "XDG_")
_NAMES = ("PUID", "PGID", "HOME", "NETRC", "TRANSFORMERS_OFFLINE", "DOCKER_CONFIG", "SSL_CERT_FILE", "SSL_CERT_DIR")
_NEVER = ("--refresh", "--prune", "--progress", "--help", "-h", "auto")
_NEVER_SET = ("MODELFETCH_PROGRESS", "MODELFETCH_SYNC_PROGRESS", "MODELFETCH_PRUNE", "MODELFETCH_SYNC_PRUNE")
_TIER = ("MODELFETCH_SYNC_TIER", "MODELFETCH_TIER", "GPU_VRAM_DEFAULT")


def attempt(argv: Sequence[str]) -> int | None:
    """The exit code, after the same output as the long way's; None where the long way must be gone."""
    started = time.monotonic()
    if not argv or argv[0] != "sync" or any(word.partition("=")[0] in _NEVER for word in argv):
        return None
    if "--tier=auto" in argv or any(os.environ.get(name, "").strip().lower() == "auto" for name in _TIER):
        return None  # the GPU may be another one by now
    if any(os.environ.get(name, "").strip() for name in _NEVER_SET):
        return None
    try:
        place = note_path(root_of(argv, os.environ), key_of(argv, os.environ))
        answer = check(place.read(), place.key)
    except (OSError, ValueError, IndexError):
        return None
    if answer is None:
        return None
    return _say(*answer, seconds=time.monotonic() - started)


def _say(out: str, err: str, *, seconds: float) -> int | None:
    """Print the answer. None where stdout can't be written, which the long way reports."""
    try:
        if out:
            sys.stdout.write(out.replace("{seconds}", repr(round(seconds, 3))) + "\n")
            sys.stdout.flush()
    except BrokenPipeError:
        pass  # the reader has seen what it wanted
    except OSError:
        return None
    try:
        if err:
            sys.stderr.write(err.replace("{seconds}", f"{seconds:.1f}") + "\n")
    except OSError:
        pass  # output that can't be written never changes the verdict
    return 0


class note_path:  # noqa: N801 - used as a function
    """Where the note for a command line is, below the root that it is about, and the key that it must have.

    The key and the file's name are a keyed hash, whose secret only the user that wrote the note can read: notes tell
    nothing about the environment.
    """

    def __init__(self, root: str, text: str, secret: str | None = None) -> None:
        self.folder = os.path.join(root, ".modelfetch/noop")  # noqa: PTH118 - importing pathlib would take too long
        self.secret_path = f"{self.folder}/secret-{os.geteuid()}"
        secret = secret if secret is not None else _read(self.secret_path)
        self.key = sha256_hex(f"{secret}\n{text}".encode(errors="surrogateescape"))
        self.path = f"{self.folder}/{self.key[:16]}"

    def read(self) -> str:
        """Its text."""
        return _read(self.path)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:  # noqa: PTH123 - see above
        return file.read()


def root_of(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """The root that a command line means; a guess that is wrong finds no note, or one whose key does not fit."""
    root = "./files/ai-models"
    for name in ("MODELFETCH_ROOT", "MODELFETCH_SYNC_ROOT"):
        root = environ.get(name, "").strip() or root
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name == "--root":
            root = value if equals else next(words, "")
    return root


def key_of(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """All that the answer depends on beside files: version, words, folder, user and the variables that matter.

    Tokens don't: what is in place is in place whoever asks. They are left out, so none gets into a note.
    """
    matter = sorted(
        f"{name}={value}"
        for name, value in environ.items()
        if (name.startswith(_PREFIXES) or name in _NAMES) and "TOKEN" not in name and value.strip()
    )
    return repr((__version__, list(argv), os.getcwd(), os.geteuid(), matter))  # noqa: PTH109 - see above


def check(note: str, key: str) -> tuple[str, str] | None:
    """The answer (stdout, stderr) of a note, if everything that it names still stands as it says.

    Raises:
        OSError, ValueError, IndexError: Something is not there, or the note is no note.
    """
    lines = note.split("\n")
    if lines[0] != MAGIC or lines[1] != key or lines[-1] != "end":
        return None
    out = err = ""
    for line in lines[2:-1]:
        kind, _, rest = line.partition("\t")
        if kind == "out":
            out = rest
        elif kind == "err":
            err = rest
        elif not _HOLDS[kind](rest.split("\t")):
            return None
    return out, err


def _path_holds(fields: list[str]) -> bool:
    found = os.lstat(fields[2])
    return S_ISREG(found.st_mode) and f"{found.st_size}\t{found.st_mtime_ns}" == f"{fields[0]}\t{fields[1]}"


def _link_holds(fields: list[str]) -> bool:
    return S_ISLNK(os.lstat(fields[1]).st_mode) and os.readlink(fields[1]) == fields[0]  # noqa: PTH115 - see above


def _folder_holds(fields: list[str]) -> bool:
    return os.path.realpath(fields[1]) == fields[0]


def _manifest_holds(fields: list[str]) -> bool:
    with open(fields[1], "rb") as file:  # noqa: PTH123 - see above
        return sha256_hex(file.read()) == fields[0]


def _absent_holds(fields: list[str]) -> bool:
    return not os.path.lexists(fields[0])


def sha256_hex(data: bytes) -> str:
    """The sha256 by the interpreter's own module, which is there without loading OpenSSL."""
    try:
        from _sha256 import sha256  # type: ignore[import-not-found]  # Python 3.11
    except ImportError:
        try:
            from _sha2 import sha256  # type: ignore[import-not-found]  # 3.12 and later
        except ImportError:
            from hashlib import sha256
    digits: str = sha256(data).hexdigest()
    return digits


_HOLDS = {
    "path": _path_holds,
    "link": _link_holds,
    "folder": _folder_holds,
    "manifest": _manifest_holds,
    "absent": _absent_holds,
}
