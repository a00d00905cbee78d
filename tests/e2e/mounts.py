"""Real file systems, each in its own file or in memory, mounted for one test."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.e2e.cache import ENVIRONMENT, must_run, program

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystem:
    """A kind of file system, and what it can't do."""

    name: str
    make: tuple[str, ...] = ()
    mount: tuple[str, ...] = ("mount", "-o", "loop")
    options: tuple[str, ...] = ()
    package: str = "mount"
    size: int = 256 * MIB
    hardlinks: bool = True
    symlinks: bool = True
    on_device: bool = False


FILE_SYSTEMS = (
    FileSystem(name="tmpfs", mount=("mount", "-t", "tmpfs"), options=("-o", "size=256m")),
    FileSystem(name="btrfs", make=("mkfs.btrfs", "-q"), package="btrfs-progs"),
    FileSystem(name="xfs", make=("mkfs.xfs", "-q"), package="xfsprogs", size=320 * MIB),
    FileSystem(name="ntfs", make=("mkntfs", "-F", "-Q"), mount=("ntfs-3g",), package="ntfs-3g"),
    FileSystem(
        name="exfat",
        make=("mkfs.exfat",),
        mount=("mount.exfat-fuse",),
        package="exfat-fuse exfatprogs",
        hardlinks=False,
        symlinks=False,
        on_device=True,
    ),
    FileSystem(name="mergerfs", mount=("mergerfs", "-o", "category.create=mfs"), package="mergerfs"),
    # It creates symlinks that contain `..`, but refuses to read them.
    FileSystem(name="sshfs", mount=("sshfs", "-f", "-o", "passive"), package="sshfs", symlinks=False),
)
# Not fusefat 0.1a: of what two descriptors write to one file, it loses one part (the file then begins with zeros).
CASELESS = (
    next(kind for kind in FILE_SYSTEMS if kind.name == "exfat"),
    FileSystem(
        name="ntfs-ignore-case",
        make=("mkntfs", "-F", "-Q"),
        mount=("lowntfs-3g", "-o", "ignore_case"),
        package="ntfs-3g",
    ),
)
"""File systems that make no difference between upper and lower case."""
EXT4 = FileSystem(name="ext4", make=("mkfs.ext4", "-q"), package="e2fsprogs")


@contextlib.contextmanager
def mounted(kind: FileSystem, workplace: Path, *, size: int | None = None) -> Iterator[Path]:
    """An empty file system, mounted below a folder; skips the test if the kernel refuses to mount it."""
    point = workplace / "mounted"
    point.mkdir()
    with contextlib.ExitStack() as stack:
        source = _make(kind, workplace, size or kind.size, stack)
        command = [str(program(kind.mount[0], kind.package)), *kind.mount[1:], source, str(point), *kind.options]
        if kind.name == "sshfs":
            stack.enter_context(_with_sftp_server(command))
            problem = ""
        else:
            done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
            problem = (done.stderr + done.stdout).strip()[-300:] if done.returncode else ""
        for _ in range(50):  # a program in user space may mount it a moment later
            if problem or os.path.ismount(point):
                break
            time.sleep(0.1)
        if not os.path.ismount(point):
            pytest.skip(f"this machine can't mount {kind.name}: {problem}")
        stack.callback(_unmount, point)
        yield point


@contextlib.contextmanager
def overlaid(lower: Path, workplace: Path, *options: str) -> Iterator[Path]:
    """A folder as a container sees one of its image: changes go to another file system. Skips as `mounted` does."""
    with mounted(FILE_SYSTEMS[0], workplace) as upper:
        point = workplace / "overlay"
        for folder in (point, upper / "changed", upper / "work"):
            folder.mkdir()
        layers = f"lowerdir={lower},upperdir={upper / 'changed'},workdir={upper / 'work'}"
        command = ["mount", "-t", "overlay", "overlay", "-o", ",".join((layers, *options)), str(point)]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this machine can't mount an overlay: {done.stderr.strip()[-300:]}")
        try:
            yield point
        finally:
            _unmount(point)


class Share:
    """A folder that a process in user space serves: a share whose server can hang or die.

    Args:
        workplace: A folder; its subfolder ``served`` is what the share shows.
    """

    def __init__(self, workplace: Path) -> None:
        self.served = workplace / "served"
        self.point = workplace / "mounted"
        self._server: subprocess.Popen[bytes] | None = None
        for folder in (self.served, self.point):
            folder.mkdir()

    def mount(self) -> None:
        """Start the server; skips the test if the kernel refuses to mount it."""
        command = [str(program("bindfs", "bindfs")), "-f", str(self.served), str(self.point)]
        self._server = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE)
        while not os.path.ismount(self.point):
            if self._server.poll() is not None:
                assert self._server.stderr is not None
                pytest.skip(f"this machine can't mount bindfs: {self._server.stderr.read().decode()[-300:]}")
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server: SIGSTOP lets every call on the share wait, SIGKILL lets it fail."""
        assert self._server is not None
        self._server.send_signal(number)

    def unmount(self) -> None:
        """End the server and remove the mount."""
        if self._server is not None:
            with self._server:
                self._server.kill()
            subprocess.run(["umount", "-l", str(self.point)], env=ENVIRONMENT, capture_output=True)
            self._server = None


def remount_read_only(point: Path) -> None:
    """Let a mounted file system refuse every write."""
    must_run("mount", "-o", "remount,ro", point)


@contextlib.contextmanager
def _with_sftp_server(command: Sequence[str]) -> Iterator[None]:
    """Run sshfs with OpenSSH's SFTP server at the other end, without ssh between them."""
    to_server, to_sshfs = os.pipe(), os.pipe()
    server = subprocess.Popen([program("sftp-server", "openssh-sftp-server")], stdin=to_server[0], stdout=to_sshfs[1])
    sshfs = subprocess.Popen(command, stdin=to_sshfs[0], stdout=to_server[1], env=ENVIRONMENT)
    for end in (*to_server, *to_sshfs):
        os.close(end)
    with server, sshfs:
        try:
            yield
        finally:
            for process in (sshfs, server):
                process.terminate()


def _make(kind: FileSystem, workplace: Path, size: int, stack: contextlib.ExitStack) -> str:
    """What is to be mounted: a name, two folders, or an image with a new file system."""
    if kind.name == "sshfs":
        served = workplace / "served"
        served.mkdir()
        return f":{served}"
    if kind.name == "mergerfs":
        branches = [workplace / "one", workplace / "two"]
        for branch in branches:
            branch.mkdir()
        return ":".join(map(str, branches))
    if not kind.make:
        return kind.name
    image = workplace / "image"
    with image.open("wb") as file:
        file.truncate(size)
    must_run(program(kind.make[0], kind.package), *kind.make[1:], image)
    if not kind.on_device:
        return str(image)
    done = subprocess.run(["losetup", "--find", "--show", str(image)], env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this machine has no loop device: {done.stderr.strip()}")
    device = done.stdout.strip()
    stack.callback(must_run, "losetup", "--detach", device)
    return device


def _unmount(point: Path) -> None:
    for _ in range(50):
        if subprocess.run(["umount", str(point)], env=ENVIRONMENT, capture_output=True).returncode == 0:
            return
        time.sleep(0.1)
    must_run("umount", "-l", point)
