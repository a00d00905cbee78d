"""Runs llama.cpp in process on models without weights, and prints the memory that it takes on a separate device.

Run by `tests/e2e/test_fit_llama_cpp.py` with the interpreter of an environment that has ``llama-cpp-py-sync``. The
device is llama.cpp's RPC backend, served by a second process on the loopback interface: layers are put on it as on a
GPU. Nothing is allocated (``no_alloc``), so that a model of 70 billion parameters needs no memory.

Reads cases as JSON from the file that the first argument names, and prints one line of JSON for each.
"""

# mypy: ignore-errors
from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def serve(endpoint: str) -> int:
    """Serve the CPU as an RPC device in a child process; returns its id."""
    child = os.fork()
    if child:
        return child
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    from llama_cpp_py_sync.rpc import start_rpc_server

    start_rpc_server(endpoint, devices=["CPU"], n_threads=1)
    os._exit(1)


def wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("the RPC device did not start")


def breakdown(folder: Path, context: int) -> dict[str, int]:
    """``llama_get_memory_breakdown``: a C++ ``std::map`` from buffer types to bytes of model, context and compute."""
    llama, base = ctypes.CDLL(str(folder / "libllama.so")), ctypes.CDLL(str(folder / "libggml-base.so.0"))
    function = llama._Z26llama_get_memory_breakdownPK13llama_context
    function.restype, function.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p]
    base.ggml_backend_buft_name.restype = ctypes.c_char_p
    base.ggml_backend_buft_name.argtypes = [ctypes.c_void_p]
    root = (ctypes.c_uint64 * 8)()
    function(ctypes.addressof(root), context)
    taken = {"weights": 0, "kv": 0, "compute": 0}
    nodes = [root[2]]  # the header of a red-black tree: colour, root, leftmost, rightmost, after the comparison
    while nodes:
        node = nodes.pop()
        if not node:
            continue
        fields = (ctypes.c_uint64 * 8).from_address(node)  # colour, parent, left, right, key, three sizes
        nodes += [fields[2], fields[3]]
        if base.ggml_backend_buft_name(fields[4]).startswith(b"RPC"):
            for part, size in zip(taken, fields[5:8], strict=True):
                taken[part] += size
    return taken


def main() -> None:
    cases = json.loads(Path(sys.argv[1]).read_text())
    port = free_port()
    server = serve(f"127.0.0.1:{port}")
    try:
        measure(cases, port)
    finally:
        os.kill(server, signal.SIGKILL)


def measure(cases: list[dict], port: int) -> None:
    import llama_cpp_py_sync
    from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib
    from llama_cpp_py_sync.rpc import rpc_devices

    folder = Path(llama_cpp_py_sync.__file__).parent
    ffi, lib = get_ffi(), get_lib()
    log = []

    @ffi.callback("void(enum ggml_log_level, const char *, void *)")
    def keep(_level, text, _data):
        log.append(ffi.string(text).decode(errors="replace"))

    lib.llama_log_set(keep, ffi.NULL)
    wait_for(port)
    devices = ffi.new("ggml_backend_dev_t[]", [*rpc_devices([f"127.0.0.1:{port}"], include_local=False), ffi.NULL])
    types = {"f16": 1, "q8_0": 8, "q4_0": 2}
    path, model = None, ffi.NULL
    for case in cases:
        if case["path"] != path:
            if model != ffi.NULL:
                lib.llama_model_free(model)
            log.clear()
            params = lib.llama_model_default_params()
            params.devices, params.n_gpu_layers = devices, 999
            params.no_alloc, params.load_mode = True, lib.LLAMA_LOAD_MODE_NONE
            path, model = case["path"], lib.llama_model_load_from_file(case["path"].encode(), params)
            if model == ffi.NULL:
                raise SystemExit(f"{path}: {''.join(log)[-2000:]}")
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max = case["context"] * case["parallel"], case["parallel"]
        params.n_batch = params.n_ubatch = case["batch"]
        params.n_outputs_max = case["outputs"]
        params.embeddings, params.swa_full = case["embeddings"], False  # as the server has it
        params.flash_attn_type = int(case["flash_attention"])
        params.type_k = params.type_v = types[case["kv_type"]]
        context = lib.llama_init_from_model(model, params)
        if context == ffi.NULL:
            raise SystemExit(f"{case}: {''.join(log)[-2000:]}")
        print(json.dumps(breakdown(folder, int(ffi.cast("uintptr_t", context)))), flush=True)  # noqa: T201
        lib.llama_free(context)


main()
