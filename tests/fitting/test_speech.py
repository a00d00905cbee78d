"""Speech, music and photo services: the measured tables."""

from __future__ import annotations

import pytest

from modelfetch.fitting.estimate import fit_model
from modelfetch.fitting.speech import (
    WhisperOptions,
    aligner_estimate,
    decoder_layers,
    is_parakeet,
    parakeet_estimate,
    whisper_estimate,
)
from modelfetch.fitting.types import Candidate, ModelFile
from modelfetch.fitting.workload import load
from modelfetch.formats.range_reader import GIB
from modelfetch.manifest.model import Service
from tests.cases import each

MB = 10**6
SIZES = {
    "base": 145_217_532,
    "small": 483_546_902,
    "medium": 1_527_906_378,
    "large-v2": 3_086_912_962,
    "large-v3": 3_087_284_237,
    "large-v3-turbo": 1_617_884_929,
    "distil-large-v3": 1_512_927_867,
}

# model, compute type, batch, measured MB, error allowed (source: faster-whisper's README and issue 1030)
MEASURED = [
    ("large-v2", "float16", 1, 4525, 0.02),
    ("large-v2", "float16", 8, 6090, 0.02),
    ("large-v2", "int8", 1, 2926, 0.02),
    ("large-v2", "int8", 8, 4500, 0.02),
    ("large-v3", "float16", 1, 4521, 0.02),
    ("large-v3", "int8", 1, 2953, 0.02),
    ("large-v3-turbo", "float16", 1, 2537, 0.02),
    ("large-v3-turbo", "int8", 1, 1545, 0.125),
    ("distil-large-v3", "float16", 1, 2409, 0.02),
    ("distil-large-v3", "int8", 1, 1481, 0.125),
]

# the same rule where nothing was measured, in GB
DERIVED = [
    ("base", "float16", 1.10),
    ("small", "float16", 1.55),
    ("medium", "float16", 2.81),
    ("small", "int8", 1.31),
    ("medium", "int8", 2.06),
]


def needed(model: str, compute_type: str, batch: int = 1) -> int:
    uri = f"hf://Systran/faster-whisper-{model}@{'0' * 40}"
    made = whisper_estimate(model, uri, SIZES[model], WhisperOptions(compute_type=compute_type, batch=batch))
    assert made.total is not None
    assert made.method == "table"
    return made.total


@each(("model", "compute_type", "batch", "measured", "above"), MEASURED)
def test_estimates_match_measured_whisper_models(
    model: str, compute_type: str, batch: int, measured: int, above: float
) -> None:
    error = needed(model, compute_type, batch) / (measured * MB) - 1
    assert -0.01 <= error <= above


@each(("model", "compute_type", "gigabytes"), DERIVED)
def test_whisper_models_without_measurements_are_estimated_by_their_size(
    model: str, compute_type: str, gigabytes: float
) -> None:
    assert needed(model, compute_type) / 10**9 == pytest.approx(gigabytes, abs=0.02)


@each(
    ("text", "layers"),
    [
        ("hf://Systran/faster-whisper-base@abc", 6),
        ("hf://Systran/faster-whisper-small.en", 12),
        ("hf://mobiuslabsgmbh/faster-whisper-large-v3-turbo@abc", 4),
        ("hf://deepdml/faster-whisper-large-v3-turbo-ct2", 4),
        ("hf://Systran/faster-distil-whisper-large-v3", 2),
        ("hf://distil-whisper/distil-large-v3-ct2", 2),
        ("hf://Systran/faster-whisper-large-v3", 32),
        ("hf://someone/whisper-smaller", None),
        ("hf://someone/parakeet", None),
    ],
)
def test_the_whisper_model_is_detected_from_the_uri(text: str, layers: int | None) -> None:
    assert decoder_layers(text) == layers


def test_an_unknown_model_is_not_guessed() -> None:
    options = WhisperOptions()
    assert whisper_estimate("m", "hf://x/unknown", 10**9, options).total is None
    assert whisper_estimate("m", "hf://x/whisper-small", None, options).total is None
    strange = whisper_estimate("m", "hf://x/whisper-small", 10**9, WhisperOptions(compute_type="int4"))
    assert strange.total is None
    assert strange.unknown == ("the compute type 'int4' is not known",)


def candidate(uri: str, **files: int | None) -> Candidate:
    named = tuple(ModelFile(path=path.replace("_", ".", 1), size=size) for path, size in files.items())
    return Candidate(name=uri.rpartition("/")[2], uri=uri, files=named)


@each(
    ("uri", "files", "needed"),
    [
        ("hf://Systran/faster-whisper-large-v3", {"model_bin": SIZES["large-v3"]}, 4514),
        ("hf://openai/whisper-large-v3-turbo", {"model_safetensors": SIZES["large-v3-turbo"]}, 2540),
        ("https://example.org/whisper-large-v3", {"large-v3_pt": SIZES["large-v3"]}, 4514),
        ("hf://nvidia/parakeet-tdt-0.6b-v3", {"x_nemo": 2_509_332_480}, 3350),
        ("hf://nvidia/parakeet-tdt-0.6b-v3", {"model_safetensors": 2_508_288_736, "x_nemo": 2_509_332_480}, 3349),
        ("https://example.org/parakeet-tdt-0.6b-v3-f16.gguf", {"tdt-0.6b_gguf": 1_254_000_000}, 2095),
    ],
)
def test_speech_models_in_any_form_go_by_the_size_of_their_weights(
    uri: str, files: dict[str, int | None], needed: int
) -> None:
    made = fit_model(candidate(uri, **files), Service(name="whisper"))
    assert made.needed / MB == pytest.approx(needed, abs=2)
    assert made.total == made.needed


def test_a_parakeet_model_of_unknown_size_is_unknown() -> None:
    made = parakeet_estimate("parakeet-tdt-0.6b-v3", "u", None)
    assert made.total is None
    assert made.unknown == ("the size of its weights is not known",)
    assert not is_parakeet("hf://someone/parakeet-pictures")


def test_an_alignment_model_adds_its_own_size() -> None:
    assert aligner_estimate("a", "u", 377_664_473).total == 377_664_473
    assert aligner_estimate("a", "u", None).total is None


@each(("service", "total"), [("diffrhythm", 8 * 10**9), ("immich", 3 * GIB), ("immich-ml", 3 * GIB)])
def test_services_without_readable_models_use_the_table(service: str, total: int) -> None:
    assert [made.total for made in load(Service(name=service), ()).estimates] == [total]
    assert not load(Service(name="grafana"), ()).estimates
