"""Every test starts from an empty home and a bare environment, and can reach nothing but this machine."""

from __future__ import annotations

import ipaddress
import itertools
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STRAY = ("HF_", "HUGGING_FACE_", "MODELFETCH_", "CIVITAI_", "GPU_", "OLLAMA_", "STABLE_DIFFUSION_", "COMFYUI_", "XDG_")
STRAY_NAMES = {"HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "PUID", "PGID"}
STRAY_NAMES |= {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "TRANSFORMERS_OFFLINE", "DOCKER_CONFIG", "TQDM_DISABLE"}

# huggingface_hub reads its settings when it is imported, which may be before the first fixture runs.
for _name in [name for name in os.environ if name.startswith("HF_")]:
    del os.environ[_name]
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

# Tests start the program several hundred times. An installed one is compiled; this one must not be compiled each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


# No test is timed: how long an example takes depends on what else the machine does.
settings.register_profile("modelfetch", deadline=None)
settings.load_profile("modelfetch")


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """New paths for home folders; most tests never need theirs, so it is not created."""
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, _homes: Iterator[Path]) -> Path:
    for name in list(os.environ):
        if name.upper() in STRAY_NAMES or name.startswith(STRAY):
            monkeypatch.delenv(name)
    home = next(_homes)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("NETRC", os.devnull)
    return home


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def checked(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
            raise RuntimeError(f"a test tried to reach {address}: tests talk to this machine only")
        return address

    def resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not (host is None or _is_address(host) or str(host).endswith("localhost")):
            raise socket.gaierror(socket.EAI_NONAME, f"a test looked up {host}: tests know no name but localhost")
        return getaddrinfo(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", lambda self, to: connect(self, checked(self, to)))
    monkeypatch.setattr(socket.socket, "connect_ex", lambda self, to: connect_ex(self, checked(self, to)))
    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def _is_address(host: Any) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: Any) -> bool:
    return ipaddress.ip_address(host).is_loopback if _is_address(host) else host == "localhost"
