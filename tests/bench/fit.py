"""`modelfetch fit` compared with published measurements: `make bench-fit` prints a table and checks two promises.

The figures are others', gathered from public logs, issues and tables, each with its source, in data/published-vram.csv.
A model is made from its shape, not downloaded: the file size that a row's model has upstream bounds its weights.
"""

from __future__ import annotations

import csv
import functools
import re
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from modelfetch.fitting.image import ImageOptions, Parts, image_estimate
from modelfetch.fitting.llm.estimate import LlmOptions, llm_estimate
from modelfetch.fitting.speech import WhisperOptions, whisper_estimate
from modelfetch.formats.gguf import GgufHeader, read_gguf
from modelfetch.formats.range_reader import GIB, MIB
from modelfetch.manifest.budget import default_usable
from tests.fitting.architectures import Spec, made
from tests.fitting.shapes import SPECS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelfetch.fitting.types import Estimate
    from modelfetch.manifest.model import Offload

DATA = Path(__file__).parent / "data" / "published-vram.csv"
UNITS = {"B": 1, "MB": 10**6, "GB": 10**9, "MiB": MIB, "GiB": GIB}
MEASURED = ("nvidia-smi", "torch max_memory", "torch snapshot")
"""Kinds of rows that were measured; the others are estimates of a scheduler, vendors' tables, or reports of users."""

LAYERS_GB = {
    "qwen3.6:27b": 17.420,
    "qwen3.6:35b": 23.938,
    "qwen3-embedding:0.6b": 0.639,
    "embeddinggemma:300m": 0.621,
    "gemma4:e2b": 7.2,
    "gemma3:12b": 8.149,
    "gemma3:27b": 17.397,
    "phi4:14b": 9.053,
    "gpt-oss:120b": 65.3,
    "qwen2.5-coder:14b": 8.99,
    "llama3.1:8b-instruct-q8_0": 8.54,
    "llama3.2:3b": 2.019,
}
"""Bytes of each model in Ollama's library, in GB: its weights, nearly. Other models are not compared."""

SHAPES = {"qwen2.5-coder:14b": "qwen2.5:14b", "llama3.1:8b-instruct-q8_0": "llama3.1:8b", "llama3.2:3b": "llama3.2:3b"}
INPUT_LAYER = {
    "qwen3.6:27b": (248320, 5120, 5.0),
    "qwen3.6:35b": (248320, 2048, 5.0),
    "gemma4:e2b": (262144, 35 * 256, 5.0),
    "qwen2.5-coder:14b": (152064, 5120, 4.5),
    "llama3.1:8b-instruct-q8_0": (128256, 4096, 8.5),
}
"""Words, width and bits of the embeddings that stay in RAM, which `fit` reads from the header."""

WORDS = {"qwen3-embedding:0.6b": 151669}
"""Words of models whose batch computes probabilities for every token."""

WITH_VISION = ("gemma3:12b", "gemma3:27b", "qwen3.6:27b", "qwen3.6:35b", "gemma4:e2b")

WHISPER_GB = {"large-v3": 3.087, "large-v2": 3.086, "large-v3-turbo": 1.618, "distil-large-v3": 1.513}
IMAGES = {
    ("SD1.5", "fp16"): Parts(denoiser=1_719_041_928, text=246_120_960, vae=167_307_726, family="sd15"),
    ("SDXL base", "bf16"): Parts(denoiser=5_134_927_368, text=1_635_440_640, vae=167_307_726, family="sdxl"),
    ("FLUX.1-dev", "bf16"): Parts(denoiser=23_802_816_640, text=9_770_742_272, vae=167_639_366, family="flux"),
    ("FLUX.1-dev", "fp8 weight-only"): Parts(
        denoiser=11_901_408_320, text=9_770_742_272, vae=167_639_366, family="flux"
    ),
    ("FLUX.1-dev", "GGUF Q8_0"): Parts(denoiser=12_645_246_340, text=9_770_742_272, vae=167_639_366, family="flux"),
    ("FLUX.1-dev", "NF4"): Parts(denoiser=6_694_542_180, text=9_770_742_272, vae=167_639_366, family="flux"),
    ("FLUX.2-klein-4B", "bf16"): Parts(
        denoiser=7_751_105_712, text=8_044_982_048, vae=168_106_778, family="flux2", width=3072
    ),
}


FAR = 0.08
"""From here on an error needs a reason: no estimator is nearer than repeats of one measurement are to each other."""

REASONS = (
    (r"ollama log", r"^llama3.2:3b", "a load on the CPU, without a CUDA context"),
    (r"ollama log", r"", "an estimate of Ollama's old scheduler, which reserved more than it used"),
    (r"", r"^qwen3-embedding", "0.45 GiB for the CUDA context is a rule; repeats of this measurement differ by 8 %"),
    (
        r"",
        r"^gemma4:e2b",
        "the size of the file does not show how large its per-layer embeddings are, which stay in RAM",
    ),
    (r"ollama ps", r"", "a number of Ollama's scheduler, not a measurement"),
    (r"", r"^(SD|SDXL)", "the decode is what ComfyUI reserves, more than cuDNN takes"),
    (
        r"",
        r"^FLUX.1",
        "the text encoder counts in 16 bits; with 8 bits, which these runs may have used, it would be near",
    ),
    (r"", r"^FLUX.2", "the denoiser's activation is what ComfyUI reserves"),
    (r"", r"turbo|distil", "the rule was made for 32 decoder layers"),
    (r"reported", r"", "one user's number, without the way it was measured"),
)
"""Why estimates are far off: patterns of a row's kind and model, and the reason; the first one that matches counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A row and our estimate, in bytes; ``ours`` is None if `fit` does not know the model or the row has no total.

    ``card`` is the usable memory of the card, as for a tier.
    """

    row: dict[str, str]
    theirs: int
    ours: int | None
    needed: int | None = None
    card: int | None = None
    spilled: bool = False

    @property
    def error(self) -> float | None:
        return None if self.ours is None else self.ours / self.theirs - 1

    @property
    def reason(self) -> str | None:
        """Why it is far off; None where it is near, or where no reason is known."""
        if self.error is None or abs(self.error) <= FAR:
            return None
        kind, model = self.row["kind"], self.row["model"]
        return next((why for k, m, why in REASONS if re.search(k, kind) and re.search(m, model)), None)

    @property
    def fits(self) -> bool:
        return self.card is not None and self.needed is not None and self.needed <= self.card


@functools.cache
def header(name: str) -> GgufHeader | None:
    """A header of a model's shape whose file is as large as the real one's weights on the GPU."""
    spec: Spec | None = SPECS.get(SHAPES.get(name, name))
    if spec is None or name not in LAYERS_GB:
        return None
    more = {**spec.more, **({"vision.block_count": 27} if name in WITH_VISION else {})}
    found = read_gguf(made(replace(spec, vocab=WORDS.get(name, spec.vocab), more=more)))
    words, width, bits = INPUT_LAYER.get(name, (0, 0, 0))
    return replace(found, tensors=None, size=int(LAYERS_GB[name] * 1e9 - words * width * bits / 8))


def number(pattern: str, text: str, default: int) -> int:
    match = re.search(pattern, text)
    return int(match[1]) if match else default


def default_context(gpu: str) -> int:
    """Ollama's context where nothing is set, by the memory of the card (source: ollama, docs/context-length.mdx)."""
    memory = number(r"(\d+) GB", gpu, 0)
    return 4096 if memory < 24 else 32768 if memory < 48 else 262144


def language(row: dict[str, str]) -> Estimate | None:
    name = {"qwen3.6:35b-a3b-mtp-q4_K_M": "qwen3.6:35b"}.get(row["model"], row["model"])
    found = header(name)
    if found is None:
        return None
    settings = row["settings"]
    context = number(r"ctx (\d+)", settings, default_context(row["gpu"]))
    options = LlmOptions(context=context, parallel=number(r"parallel (\d+)", settings, 1))
    if options.parallel > 1:
        options = replace(options, context=context // options.parallel)
    return llm_estimate(name, "", found, options)


def picture(row: dict[str, str]) -> Estimate | None:
    parts = IMAGES.get((row["model"], row["quant_or_dtype"]))
    if parts is None:
        return None
    width = number(r"(\d+)x\d+", row["settings"], 1024)
    offload: Offload = "medium" if "offload" in row["settings"] or "warm" in row["settings"] else "none"
    found = image_estimate(row["model"], "", parts, ImageOptions(width=width, height=width, offload=offload))
    return replace(found, overhead=0)  # the peaks that PyTorch reports are without its context


def speech(row: dict[str, str]) -> Estimate | None:
    name = row["model"].removeprefix("whisper ")
    size = WHISPER_GB.get(name)
    if size is None or not row["model"].startswith("whisper "):
        return None
    kind = {"fp16": "float16", "bf16": "bfloat16"}.get(row["quant_or_dtype"], row["quant_or_dtype"])
    options = WhisperOptions(compute_type=kind, batch=number(r"batch (\d+)", row["settings"], 1))
    return whisper_estimate(f"whisper-{name}", f"whisper-{name}", int(size * 1e9), options)


def compare(row: dict[str, str]) -> Line:
    theirs = int(float(row["value"]) * UNITS[row["unit"]])
    if "idle" in row["what"] and "incl" in row["what"]:
        told = [int(value) for value in re.findall(r"\d+", row["what"])]
        theirs -= int(statistics.mean(told) if told else 640) * MIB
    memory = number(r"(\d+) GB", row["gpu"], 0) * GIB
    card = default_usable(memory) if memory else None
    free = re.search(r"([\d.]+) GiB free", row["gpu"])
    if free:
        card = int(float(free[1]) * GIB)
    layers = re.search(r"(\d+)(?:/| of )(\d+) layers", row["settings"] + " " + row["note"])
    estimate = language(row) or picture(row) or speech(row)
    comparable = row["what"] not in ("CUDA0 model buffer", "weights") and "GPU weights" not in row["what"]
    return Line(
        row=row,
        theirs=theirs,
        ours=estimate.known if estimate is not None and comparable else None,
        needed=estimate.needed if estimate is not None else None,
        card=card,
        spilled=layers is not None and layers[1] != layers[2],
    )


@functools.cache
def lines() -> list[Line]:
    """Every row with our estimate."""
    return [compare(row) for row in csv.DictReader(DATA.read_text().splitlines())]


def shown(found: Iterable[Line]) -> str:
    out = [f"{'model':34} {'settings':38} {'kind':20} {'theirs':>9} {'ours':>9} {'off':>7}"]
    for line in found:
        ours = "-" if line.ours is None else f"{line.ours / MIB:.0f}"
        off = "-" if line.error is None else f"{line.error:+.1%}"
        row = line.row
        head = f"{row['model'][:33]:34} {row['settings'][:37]:38} {row['kind'][:19]:20}"
        out.append(f"{head} {line.theirs / MIB:9.0f} {ours:>9} {off:>7}  {line.reason or ''}".rstrip())
    return "\n".join(out)


def median_error(found: Iterable[Line]) -> float:
    return statistics.median(abs(e) for line in found if line.row["kind"] in MEASURED and (e := line.error) is not None)


def main() -> int:
    found = lines()
    median = median_error(found)
    wrong = [line.row["model"] for line in found if line.spilled and line.fits]
    counted = sum(line.row["kind"] in MEASURED and line.error is not None for line in found)
    print(shown(found))  # noqa: T201
    print(f"\nMiB. Median error of {counted} measured totals: {median:.1%}")  # noqa: T201
    print(f"Rows with a spill that are called a fit: {', '.join(wrong) or 'none'}")  # noqa: T201
    return int(median > 0.08 or bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
