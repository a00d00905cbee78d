"""A Docker Engine for the tests, in its own network and process tree, without internet.

It is started in namespaces: its containers can reach each other and the two addresses of `HOSTS`, which the tests' hub
listens on, and nothing else; its published ports are on a loopback that is not this machine's; and when its process
tree is ended, every container is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.cache import PeerUnavailableError
from tests.e2e.docker import peers
from tests.e2e.servers import tail

HOSTS = ("198.18.0.1", "198.18.0.2")
"""Addresses for tests of networks (RFC 2544); here they lie on the engine's own loopback."""

_READY = 60
_GROUP = f"modelfetch-e2e-{os.getpid()}"
_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
_SETUP = "ip link set lo up && " + " && ".join(f"ip addr add {host}/32 dev lo" for host in HOSTS)


@dataclass(slots=True, kw_only=True, repr=False)
class Engine:
    """A running engine. ``folder`` holds its data, its socket and its log."""

    folder: Path
    _house: subprocess.Popen[bytes] | None = None
    _daemon: subprocess.Popen[bytes] | None = None
    _environment: dict[str, str] = field(default_factory=dict)

    def open(self) -> None:
        """Make the namespaces and start the engine.

        Raises:
            PeerUnavailableError: It can't run here.
        """
        if os.geteuid() != 0:
            raise PeerUnavailableError("the Docker Engine needs root: run `make e2e` as root")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._environment = {
            "PATH": peers.path_without_stand_ins(self.folder / "bin"),
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "DOCKER_HOST": f"unix://{self.folder}/engine.sock",
            "DOCKER_CONFIG": str(peers.compose_plugin()),
            "DOCKER_BUILDKIT": "0",
        }
        house = (*_DIES_WITH_US, "unshare", "--net", "--", "sh", "-c")
        self._house = subprocess.Popen(
            [*house, f"{_SETUP} && echo ready && exec sleep infinity"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        assert self._house.stdout is not None
        if self._house.stdout.readline() != b"ready\n":
            raise PeerUnavailableError("no network namespace could be made for the Docker Engine")
        self.start()

    def start(self) -> None:
        """Start the engine over the data that is there, and wait until it answers.

        Raises:
            PeerUnavailableError: It ended, or does not answer in time; with the end of its log.
        """
        # As after a reboot, when /run is empty: a process id from before may be another process's in the new tree.
        (self.folder / "engine.pid").unlink(missing_ok=True)
        shutil.rmtree(self.folder / "exec", ignore_errors=True)
        command = [
            *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--", str(peers.dockerd())),
            *("--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec"),
            *("--host", f"unix://{self.folder}/engine.sock", "--pidfile", f"{self.folder}/engine.pid"),
            *("--cgroup-parent", f"/{_GROUP}", "--shutdown-timeout", "5"),
        ]
        log = self.folder / "engine.log"
        with log.open("ab") as output:
            self._daemon = subprocess.Popen(
                [*_DIES_WITH_US, *self.inside(*command)],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + _READY
        while self.run("version", check=False).returncode:
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                raise PeerUnavailableError(f"the Docker Engine does not start:\n{tail(log)}")
            time.sleep(0.2)

    def kill(self) -> None:
        """End the engine and every container at once, as a power cut does."""
        assert self._daemon is not None
        engine = self.pid
        self._daemon.kill()
        self._daemon.wait()
        # That was `unshare`: the engine, process 1 of its namespace, ends with it and takes all others along.
        deadline = time.monotonic() + 10
        while Path(f"/proc/{engine}").exists():
            assert time.monotonic() < deadline, "the killed engine is still there"
            time.sleep(0.02)

    def close(self) -> None:
        """End everything and delete its data."""
        if self._daemon is not None and self._daemon.poll() is None:
            self.kill()
        if self._house is not None:
            self._house.kill()
            self._house.communicate()
        _remove_groups(_GROUP)
        shutil.rmtree(self.folder, ignore_errors=True)

    def inside(self, *command: str) -> list[str]:
        """A command as it is run in the engine's network."""
        assert self._house is not None
        return ["nsenter", f"--target={self._house.pid}", "--net", "--", *command]

    def among_mounts(self, *command: str) -> list[str]:
        """A command as it is run among the engine's own mounts, with the process tree that its /proc shows."""
        return ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--", *command]

    @property
    def pid(self) -> int:
        """The engine's process id as this machine sees it."""
        assert self._daemon is not None
        children = Path(f"/proc/{self._daemon.pid}/task/{self._daemon.pid}/children").read_text()
        return int(children.split()[0])

    @property
    def environment(self) -> dict[str, str]:
        """What a client of this engine has in its environment."""
        return dict(self._environment)

    def run(
        self, *arguments: str, check: bool = True, seconds: float = 120, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`docker …`; its output is in ``stdout`` and ``stderr``.

        Raises:
            AssertionError: It failed, and ``check`` is set.
        """
        done = subprocess.run(
            [str(peers.docker()), *arguments],
            env=self._environment,
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.returncode}\n{done.stderr}"
        return done

    def output(self, *arguments: str, seconds: float = 120) -> str:
        """What `docker …` prints."""
        return self.run(*arguments, seconds=seconds).stdout.strip()

    def mount_tmpfs(self, folder: Path, size: str) -> None:
        """Mount a small file system at a folder, for the engine only."""
        folder.mkdir(parents=True, exist_ok=True)
        mount = self.among_mounts("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
        subprocess.run(mount, check=True)

    def unmount(self, folder: Path) -> None:
        """Unmount it."""
        subprocess.run(self.among_mounts("umount", "--lazy", str(folder)), check=True)


def _remove_groups(name: str) -> None:
    """Remove the control groups that the killed containers leave behind; they are empty folders."""
    for root in Path("/sys/fs/cgroup").glob(f"*/{name}"):
        for folder in [*sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True), root]:
            with contextlib.suppress(OSError):
                folder.rmdir()
