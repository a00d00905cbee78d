"""The files of every shipped tier: headers with the real shapes and sizes, and not a byte of weights.

Shapes come from each model's config.json upstream, sizes from the manifests.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING

from modelfetch.fitting.candidates import first_range, pinned_candidate
from modelfetch.fitting.types import Candidate, ModelFile
from modelfetch.fitting.verdict import fit_tier
from modelfetch.formats.range_reader import HeaderBuffer
from modelfetch.manifest.uri import HfUri, OllamaUri
from modelfetch.tiers.discovery import shipped_dir
from tests.fitting.architectures import made
from tests.fitting.build import MadeFile
from tests.fitting.shapes import SPECS
from tests.fitting.world import LIBRARY, library_header, part_header, shipped

if TYPE_CHECKING:
    from modelfetch.fitting.types import FitReport
    from modelfetch.manifest.model import Model


def _shipped_names() -> tuple[str, ...]:
    folder = shipped_dir()
    assert folder is not None
    names = (path.stem for path in folder.glob("*.yaml") if path.stem != "demo")
    return tuple(sorted(names, key=lambda name: ("-" in name, int(name.partition("g")[0]))))


TIERS = _shipped_names()
"""Every shipped tier, the plain ones first."""

WITH_VISION = ("gemma3:4b", "qwen3.5:9b", "qwen3.6:27b", "qwen3.6:35b")
"""Chat models that also read pictures."""


@functools.cache
def report(tier: str) -> FitReport:
    """The report of `modelfetch fit --tier`."""
    manifest = shipped(tier)
    counted = (model for model in manifest.models if not (model.optional and model.kind == "torch-checkpoint"))
    candidates = [candidate(model) for model in counted]
    return fit_tier(tier=tier, services=manifest.services, candidates=candidates, usable=manifest.usable)


def candidate(model: Model) -> Candidate:
    """A model with a reader of its header; speech models and the like go by the sizes of the manifest."""
    file = header(model)
    if file is None:
        return pinned_candidate(model)
    path = "model" if isinstance(model.source, OllamaUri) else "model.safetensors"
    files = (ModelFile(path=path, size=file.size, prefix=HeaderBuffer(file, first=first_range(path))),)
    return Candidate(name=model.name, uri=str(model.source), kind=model.kind, consumers=model.consumers, files=files)


def header(model: Model) -> MadeFile | None:
    """The beginning of a model's file; None where no header is read of it."""
    if isinstance(model.source, OllamaUri):
        return _language_model(model, model.source)
    if isinstance(model.source, HfUri) and model.source.path and model.kind != "snapshot":
        assert model.size is not None
        head = part_header(model.source.path.rpartition("/")[2], model.size)
        return MadeFile(header=head, size=model.size)
    return None


def _language_model(model: Model, source: OllamaUri) -> MadeFile:
    name = source.model if source.tag == "latest" else f"{source.model}:{source.tag}"
    assert model.size is not None
    known = LIBRARY.get(name)
    if known is not None:
        size = next(layer.size for layer in known.layers if layer.kind == "model")
        return MadeFile(header=library_header(name), size=size)
    spec = SPECS[name]
    more = {**spec.more, **({"vision.block_count": 27} if name in WITH_VISION else {})}
    # The layers of the newest models are not known one by one: the sum of all bounds the weights.
    return MadeFile(header=made(replace(spec, more=more)).header, size=model.size)
