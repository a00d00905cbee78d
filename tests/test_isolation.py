"""The isolation of the tests themselves."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest


def test_a_connection_beyond_this_machine_is_refused_and_names_the_address() -> None:
    with socket.socket() as sock, pytest.raises(RuntimeError, match=r"203\.0\.113\.7.*443"):
        sock.connect(("203.0.113.7", 443))
    with socket.socket() as sock, pytest.raises(RuntimeError, match=r"203\.0\.113\.7"):
        sock.connect_ex(("203.0.113.7", 443))


def test_a_name_beyond_this_machine_does_not_resolve() -> None:
    with pytest.raises(socket.gaierror, match=r"hub\.example"):
        socket.create_connection(("hub.example", 443))


def test_loopback_is_reached_by_address_and_by_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for host in ("127.0.0.1", "localhost"):
            with socket.create_connection((host, port), timeout=5) as client:
                assert client.getpeername()[1] == port


def test_home_does_not_exist_and_no_setting_of_the_developer_is_seen() -> None:
    assert Path.home().parent.is_dir()
    assert not Path.home().exists()
    assert os.environ["NETRC"] == os.devnull
    assert not [name for name in os.environ if name.startswith(("MODELFETCH_", "OLLAMA_", "GPU_", "CIVITAI_"))]
    assert not [name for name in os.environ if name.lower().endswith("_proxy")]
