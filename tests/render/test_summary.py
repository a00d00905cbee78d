"""The summary after a sync."""

from __future__ import annotations

from modelfetch.core.report import ArtifactReport, ModelReport, Report
from modelfetch.render.summary import placed_table, summary

MIB = 2**20


def artifact(name: str, action: str, *placements: str) -> ArtifactReport:
    return ArtifactReport(
        uri=f"hf://a/b/{name}",
        served_by=None,
        digest=None,
        size=MIB,
        action=action,
        bytes_fetched=0,
        placements=placements,
    )


def report(*models: ModelReport) -> Report:
    return Report(
        ok=True,
        exit_code=0,
        tier="16g",
        root="/models",
        seconds=3.0,
        bytes_fetched=2 * MIB,
        requests=4,
        models=models,
        errors=(),
    )


def test_each_service_has_a_row_for_each_model_with_its_folder() -> None:
    vae = ModelReport(
        name="vae",
        ok=True,
        artifacts=(
            artifact("vae.safetensors", "fetched", "stable-diffusion/models/VAE/v.st", "comfyui/models/vae/v.st"),
        ),
    )
    repo = ModelReport(
        name="small",
        ok=True,
        artifacts=(
            artifact("a", "adopted", "whisper/hub/models--a/blobs/1", "whisper/hub/models--a/snapshots/c/a"),
            artifact("b", "present", "whisper/hub/models--a/blobs/2"),
        ),
    )
    table = placed_table(report(vae, repo))
    assert table is not None
    lines = [line.split() for line in table.splitlines()]
    assert lines[1:] == [
        ["comfyui", "vae", "1", "1.0", "MiB", "fetched", "models/vae/v.st"],
        ["stable-diffusion", "vae", "1", "1.0", "MiB", "fetched", "models/VAE/v.st"],
        ["whisper", "small", "2", "2.0", "MiB", "adopted", "hub/models--a"],
    ]


def test_a_run_that_changed_nothing_has_no_table() -> None:
    assert (
        placed_table(report(ModelReport(name="x", ok=True, artifacts=(artifact("a", "present", "comfyui/a"),)))) is None
    )


def test_the_summary_is_one_line() -> None:
    model = ModelReport(name="x", ok=True, artifacts=())
    assert summary(report(model)) == (
        "16g: 1 model verified and in place in /models; 2.0 MiB downloaded in 3.0s, 4 requests"
    )
