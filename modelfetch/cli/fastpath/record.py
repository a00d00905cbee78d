"""Write the note that makes the next no-op `sync` fast: the files and states that "nothing to do" depends on.

It is written after a successful `sync`, from a new run of the full command's own plan, and only if everything is ready.
`modelfetch.cli.fastpath.check` reads it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.cli.fastpath.check import (
    MAGIC,
    damaged_files,
    key_of,
    note_of,
    notes_folder,
    read_bytes,
    root_of,
    secret_path,
    sha256_hex,
)
from modelfetch.core import directories, fs, temp_files
from modelfetch.core.root import CONSUMERS
from modelfetch.pipeline.plan import jobs_for, plan_model, select
from modelfetch.pipeline.resolve import resolve_quietly
from modelfetch.placement.consumer_dirs import consumer_dir_file
from modelfetch.placement.ollama_manifests import NEWER_FOLDER
from modelfetch.placement.path_stat import lstat_path
from modelfetch.placement.receipts import read_receipts, receipt_path
from modelfetch.render.summary import summary
from modelfetch.tiers.discovery import tier_dirs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from modelfetch.core.report import Report
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.plan import ModelRequest
    from modelfetch.pipeline.session import Session
    from modelfetch.placement.receipts import Receipt

_MAX_NOTES = 64
_SECRET_LIMIT = 256  # bytes
_OLD_NAME = 8
"""Length of a note's file name in versions before 0.2."""


def remember(
    argv: Sequence[str], manifests: Sequence[Manifest], session: Session, report: Report, *, as_json: bool, quiet: bool
) -> None:
    """Write a note for this command line; if that fails, write none, since notes only save time."""
    with contextlib.suppress(OSError, ValueError):
        lines = [*_files(manifests, session), *_places(manifests, session)]
        again = no_op_report(report)
        if as_json:
            lines.append("out\t" + json.dumps(again.as_dict()).replace('"seconds": 0.0', '"seconds": {seconds}', 1))
        if not quiet:
            lines.append("err\t" + summary(again).replace("0.0s", "{seconds}s", 1))
        if Path(root_of(argv, os.environ)) != session.options.root:
            return
        folder = Path(notes_folder(str(session.options.root)))
        directories.make_directory(folder)
        _drop_old_notes(folder)
        path, key = note_of(str(folder), key_of(argv, os.environ), _secret(folder))
        text = "\n".join([MAGIC, key, *lines, "end"])
        if text.count("\n") != len(lines) + 2:
            return
        data = text.encode(errors="surrogateescape")
        temp_files.write_atomically(Path(path), data, mode=fs.PRIVATE_MODE)


def no_op_report(report: Report) -> Report:
    """The report that the same run would give with nothing to do."""
    models = tuple(
        replace(
            model,
            artifacts=tuple(replace(a, action="present", served_by=None, bytes_fetched=0) for a in model.artifacts),
        )
        for model in report.models
    )
    return replace(report, models=models, seconds=0.0, bytes_fetched=0, requests=0)


def _files(manifests: Sequence[Manifest], session: Session) -> Iterator[str]:
    """The manifests, those that they extend, and the absent files that would take precedence over them."""
    folders = tier_dirs(session.settings.tiers_dir)
    files = dict.fromkeys(name for manifest in manifests for name in manifest.files)
    for file in files:
        path = Path(file)
        yield f"manifest\t{sha256_hex(read_bytes(file))}\t{file}"
        for folder in folders:
            if folder == path.parent:
                break
            if str(before := folder / path.name) not in files:  # a tier may extend the one that it hides
                yield f"absent\t{before}"


def _places(manifests: Sequence[Manifest], session: Session) -> Iterator[str]:
    """Every path and its state.

    Raises:
        ValueError: Not everything is ready, so no note may be written.
    """
    root, tree = session.options.root, session.inspector.tree
    receipts = read_receipts(root)
    paths = dict.fromkeys(receipt_path(root, c) for c in CONSUMERS if receipts[c].entries)
    with tree.keeping_folder_open():
        for request in select(manifests, session.options.consumers):
            paths.update(dict.fromkeys(tree.path(path) for path in _paths_of(request, session, receipts)))
    if not (newer := tree.path(NEWER_FOLDER.rstrip("/"))).exists():
        yield f"absent\t{newer}"
    # What `verify` finds damaged does not look changed.
    checks = directories.own_folder(root) / "checks.json"
    seen = lstat_path(checks)
    yield f"checks\t{seen and seen.size}\t{seen and seen.mtime_ns}\t{damaged_files(str(checks))}\t{checks}"
    for file in (consumer_dir_file(root, consumer) for consumer in CONSUMERS):
        if file.exists():
            paths[file] = None
        else:
            yield f"absent\t{file}"
    real_folder = functools.cache(os.path.realpath)
    for folder in dict.fromkeys(path.parent for path in paths):
        yield f"folder\t{real_folder(folder)}\t{folder}"
    for path in paths:
        seen = lstat_path(path)
        if seen is None:
            raise ValueError(f"{path} is gone")
        if seen.target is not None:
            yield f"link\t{seen.target}\t{path}"
            # The target of an adopted link is not listed anywhere else.
            found = path.stat()
            yield f"path\t{found.st_size}\t{found.st_mtime_ns}\t{_real_target(path, seen.target, real_folder)}"
        else:
            yield f"path\t{seen.size}\t{seen.mtime_ns}\t{path}"


def _real_target(link: Path, target: str, real_folder: Callable[[Path], str]) -> Path:
    """The file that a link leads to; the links of a snapshot share two folders, each of which is resolved once."""
    file = Path(real_folder(link.parent), target)
    real = Path(real_folder(file.parent), file.name)
    return real.resolve() if real.is_symlink() else real


def _paths_of(request: ModelRequest, session: Session, receipts: Mapping[str, Receipt]) -> Iterator[str]:
    resolution = resolve_quietly(request, session, receipts)
    if resolution is None:
        raise ValueError(f"{request.model.name} would have to be resolved")
    plan = plan_model(request, resolution, receipts, session.inspector)
    if not plan.complete:
        raise ValueError(f"{request.model.name} is not complete")
    for consumer in request.consumers:
        for job in jobs_for(plan, consumer, receipts[consumer]):
            yield job.placement.path


def _secret(folder: Path) -> str:
    """The secret of this user's notes; created if it is missing or readable by others."""
    path = Path(secret_path(str(folder)))
    try:
        found = path.lstat()
        private = found.st_mode & 0o077 == 0 and found.st_uid == os.geteuid()
        if private and (secret := fs.read_small(path, _SECRET_LIMIT).decode("ascii")):
            return secret
    except (OSError, ValueError):
        pass
    secret = secrets.token_hex(32)
    temp_files.write_atomically(path, secret.encode(), mode=fs.PRIVATE_MODE)
    return secret


def _drop_old_notes(folder: Path) -> None:
    """Remove the oldest notes beyond a limit, and notes of older versions, which contained the environment."""
    notes = sorted(
        (path for path in folder.iterdir() if not path.name.startswith("secret-")),
        key=lambda path: path.stat().st_mtime,
    )
    for path in (path for path in notes if len(path.name) == _OLD_NAME):
        path.unlink(missing_ok=True)
    for path in notes[: max(0, len(notes) - _MAX_NOTES + 1)]:
        path.unlink(missing_ok=True)
