"""Every test starts from an empty home and a bare environment, and can only reach this machine."""

from __future__ import annotations

import atexit
import functools
import gc
import ipaddress
import itertools
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import certifi
import pytest
from hypothesis import settings

from tests.examples import examples

STRAY = ("HF_", "HUGGING_FACE_", "MODELFETCH_", "CIVITAI_", "GPU_", "OLLAMA_", "STABLE_DIFFUSION_", "COMFYUI_", "XDG_")
STRAY_NAMES = {"HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "PUID", "PGID"}
STRAY_NAMES |= {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "TRANSFORMERS_OFFLINE", "DOCKER_CONFIG", "TQDM_DISABLE"}

# huggingface_hub reads its settings when it is imported.
for _name in [name for name in os.environ if name.startswith("HF_")]:
    del os.environ[_name]
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

# Tests start the program several hundred times. An installed one is compiled; this one must not be compiled each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


# Nearly all that collecting the tests creates stays, as do the reports in the process that starts the workers.
gc.disable()

# No test is timed: how long an example takes depends on what else the machine does.
settings.register_profile("modelfetch", deadline=None, max_examples=examples(100))
settings.load_profile("modelfetch")


LONG = {
    "test_kills.py",
    "test_lock.py",
    "test_many_processes.py",
    "test_crash.py",
    "test_signals.py",
    "test_parallel.py",
}
LONG |= {"test_docs_tables.py", "test_state.py", "test_root_tree.py", "test_scale.py", "test_prefill.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the modules that have tests of seconds, so that no worker is left with one at the end."""
    items.sort(key=lambda item: item.path.name not in LONG)


def pytest_collection_finish() -> None:
    """Collect garbage in processes that run tests; the test items count as old from the start."""
    gc.freeze()
    gc.unfreeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    """Freeze all objects: pytest runs five garbage collections at its end, each over all test items."""
    gc.collect()
    gc.freeze()


# These are hooks: as fixtures they would cost a millisecond for each of the thousands of tests.
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    _stay_on_this_machine()
    for name in [name for name in os.environ if name.upper() in STRAY_NAMES or name.startswith(STRAY)]:
        del os.environ[name]
    home = f"{_homes()}/{next(_numbers)}"  # most tests never need theirs, so it is not created
    os.environ["HOME"] = home
    os.environ["XDG_CACHE_HOME"] = f"{home}/cache"
    os.environ["HF_HOME"] = f"{home}/huggingface"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["NETRC"] = os.devnull
    os.environ["SSL_CERT_FILE"] = _authority()


_numbers = itertools.count()


@functools.cache
def _homes() -> str:
    """Return a folder for the home folders."""
    folder = tempfile.mkdtemp(prefix="modelfetch-homes-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def _authority() -> str:
    """Return a file with one authority: reading the whole list takes 20 ms for each client that uses TLS."""
    path = Path(_homes(), "authority.pem")
    path.write_text("".join(certifi.contents().partition("-----END CERTIFICATE-----\n")[:2]))
    return str(path)


@functools.cache
def _stay_on_this_machine() -> None:
    """Refuse connections and name look-ups beyond this machine from now on."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def checked(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
            raise RuntimeError(f"a test tried to reach {address}: tests talk to this machine only")
        return address

    def resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not (host is None or _is_address(host) or str(host).endswith("localhost")):
            raise socket.gaierror(socket.EAI_NONAME, f"a test looked up {host}: tests know no name but localhost")
        return getaddrinfo(host, *args, **kwargs)

    patch = pytest.MonkeyPatch()  # never undone
    patch.setattr(socket.socket, "connect", lambda self, to: connect(self, checked(self, to)))
    patch.setattr(socket.socket, "connect_ex", lambda self, to: connect_ex(self, checked(self, to)))
    patch.setattr(socket, "getaddrinfo", resolve)


def _is_address(host: Any) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: Any) -> bool:
    return ipaddress.ip_address(host).is_loopback if _is_address(host) else host == "localhost"
