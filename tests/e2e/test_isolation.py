"""The network that leads nowhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.e2e.isolation import no_network


def lookup(name: str) -> int:
    code = f"import socket; socket.getaddrinfo({name!r}, 443)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode


def test_a_program_finds_no_host_and_each_one_that_it_looks_for_is_recorded() -> None:
    folder, settings = Path.cwd(), Path("/etc/resolv.conf").read_text()
    with no_network() as names:
        assert lookup("localhost") == 0
        assert names == []
        assert lookup("models.example.com") != 0
        assert "models.example.com" in names
        connect = "import socket; socket.create_connection(('192.0.2.1', 80), 5)"
        assert b"Network is unreachable" in subprocess.run([sys.executable, "-c", connect], capture_output=True).stderr
    assert (Path.cwd(), Path("/etc/resolv.conf").read_text()) == (folder, settings)
    with no_network() as names:
        assert names == []
