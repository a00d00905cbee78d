from __future__ import annotations

from typing import TYPE_CHECKING

from modelfetch.cli.app import run

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_name_that_the_service_does_not_list_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(
        "version: 1\nmodels:\n"
        "  - {name: a, kind: checkpoint, source: 'hf://a/b/x.onnx', for: [comfyui, stable-diffusion]}\n"
    )
    assert run(["validate", "-q", str(file)]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.partition(" does not list ")[0] for line in err.splitlines()] == [
        f"warning: {file}:3:5: comfyui",
        f"warning: {file}:3:5: stable-diffusion",
    ]
