"""The no-op `sync` of an init container: answer immediately if nothing changed since the last run.

A successful `sync` leaves a note below ROOT (see `modelfetch.cli.fastpath.record`): for this command line, folder and
environment, which files the result depends on, and the state of each. While all of them are unchanged, the result is
the same, and it is printed here without importing click, YAML or an HTTP client. In any other case the full command
runs. This module only compares and makes no decisions, so its result can't differ from the full command's; a test runs
both on every case.

Only modules that are built in or import nothing are imported, because start-up is the whole cost.
"""

from __future__ import annotations

import os
import sys
import time
from stat import S_ISLNK, S_ISREG

from modelfetch import __version__
from modelfetch.core.root import DEFAULT_ROOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MAX_BYTES = 256 * 2**20
MAGIC = "modelfetch no-op note 3"
_PREFIXES = ("MODELFETCH_", "HF_", "GPU_", "OLLAMA_", "STABLE_DIFFUSION_", "COMFYUI_", "CIVITAI_", "XDG_")
_NAMES = (
    *("PUID", "PGID", "HOME", "NETRC", "TRANSFORMERS_OFFLINE", "DOCKER_CONFIG", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"),  # an invalid one is 78
)
_NEVER = ("--refresh", "--prune", "--progress", "--help", "-h")
_NEVER_SET = ("MODELFETCH_PROGRESS", "MODELFETCH_SYNC_PROGRESS", "MODELFETCH_PRUNE", "MODELFETCH_SYNC_PRUNE")
_TIER = ("MODELFETCH_SYNC_TIER", "MODELFETCH_TIER", "GPU_VRAM_DEFAULT")


def attempt(argv: Sequence[str]) -> int | None:
    """Return the exit code, after the same output as the full command; None if the full command must run."""
    started = time.monotonic()
    if not argv or argv[0] != "sync" or any(word.partition("=")[0] in _NEVER for word in argv):
        return None
    tiers = [*(word.removeprefix("--tier=") for word in argv), *(os.environ.get(name, "") for name in _TIER)]
    if any(tier.strip().lower() == "auto" for tier in tiers):
        return None  # the GPU may have been replaced
    if any(os.environ.get(name, "").strip() for name in _NEVER_SET):
        return None
    try:
        folder = notes_folder(root_of(argv, os.environ))
        path, key = note_of(folder, key_of(argv, os.environ), _read(secret_path(folder)))
        answer = check(_read(path), key)
    except (OSError, ValueError, LookupError):
        return None
    if answer is None:
        return None
    return _print(*answer, seconds=time.monotonic() - started)


def _print(out: str, err: str, *, seconds: float) -> int | None:
    """Print the result. None if stdout can't be written to, which the full command reports."""
    try:
        if out:
            sys.stdout.write(out.replace("{seconds}", repr(round(seconds, 3))) + "\n")
            sys.stdout.flush()
    except BrokenPipeError:
        pass  # the reader closed the pipe, which is not an error
    except OSError:
        return None
    try:
        if err:
            sys.stderr.write(err.replace("{seconds}", f"{seconds:.1f}") + "\n")
    except OSError:
        pass  # an unwritable stderr does not change the exit code
    return 0


def notes_folder(root: str) -> str:
    """The folder of the notes of a root."""
    return os.path.join(root, ".modelfetch/noop")  # noqa: PTH118 - importing pathlib would take too long


def secret_path(folder: str) -> str:
    """The file with this user's secret for the notes in a folder."""
    return f"{folder}/secret-{os.geteuid()}"


def note_of(folder: str, text: str, secret: str) -> tuple[str, str]:
    """The path of the note for a command line (`key_of`), and the key that the note must have.

    Both come from a keyed hash, and only the user that wrote the note can read its secret, so notes reveal nothing
    about the environment.
    """
    key = sha256_hex(f"{secret}\n{text}".encode(errors="surrogateescape"))
    return f"{folder}/{key[:16]}", key


def _read(path: str) -> str:
    return read_bytes(path).decode("utf-8", "surrogateescape")


def read_bytes(path: str) -> bytes:
    """Read a regular file of reasonable size; anything else is left to the full command, which reports it.

    Raises:
        OSError, ValueError: It can't be read, or is something else.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(fd, "rb") as file:  # noqa: PTH123 - see above
        found = os.fstat(fd)
        if not S_ISREG(found.st_mode) or found.st_size > _MAX_BYTES:
            raise ValueError(path)
        return file.read()


def root_of(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """Guess the root of a command line; after a wrong guess there is no note, or its key does not match."""
    root = DEFAULT_ROOT
    for name in ("MODELFETCH_ROOT", "MODELFETCH_SYNC_ROOT"):
        root = environ.get(name, "").strip() or root
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name == "--root":
            root = value if equals else next(words, "")
    return root


def key_of(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """Everything that the result depends on besides files: version, arguments, folder, user and relevant variables.

    Tokens are left out: they do not affect whether files are in place, and they must not get into a note.
    """
    relevant = sorted(
        f"{name}={value}"
        for name, value in environ.items()
        if (name.startswith(_PREFIXES) or name in _NAMES) and "TOKEN" not in name and value.strip()
    )
    return repr((__version__, list(argv), os.getcwd(), os.geteuid(), relevant))  # noqa: PTH109 - see above


def check(note: str, key: str) -> tuple[str, str] | None:
    """Return the output (stdout, stderr) stored in a note, if everything that it lists is unchanged; otherwise None.

    Raises:
        OSError, ValueError, LookupError: Something is missing, or the note is malformed.
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
    return sha256_hex(read_bytes(fields[1])) == fields[0]


def _absent_holds(fields: list[str]) -> bool:
    return not os.path.lexists(fields[0])


def _checks_hold(fields: list[str]) -> bool:
    size, mtime_ns, damaged, path = fields
    is_same = os.path.lexists(path) and _path_holds([size, mtime_ns, path])
    return is_same or damaged == damaged_files(path)


def damaged_files(path: str) -> str:
    """A hash of the checks in a ``checks.json`` that found a damaged file: those without damage change no result."""
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        return sha256_hex(b"[]")
    try:
        from modelfetch.core.json_fields import parse  # only here, as json and typing take long to import

        raw = parse(data)
        if raw["version"] == 1:
            data = repr(sorted((key, check) for key, check in raw["checked"].items() if not check[3])).encode()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass  # without its meaning, every change of it counts
    return sha256_hex(data)


def sha256_hex(data: bytes) -> str:
    """The sha256 from the interpreter's built-in module, which avoids loading OpenSSL."""
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
    "checks": _checks_hold,
}
