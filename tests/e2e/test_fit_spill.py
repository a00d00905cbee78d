"""What does not fit: the layers that `modelfetch fit` expects on the GPU, against the real llama-server's own fitter.

The device is llama.cpp's RPC backend, served by a second process on the loopback interface: it is no GPU, but is taken
for one. It reports this machine's memory as its own, and ``--fit-target`` says how much of it must stay free. The
fitter decides before anything is loaded; the server is ended then, and no weight is read.

The fitter (``llama_params_fit``, now ``common_fit_params``) is in llama.cpp's common library, which the Python package
of `tests/e2e/llama_cpp.py` does not have. With no device but the CPU it only shortens the context.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from modelfetch.fitting.llm.estimate import BATCH, LlmOptions, llm_estimate
from modelfetch.fitting.llm.layers import OnGpu
from modelfetch.formats.gguf import read_gguf
from modelfetch.formats.range_reader import MIB
from tests.e2e.servers import free_port, plain_environment, running, tail
from tests.fitting.architectures import made
from tests.fitting.shapes import SPECS

if TYPE_CHECKING:
    from pathlib import Path

CONTEXT = 8192
SHARES = (0.3, 0.7)
"""Of the memory that the whole model needs, what there is."""

CHAT = tuple(name for name, spec in SPECS.items() if "pooling_type" not in spec.more)
CHECKED = ("llama3.1:8b", "qwen3.5:4b", "gemma3:4b", "gemma4:e4b", "phi4:14b", "qwen3-coder:30b", "gpt-oss:20b")
_SHARED_CACHE = pytest.mark.xfail(
    strict=True,
    reason="with the layers in RAM whose cache the last 20 share, 64 MiB of copies on the GPU are not counted",
)
MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB
"""The memory that the device reports, in MiB."""

_CHOSEN = re.compile(r"RPC0 .*: +(\d+) layers(?: \( ?(\d+) overflowing\))?, +\d+ MiB used")
_LAST = "fitting params to free memory took"


def accepts(port: int) -> bool:
    """Whether a server takes connections at this port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def fitter_log(llama_server: Path, model: Path, folder: Path, target: int) -> str:
    """What the server's fitter logs for a model if ``target`` MiB must stay free on the device."""
    folder.mkdir()
    port, log = free_port(), folder / "fit.log"
    environment = plain_environment(folder, LD_LIBRARY_PATH=str(llama_server.parent))
    device = [str(llama_server.with_name("ggml-rpc-server")), "--port", str(port)]
    command = [str(llama_server), "--model", str(model), "--rpc", f"127.0.0.1:{port}", "--load-mode", "none"]
    command += ["--flash-attn", "on", "--ctx-size", str(CONTEXT), "--parallel", "1"]
    command += ["--batch-size", str(BATCH), "--ubatch-size", str(BATCH)]
    command += ["--fit-target", str(target), "--log-verbosity", "5", "--port", str(free_port())]
    with (
        running(device, environment=environment, folder=folder, ready=lambda: accepts(port)),
        log.open("wb") as output,
        subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as server,
    ):
        try:
            deadline = time.monotonic() + 60
            while _LAST not in (text := log.read_text(errors="replace")):
                assert server.poll() is None, tail(log)
                assert time.monotonic() < deadline, tail(log)
                time.sleep(0.02)
        finally:
            server.kill()
    assert f"vs. {MEMORY} MiB of free device memory" in text, text[-2000:]
    return text


def chosen(text: str, *, experts: bool) -> OnGpu:
    """The fitter's final result: layers on the GPU, and how many of them have their experts there."""
    count, partial = _CHOSEN.findall(text)[-1]
    return OnGpu(layers=int(count), experts=int(count) - int(partial or 0) if experts else 0)


def marks(name: str) -> list[pytest.MarkDecorator]:
    """`make e2e` checks the shapes of `CHECKED`, `make e2e-heavy` all."""
    return [*([] if name in CHECKED else [pytest.mark.heavy]), *([_SHARED_CACHE] if name == "gemma4:e2b" else [])]


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in CHAT])
def test_the_layers_that_stay_on_the_gpu_are_those_of_the_real_fitter(
    llama_server: Path, workplace: Path, name: str
) -> None:
    file = made(SPECS[name])
    model = file.write(workplace / "model.gguf")
    found = llm_estimate(name, "", read_gguf(file), LlmOptions(context=CONTEXT, margin=0))
    assert found.layers is not None
    for share in SHARES:
        free = int((found.known - found.overhead) * share) // MIB
        text = fitter_log(llama_server, model, workplace / str(share), MEMORY - free)
        real = chosen(text, experts=bool(found.layers.experts))
        ours = found.on_gpu(free * MIB + found.overhead)
        assert ours is not None
        assert abs(ours.layers - real.layers) <= 1, (share, ours, real)
        assert abs(ours.experts - real.experts) <= 1, (share, ours, real)
