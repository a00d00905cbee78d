"""Collections of models of other programs: which files in a folder are models, and which program it belongs to.

Sources: huggingface_hub, guides/manage-cache (repos since 0.8, shared blobs since 2.0; before 0.8 flat files named by
hashes); ollama, types/model/name.go; AUTOMATIC1111 and Forge, modules/paths; ComfyUI, folder_paths.py; LM Studio keeps
PUBLISHER/MODEL/FILE.gguf; Stability Matrix keeps Data/Models or Models with folders of its own names.
"""

from __future__ import annotations

import os
import re
import stat as statmod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.core.fs import inode_of
from modelfetch.core.limits import raise_limit
from modelfetch.formats.content_check import looks_like_text
from modelfetch.manifest.kinds import HF_MODEL_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

_WEIGHTS = (
    *(".safetensors", ".sft", ".gguf", ".ggml", ".ckpt", ".pt", ".pt2", ".pth", ".pkl", ".bin", ".onnx", ".onnx_data"),
    *(".h5", ".msgpack", ".npz", ".tflite", ".engine", ".model", ".zip"),
)
_UNFINISHED = (".part", ".incomplete", ".tmp", ".crdownload", ".aria2", ".lock")
_OLLAMA_BLOB = re.compile(r"sha256[-:][0-9a-f]{64}\Z")
_HASH_NAME = re.compile(r"[0-9a-f]{40,64}(\.[0-9a-f]{40,64})?\Z")
_SKIPPED_FOLDERS = {".git", ".locks", ".no_exist", "trees", ".modelfetch", "node_modules", "__pycache__"}
_TEXT_UNLIKELY = (".pth", ".pt", ".bin", ".model", ".h5", ".zip", ".engine", ".npz")
"""Suffixes that other kinds of files have too, such as Python's path configuration files."""
_HEAD = 512
_MARKS = (
    ("Ollama", ("blobs", "manifests")),
    ("Ollama", ("models/blobs", "models/manifests")),
    ("Stability Matrix", ("Models/StableDiffusion",)),
    ("Stability Matrix", ("Data/Models",)),
    ("Stability Matrix", ("StableDiffusion",)),
    ("AUTOMATIC1111 or Forge", ("models/Stable-diffusion",)),
    ("AUTOMATIC1111 or Forge", ("Stable-diffusion",)),
    ("ComfyUI", ("models/checkpoints",)),
    ("ComfyUI", ("checkpoints",)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionFile:
    """A file of a collection that may be a model: its real path, its name in the collection, size and inode.

    ``links`` is the number of hardlinks that it has anywhere, ``owner`` a uid.
    """

    file: Path
    name: str
    size: int
    inode: tuple[int, int]
    links: int
    mtime_ns: int
    owner: int


def kind_of(folder: Path) -> str:
    """The program that a collection belongs to, as far as its subfolders show."""
    for name, marks in _MARKS:
        if all((folder / mark).is_dir() for mark in marks):
            return name
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names are enough
    except OSError as error:
        raise_limit(error)
        return "folder"
    if any(name.startswith(HF_MODEL_PREFIX) for name in names) or (folder / "hub").is_dir():
        return "Hugging Face cache"
    if any(next((folder / name).glob("*/*.gguf"), None) for name in names if (folder / name).is_dir()):
        return "LM Studio"
    return "folder"


def find_candidates(folder: Path, *, every_link: bool = False) -> Iterator[CollectionFile]:
    """Yield every file below a folder that may be a model; follows symlinks.

    A file with several names is yielded once; with ``every_link``, once for each hardlink.

    Raises:
        OSError: The folder can't be read.
    """
    os.listdir(folder)  # noqa: PTH208 - raises an error that os.walk would ignore
    seen: set[object] = set()
    walked: set[tuple[int, int]] = set()
    for above, folders, names in os.walk(folder, onerror=raise_limit, followlinks=True):
        found = os.stat(above)  # noqa: PTH116 - one of many
        if inode_of(found) in walked:
            folders.clear()  # a symlink leads back
            continue
        walked.add(inode_of(found))
        folders[:] = sorted(name for name in folders if name not in _SKIPPED_FOLDERS)
        for name in sorted(names):
            path = Path(above, name)
            if not (_may_be_model(path) or _is_ollama_manifest(path, folder)):
                continue
            try:
                real = Path(os.path.realpath(path))
                stat = real.stat()
            except OSError:
                continue
            inode = inode_of(stat)
            key = real if every_link else inode
            if not statmod.S_ISREG(stat.st_mode) or stat.st_size == 0 or key in seen or _is_text(path, real):
                continue
            seen.add(key)
            yield CollectionFile(
                file=real,
                name=str(path.relative_to(folder)),
                size=stat.st_size,
                inode=inode,
                links=stat.st_nlink,
                mtime_ns=stat.st_mtime_ns,
                owner=stat.st_uid,
            )


def _is_text(path: Path, real: Path) -> bool:
    """Whether a file has the suffix of weights but begins as a text."""
    if not path.name.lower().endswith(_TEXT_UNLIKELY):
        return False
    try:
        with real.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise_limit(error)
        return False
    return b"\0" not in head and looks_like_text(head)


def _may_be_model(path: Path) -> bool:
    name = path.name.lower()
    if "nltk_data" in path.parts:
        return False  # NLTK refuses files with several links
    if name.endswith(_UNFINISHED) or "-partial" in name or name.startswith(".modelfetch-"):
        return False
    if name.endswith(_WEIGHTS) or _OLLAMA_BLOB.match(name) or _HASH_NAME.match(name):
        return True
    parts = path.parts
    return any(part.startswith(HF_MODEL_PREFIX) for part in parts) and ("blobs" in parts or "snapshots" in parts)


def _is_ollama_manifest(path: Path, folder: Path) -> bool:
    """Whether a file is below a folder ``manifests`` of the collection that has a folder ``blobs`` next to it."""
    above = (parent for parent in path.parents if parent.name == "manifests" and parent.is_relative_to(folder))
    return any((manifests.parent / "blobs").is_dir() for manifests in above)
