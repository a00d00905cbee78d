"""Real errors: each line names the cause, and its hint the next step."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from modelfetch.cli.app import run
from modelfetch.core import fs, os_errors, temp_files
from modelfetch.demo.hub import Hub
from modelfetch.demo.models import embedding
from modelfetch.demo.world import World
from modelfetch.errors import DestinationError
from tests.faults import RedirectLoop, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    Capture = pytest.CaptureFixture[str]

NOWHERE = "https://127.0.0.1:9/x.safetensors"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    world = World()
    world.file("a.safetensors", embedding())
    with Hub(world) as running:
        yield running


def manifest(source: str, **keys: object) -> None:
    entry = {"name": "m", "kind": "vae", "source": source, "for": ["comfyui"], **keys}
    Path("m.yaml").write_text(json.dumps({"version": 1, "models": [entry]}))


def lines(capsys: Capture, *words: str) -> tuple[int, str, str]:
    """The exit code, the error line and the hint of a command."""
    capsys.readouterr()
    code = run(words)
    *_, error, hint = capsys.readouterr().err.splitlines()
    return code, error.removeprefix("error: "), hint.removeprefix("hint: ")


@pytest.mark.parametrize("command", ["sync", "plan", "status", "verify", "list", "prune"])
@pytest.mark.parametrize("root", ["file", "file/below"])
def test_a_root_that_is_a_file_is_refused_before_any_request(command: str, root: str, capsys: Capture) -> None:
    Path("file").write_text("mine")
    manifest(NOWHERE, size=1000, digest="sha256:" + "a" * 64)
    words = ["m.yaml"] if command in ("sync", "plan", "status") else []
    assert lines(capsys, command, *words, "--root", root) == (
        73,
        "file is not a folder, but --root needs one there",
        "move it away, or name another folder: --root DIR",
    )
    assert Path("file").read_text() == "mine"


def test_a_store_that_is_a_file_is_refused_before_any_request(capsys: Capture) -> None:
    Path("file").write_text("mine")
    manifest(NOWHERE)
    assert lines(capsys, "sync", "m.yaml", "--store", "file")[:2] == (
        73,
        "file is not a folder, but --store needs one there",
    )


@pytest.mark.parametrize(
    "words",
    [
        ["env", "--tier", "8g", "--update"],
        ["report", "--root", ".", "--html"],
        ["add", "file:///nope/x", "--manifest"],
    ],
    ids=lambda words: words[0],
)
def test_a_file_to_write_in_a_missing_folder_is_refused_with_the_command_that_makes_it(
    words: list[str], capsys: Capture
) -> None:
    assert lines(capsys, *words, "none/here/file") == (
        73,
        "none/here/file can't be written: the folder none/here does not exist",
        "make it first: mkdir -p none/here",
    )


@pytest.mark.parametrize(
    ("command", "link"),
    [
        *((command, link) for command in ("add", "fetch") for link in ("file://README.md", "./README.md", "README.md")),
        ("fit", "file://README.md"),
    ],
)
def test_the_error_for_a_local_path_gives_its_uri(command: str, link: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "README.md").write_text("# x")
    code, _, hint = lines(capsys, command, link)
    assert (code, hint) == (2, f"a local file is written {tmp_path.as_uri()}/README.md")


def test_the_error_for_a_missing_local_path_names_it(tmp_path: Path, capsys: Capture) -> None:
    code, _, hint = lines(capsys, "fetch", "./none.safetensors")
    assert (code, hint) == (
        2,
        f"a local file is written {tmp_path.as_uri()}/none.safetensors, but there is no such file",
    )


def test_a_file_that_is_missing_is_looked_for_on_the_disk_rather_than_upstream(capsys: Capture) -> None:
    assert lines(capsys, "fetch", "file:///nope/x") == (
        66,
        "/nope/x does not exist",
        "check the path; is its disk or share mounted?",
    )
    assert lines(capsys, "fetch", "file:///etc")[1:] == (
        "/etc is a folder, not a file",
        "name one file: file:///etc/FILE",
    )
    assert lines(capsys, "fetch", "file:///dev/null")[1:] == (
        "/dev/null is not a regular file",
        "copy its content to a file, and name that",
    )


@pytest.mark.parametrize("text", ["version: 1\nmodels:\n\t- x\n", "version: 1\nmodels: [{naem: x}]\n", ""])
def test_the_hint_of_a_wrong_manifest_is_the_command_that_checks_it(text: str, capsys: Capture) -> None:
    Path("my models.yaml").write_text(text)
    code, _, hint = lines(capsys, "sync", "my models.yaml")
    assert (code, hint) == (78, "correct it, then check it: modelfetch validate 'my models.yaml'")


def test_a_pin_that_upstream_contradicts_comes_with_the_command_that_renews_it(hub: Hub, capsys: Capture) -> None:
    manifest(f"{hub.files}a.safetensors", size=17)
    code, _, hint = lines(capsys, "sync", "m.yaml", "--retries", "0")
    assert (code, hint) == (
        65,
        "if the change upstream is intended, update the pin: `modelfetch pin m.yaml --upgrade m`",
    )


def test_an_entry_without_a_digest_comes_with_the_command_that_pins_it(capsys: Capture) -> None:
    manifest(NOWHERE)
    assert lines(capsys, "sync", "m.yaml", "--require-digests")[2] == "modelfetch pin m.yaml"


@pytest.mark.parametrize(
    ("fault", "code", "hint"),
    [
        (Status(code=503), 69, "the server has a problem: run it again later, or add a mirror"),
        (Status(code=451), 69, "open the address in a browser"),
        (Status(code=401), 77, "put a login for this host into ~/.netrc"),
        (RedirectLoop(), 69, "open the address in a browser: it may need a login, or have moved"),
    ],
)
def test_the_hint_depends_on_the_response_of_the_server(
    fault: Status, code: int, hint: str, hub: Hub, capsys: Capture, request: pytest.FixtureRequest
) -> None:
    hub.faults.add("*a.safetensors", fault, times=None)
    request.addfinalizer(hub.faults.clear)
    found, error, said = lines(capsys, "fetch", f"{hub.files}a.safetensors", "--retries", "0")
    assert found == code
    assert "a.safetensors" in error
    assert hint in said


def test_certificates_that_can_not_be_read_are_named(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    code, error, _ = lines(capsys, "fetch", "https://127.0.0.1:9/x", "--retries", "0")
    assert (code, error) == (78, "SSL_CERT_FILE=/nowhere/ca.pem: No such file or directory")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_the_error_of_a_full_disk_gives_free_and_needed_bytes(number: int, tmp_path: Path) -> None:
    error = os_errors.translate(
        OSError(number, "full"), tmp_path / "none" / "x.part", doing="writing", needed=5 * 2**30
    )
    assert error.code == "no-space"
    assert re.search(r"x\.part: full; [\d.]+ \w+ free, 5\.00 GiB more needed$", error.message)


def test_the_error_names_a_lack_of_inodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Disk:
        f_blocks, f_files, f_favail = 10, 10, 0

    monkeypatch.setattr("os.statvfs", lambda _: Disk)
    message = os_errors.translate(OSError(errno.ENOSPC, "full"), tmp_path, doing="writing").message
    assert message.endswith("full; it has no inodes left (`df -i`)")


def test_the_hint_for_a_read_only_mount_is_to_remount_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Disk:
        f_flag = 1  # ST_RDONLY

    monkeypatch.setattr("os.statvfs", lambda _: Disk)
    error = os_errors.translate(OSError(errno.EROFS, "Read-only file system"), tmp_path / "x", doing="making")
    assert isinstance(error, DestinationError)
    assert error.hint == f"{tmp_path} is mounted read-only: mount it for writing (in a compose file, without `:ro`)"


def test_a_temporary_name_is_not_shown(tmp_path: Path) -> None:
    hidden = str(tmp_path / temp_files.temporary_name())
    error = os_errors.translate(OSError(errno.EIO, "I/O error", hidden), tmp_path / "page.html", doing="writing")
    assert error.message == f"writing {tmp_path}/page.html: I/O error"


def test_no_hint_names_a_page_that_an_installed_package_lacks() -> None:
    package = Path(fs.__file__).parents[1]
    strings = re.compile(r'"[^"\n]*docs/(?:guides|reference)/[^"\n]*"')
    found = [f"{file}: {text}" for file in package.rglob("*.py") for text in strings.findall(file.read_text())]
    assert found == []
