"""Estimate a model from its files: read the headers, only as far as necessary, and apply the rule for its kind."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from modelfetch.core.units import total_size
from modelfetch.fitting.image import ImageOptions, Parts, image_estimate, parse_resolution, parts_of, parts_of_gguf
from modelfetch.fitting.llm.architectures import ARCHITECTURES
from modelfetch.fitting.llm.estimate import KV_BYTES, MARGIN, LlmOptions, llm_estimate
from modelfetch.fitting.speech import (
    WhisperOptions,
    aligner_estimate,
    decoder_layers,
    is_parakeet,
    parakeet_estimate,
    whisper_estimate,
)
from modelfetch.fitting.types import Estimate
from modelfetch.formats.gguf import MAGICS, GgufHeader, read_gguf
from modelfetch.formats.pickles import PICKLE_SUFFIXES
from modelfetch.formats.safetensors import is_safetensors_name, read_safetensors
from modelfetch.manifest.budget import MIN_FREE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from modelfetch.fitting.types import Candidate, ModelFile
    from modelfetch.manifest.model import Service

LOADED_KINDS = frozenset(
    (
        None,
        "checkpoint",
        "diffusion-model",
        "text-encoder",
        "vae",
        "snapshot",
        "torch-checkpoint",
        "whisper",
        "immich-model",
    )
)
"""Kinds that every request loads (None: Ollama's models); any other is loaded only if a request names it, or never."""

_PICKLES = (*PICKLE_SUFFIXES, ".bin")
_VARIANT = re.compile(
    r"(.+?)(\.(?:fp16|fp32|bf16|non_ema|ema_only))?(?:-\d{5}(-of-\d{5}))?(\.(?:safetensors|sft|gguf))", re.IGNORECASE
)


def unknown_estimate(candidate: Candidate, *reasons: str) -> Estimate:
    """An estimate of which only the sizes of the files are known; ``reasons`` explain why."""
    weights = total_size(file.size for file in candidate.files) if candidate.files else None
    return Estimate(
        name=candidate.name, uri=candidate.uri, weights=weights, kv=None, compute=None, method="size", unknown=reasons
    )


# ── language models ──
def is_gguf(file: ModelFile) -> bool:
    """Whether a file is a GGUF file: by its name, its Ollama layer's kind, or its first bytes where it has neither."""
    suffix = PurePosixPath(file.path).suffix.lower()
    if suffix == ".gguf" or file.path == "model":
        return True
    if file.prefix is None or is_safetensors_name(file.path) or suffix in (".json", ".txt", ".md", *_PICKLES):
        return False
    return (file.prefix.size or 4) >= 4 and bytes(file.prefix.upto(4)[:4]) in MAGICS


def llm_options(service: Service) -> LlmOptions:
    """The settings of a service for a language model; Ollama's defaults, with one request at a time, for the rest."""
    return LlmOptions(
        context=service.context or 4096,
        parallel=service.parallel or 1,
        kv_type=service.kv_type if service.kv_type in KV_BYTES else "f16",
        flash_attention=service.flash_attention is not False,
        margin=MARGIN if service.vram is None else MIN_FREE,
    )


def read_llm(candidate: Candidate, *, tensors: bool) -> tuple[GgufHeader | None, int | None]:
    """The header of a language model, its shards as one, and the bytes of its projector (None: size not known).

    Raises:
        NotAModelError: A file is no GGUF file, or a broken one.
        ModelfetchError: The source failed.
    """
    files = sorted((file for file in candidate.files if is_gguf(file)), key=lambda file: file.path)
    mains = [file for file in files if "mmproj" not in file.path]
    readable = [file.prefix for file in mains if file.prefix]
    if not readable or len(readable) != len(mains):
        return None, 0
    headers = [read_gguf(prefix, tensors=tensors) for prefix in readable]
    projectors = [f.size for f in candidate.files if f.path == "projector" or (f in files and f not in mains)]
    return _joined(headers), total_size(projectors)


def _joined(headers: Sequence[GgufHeader]) -> GgufHeader:
    if len(headers) == 1:
        return headers[0]
    tensors = [header.tensors for header in headers]
    return replace(
        headers[0],
        size=total_size(header.size for header in headers),
        tensors=None if None in tensors else tuple(t for shard in tensors for t in shard or ()),
    )


def is_encoder(header: GgufHeader) -> bool:
    """Whether it is an embedding model, which stays loaded together with a chat model."""
    arch = header.metadata.get("general.architecture")
    return isinstance(arch, str) and arch in ARCHITECTURES and ARCHITECTURES[arch].encoder


def _shards_missing(header: GgufHeader, candidate: Candidate) -> str | None:
    count = header.metadata.get("split.count", 1)
    have = sum(is_gguf(file) and "mmproj" not in file.path for file in candidate.files)
    return f"only {have} of its {count} shards are here" if isinstance(count, int) and count > have else None


def gguf_estimate(candidate: Candidate, service: Service, *, exact: bool = True) -> Estimate:
    """Estimate a GGUF model; ``exact`` reads the list of tensors too, otherwise the file's size bounds the weights."""
    header, extra = read_llm(candidate, tensors=exact)
    if header is None:
        return unknown_estimate(candidate, "its header can't be read from there")
    parts = parts_of_gguf(header)
    if parts is not None and parts.denoiser:
        return image_estimate(candidate.name, candidate.uri, parts, image_options(service))
    made = llm_estimate(candidate.name, candidate.uri, header, llm_options(service), extra=extra)
    missing = _shards_missing(header, candidate)
    return replace(made, unknown=(*made.unknown, missing)) if missing else made


# ── image models ──
def image_options(service: Service) -> ImageOptions:
    """The settings of a service for an image model."""
    width, height = parse_resolution(service.resolution) if service.resolution else (None, None)
    return ImageOptions(width=width, height=height, batch=service.batch or 1, offload=service.offload or "none")


def read_parts(candidate: Candidate) -> Parts | None:
    """The parts in the files of an image model, all together; None if those of a file are not known.

    Raises:
        NotAModelError: A file is broken.
        ModelfetchError: The source failed.
    """
    found: dict[str, Parts] = {}
    for base, file in _once(candidate.files):
        suffix = PurePosixPath(file.path).suffix.lower()
        if is_safetensors_name(file.path) and file.prefix is not None:
            parts = parts_of(read_safetensors(file.prefix), kind=candidate.kind, path=file.path)
        elif is_gguf(file) and file.prefix is not None:
            parts = parts_of_gguf(read_gguf(file.prefix), kind=candidate.kind)
        elif is_safetensors_name(file.path) or suffix in (".gguf", *_PICKLES):
            parts = None
        else:
            continue
        if parts is None:
            return None
        found[base] = found.get(base, Parts()) + parts
    several = sum(parts.denoiser > 0 for parts in found.values()) > 1
    return replace(sum(found.values(), Parts()), several=several)


def _once(files: Sequence[ModelFile]) -> Iterator[tuple[str, ModelFile]]:
    """The files of a repository, each part once; yields the name of the part and the file.

    A repository may hold the same weights as ``x.safetensors``, ``x.fp16.safetensors`` and pickles. A program loads one
    of them. Which one makes no difference, because 32-bit floats are held in 16 bits.
    """
    folders = {PurePosixPath(file.path).parent for file in files if is_safetensors_name(file.path)}
    chosen: dict[str, str] = {}
    for file in files:
        path = PurePosixPath(file.path)
        if path.suffix.lower() in _PICKLES and path.parent in folders:
            continue
        match = _VARIANT.fullmatch(file.path)
        base, variant = (match[1], f"{match[2]}{match[3]}{match[4]}") if match else (file.path, "")
        if chosen.setdefault(base, variant) == variant:
            yield base, file


def image_estimates(
    read: Sequence[tuple[Candidate, Parts | None]], service: Service, *, fp8: bool = False
) -> list[tuple[Candidate, Estimate]]:
    """One estimate for each model with a denoiser, together with the text encoders and VAEs among the others.

    ``fp8``: as if the 16-bit weights of the denoiser were held in 8 bits.
    """
    shared = sum((parts for _, parts in read if parts is not None and not parts.denoiser), Parts())
    made = []
    for candidate, parts in read:
        if parts is None:
            made.append((candidate, unknown_estimate(candidate, "its parts are not known")))
        elif parts.several:
            made.append((candidate, unknown_estimate(candidate, "it holds several models: name one of its files")))
        elif parts.denoiser:
            whole = replace(
                parts,
                denoiser=parts.denoiser - (parts.wide // 2 if fp8 else 0),
                text=parts.text or shared.text,
                vae=parts.vae or shared.vae,
            )
            estimate = image_estimate(candidate.name, candidate.uri, whole, image_options(service))
            made.append((candidate, estimate))
    return made


# ── speech ──
def speech_estimate(candidate: Candidate, service: Service) -> Estimate:
    """Estimate a model of the whisper service."""
    if candidate.kind == "torch-checkpoint":
        return aligner_estimate(candidate.name, candidate.uri, sum(file.size or 0 for file in candidate.files) or None)
    size = _speech_weights(candidate)
    if is_parakeet(candidate.uri) or is_parakeet(candidate.name):
        return parakeet_estimate(candidate.name, candidate.uri, size)
    options = WhisperOptions(compute_type=service.compute_type or "float16", batch=service.batch or 1)
    return whisper_estimate(candidate.name, candidate.uri, size, options)


def _speech_weights(candidate: Candidate) -> int | None:
    """Bytes of the weights in the form that is loaded first: CTranslate2's, safetensors, NeMo's, a pickle or GGUF."""
    for ends in (("model.bin",), (".safetensors", ".sft"), (".nemo",), (".pt", ".pth"), (".gguf",)):
        sizes = [file.size for _, file in _once(candidate.files) if file.path.lower().endswith(ends)]
        if sizes:
            return total_size(sizes)
    return None


def is_speech(candidate: Candidate) -> bool:
    """Whether the name of a model is that of a known speech model."""
    return any(decoder_layers(text) is not None or is_parakeet(text) for text in (candidate.uri, candidate.name))


# ── any ──
def fit_model(candidate: Candidate, service: Service, *, fp8: bool = False) -> Estimate:
    """Estimate one model from its own files, with a service's settings.

    Raises:
        NotAModelError: A file is no model, or a broken one.
        ModelfetchError: The source failed.
    """
    if is_speech(candidate) and _speech_weights(candidate) is not None:
        return speech_estimate(candidate, service)
    if any(is_gguf(file) for file in candidate.files):
        return gguf_estimate(candidate, service, exact=True)
    if any(is_safetensors_name(file.path) for file in candidate.files):
        made = image_estimates([(candidate, read_parts(candidate))], service, fp8=fp8)
        return made[0][1] if made else unknown_estimate(candidate, "it has no denoiser")
    return unknown_estimate(candidate, "the kind of model is not known")
