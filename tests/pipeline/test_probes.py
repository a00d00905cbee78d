"""What a file system allows is tried with files that do not remain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfetch.pipeline.probes import LinkProbe, is_sequential
from modelfetch.placement import RootTree

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_probes_of_killed_runs_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, folder = tmp_path / "store", tmp_path / "root/folder"
    for parent, name in ((store, ".modelfetch-probe-7-0123.part"), (folder, ".modelfetch-probe-7-link.part")):
        parent.mkdir(parents=True)
        (parent / name).touch()
        (parent / ".hidden").touch()
    assert LinkProbe(store, RootTree(tmp_path / "root")).works("folder")
    assert len(list(store.iterdir())) == 2  # young ones may be another process's
    monkeypatch.setattr("modelfetch.core.temp_files._ABANDONED_AFTER", -1.0)
    assert LinkProbe(store, RootTree(tmp_path / "root")).works("folder")
    assert [path.name for path in (*store.iterdir(), *folder.iterdir())] == [".hidden", ".hidden"]
    (folder / ".modelfetch-probe-7-0123.part").touch()
    assert not is_sequential(folder)
    assert [path.name for path in folder.iterdir()] == [".hidden"]


def test_no_link_is_tried_in_a_folder_outside_of_the_root(tmp_path: Path) -> None:
    store, root, outside = (tmp_path / name for name in ("store", "root", "outside"))
    for folder in (store, root, outside):
        folder.mkdir()
    (root / "comfyui").symlink_to(outside)
    probe = LinkProbe(store, RootTree(root))
    assert not probe.works("comfyui")
    assert not probe.works("comfyui/models/vae")
    assert probe.works("whisper/models")
