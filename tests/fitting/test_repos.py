"""Repos and folders of many files: parts, variants of one precision or another, several models."""

from __future__ import annotations

import pytest

from modelfetch.fitting.types import Candidate, FitReport, ModelFile
from modelfetch.fitting.verdict import fit_alone
from modelfetch.formats.range_reader import HeaderBuffer
from modelfetch.manifest.model import Service
from tests.fitting.build import MadeFile, safetensors
from tests.fitting.real import clip_l, sd15, sdxl, sdxl_vae


def alone(files: dict[str, MadeFile | None]) -> FitReport:
    """The verdict on a model of these files; None is one that can't be looked into."""
    found = (
        ModelFile(path=path, size=file.size if file else 10**9, prefix=HeaderBuffer(file) if file else None)
        for path, file in files.items()
    )
    return fit_alone(Candidate(name="repo", uri="hf://someone/repo", files=tuple(found)), Service(name="comfyui"))


UNET = safetensors(
    {
        "conv_in.weight": ("F16", (320, 4, 3, 3)),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": ("F16", (320, 768)),
        "mid.weight": ("F16", (2**20, 64)),
    }
)
REST: dict[str, MadeFile | None] = {"vae/x.safetensors": sdxl_vae(), "text_encoder/model.safetensors": clip_l()}
WHOLE = {"unet/x.safetensors": UNET, **REST}


def test_the_same_weights_in_another_precision_count_once() -> None:
    one = alone(WHOLE)
    assert one.ok
    assert one.services[0].models[0].assumptions["family"] == "sd15"
    fp16 = {"unet/x.fp16.safetensors": UNET, "unet/x.fp16.bin": None, "unet/x.bin": None}
    sharded: dict[str, MadeFile | None] = {"unet/x.fp16-00001-of-00002.safetensors": UNET}
    assert alone({**WHOLE, **fp16}).needed == alone({**WHOLE, **sharded}).needed == one.needed
    assert alone({**fp16, **sharded, **WHOLE}).needed == one.needed


@pytest.mark.parametrize("name", ["x.sft", "x.SFT", "x.SAFETENSORS", "x.fp16.sft"])
def test_any_name_of_a_safetensors_file_is_read(name: str) -> None:
    whole = alone({name: sd15()})
    assert whole.ok
    assert whole.needed == alone({"x.safetensors": sd15()}).needed
    assert alone({name: sd15(), "x.bin": None}).needed == whole.needed


def test_the_shards_of_a_denoiser_are_one() -> None:
    shards: dict[str, MadeFile | None] = {f"unet/x-0000{n}-of-00002.safetensors": UNET for n in (1, 2)}
    assert UNET.size is not None
    assert alone({**shards, **REST}).needed - alone(WHOLE).needed == pytest.approx(UNET.size, rel=0.01)


@pytest.mark.parametrize("other", ["other.safetensors", "folder/other.safetensors"])
def test_several_checkpoints_are_not_added_up(other: str) -> None:
    report = alone({"sd.safetensors": sd15(), other: sdxl()})
    assert report.exit_code == 1
    assert report.services[0].models[0].unknown == ("it holds several models: name one of its files",)


def test_a_checkpoint_and_the_parts_it_was_made_of_are_several() -> None:
    assert "several models" in alone({"sd.safetensors": sd15(), **WHOLE}).errors[0].message
