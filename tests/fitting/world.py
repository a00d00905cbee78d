"""The upstreams of the shipped tiers, as a hub on loopback: real names, commits, digests, sizes, headers; no weights.

Where a file's digest is pinned, the hub claims it; only a download of the whole file would show the difference.
"""

from __future__ import annotations

import functools
import json
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelfetch.demo.repo import Commit
from modelfetch.demo.world import World
from modelfetch.manifest.load import load_manifest
from modelfetch.manifest.uri import HfUri
from modelfetch.tiers.discovery import find_tier
from tests.fitting import real
from tests.fitting.architectures import Spec, made
from tests.fitting.build import MadeFile, Shape, llm, safetensors
from tests.fitting.shapes import SPECS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from modelfetch.manifest.model import Manifest

TIERS = ("8g", "16g", "32g", "94g")


@functools.cache
def shipped(tier: str) -> Manifest:
    path = find_tier(tier)
    assert path is not None
    return load_manifest(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderBody:
    """A file of which the header is real and the rest a hole of zeros; its digest is the claimed one."""

    header: bytes
    size: int
    sha256: str

    def read(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        known = self.header[offset:end]
        return known + bytes(max(0, end - offset - len(known)))


# ── Ollama ──
@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    kind: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryModel:
    """A model of Ollama's library: its blobs by digest and size, the config first, and the shape of its weights."""

    config: tuple[str, int]
    layers: tuple[Layer, ...]
    shape: Shape | Spec

    @property
    def manifest(self) -> bytes:
        """The registry's bytes: compact, keys in the registry's order (facts: they were found to be just that)."""
        kind = "application/vnd.docker.container.image.v1+json"
        document = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"mediaType": kind, "digest": f"sha256:{self.config[0]}", "size": self.config[1]},
            "layers": [
                {
                    "mediaType": f"application/vnd.ollama.image.{layer.kind}",
                    "digest": f"sha256:{layer.digest}",
                    "size": layer.size,
                }
                for layer in self.layers
            ],
        }
        return json.dumps(document, separators=(",", ":")).encode()


NOMIC = Shape(
    arch="nomic-bert", layers=12, embedding=768, heads=12, kv_heads=12, ff=3072, vocab=30522, context=2048, tied=True
)
"""nomic-embed-text (source: its config.json upstream)."""

_PARAMS = Layer(kind="params", digest="56bb8bd477a519ffa694fc449c2413c6f0e1d3b1c88fa7e3c9d88d3ae49d4dcb", size=96)
_TEMPLATE = Layer(kind="template", digest="948af2743fc78a328dcb3b0f5a31b3d75f415840fdb699e8b1235978392ecf85", size=1481)

LIBRARY = {
    "qwen2.5:0.5b": LibraryModel(
        config=("005f95c7475154a17e84b85cd497949d6dd2a4f9d77c096e3c66e4d9c32acaf5", 490),
        layers=(
            Layer(
                kind="model", digest="c5396e06af294bd101b30dce59131a76d2b773e76950acc870eda801d3ab0515", size=397807936
            ),
            Layer(kind="system", digest="66b9ea09bd5b7099cbb4fc820f31b575c0366fa439b08245566692c6784e281e", size=68),
            Layer(
                kind="template", digest="eb4402837c7829a690fa845de4d7f3fd842c2adee476d5341da8a46ea9255175", size=1482
            ),
            Layer(
                kind="license", digest="832dd9e00a68dd83b3c3fb9f5588dad7dcf337a0db50f7d9483f310cd292e92e", size=11343
            ),
        ),
        shape=real.REAL["qwen2.5:0.5b"],
    ),
    "llama3.2:3b": LibraryModel(
        config=("34bb5ab01051a11372a91f95f3fbbc51173eed8e7f13ec395b9ae9b8bd0e242b", 561),
        layers=(
            Layer(
                kind="model", digest="dde5aa3fc5ffc17176b5e8bdc82f587b24b2678c6c66101bf7da77af9f7ccdff", size=2019377376
            ),
            Layer(
                kind="template", digest="966de95ca8a62200913e3f8bfbf84c8494536f1b94b49166851e76644e966396", size=1429
            ),
            Layer(kind="license", digest="fcc5a6bec9daf9b561a68827b67ab6088e1dba9d1fa2a50d7bbcc8384e0a265d", size=7711),
            Layer(kind="license", digest="a70ff7e570d97baaf4e62ac6e6ad9975e04caa6d900d3742d37698494479e0cd", size=6016),
            _PARAMS,
        ),
        shape=real.REAL["llama3.2:3b"],
    ),
    "llama3.1:8b": LibraryModel(
        config=("455f34728c9b5dd3376378bfb809ee166c145b0b4c1f1a6feca069055066ef9a", 487),
        layers=(
            Layer(
                kind="model", digest="667b0c1932bc6ffc593ed1d03f895bf2dc8dc6df21db3042284a6f4416b06a29", size=4920738944
            ),
            _TEMPLATE,
            Layer(
                kind="license", digest="0ba8f0e314b4264dfd19df045cde9d4c394a52474bf92ed6a3de22a4ca31a177", size=12320
            ),
            _PARAMS,
        ),
        shape=real.REAL["llama3.1:8b"],
    ),
    "llama3.1:70b": LibraryModel(
        config=("4bde18c49e43c760fdef6aeb50fd5ff18ac7e76ccf2748180ae220bb4d427260", 488),
        layers=(
            Layer(
                kind="model",
                digest="de20d2cf2dc430b1717a8b07a9df029d651f3895dbffec4729a3902a6fe344c9",
                size=42520398176,
            ),
            _TEMPLATE,
            Layer(
                kind="license", digest="0ba8f0e314b4264dfd19df045cde9d4c394a52474bf92ed6a3de22a4ca31a177", size=12320
            ),
            _PARAMS,
        ),
        shape=real.REAL["llama3.3:70b"],
    ),
    # Not of a shipped tier, but of the guide's: its shape is known, its digests here are stand-ins.
    "mistral:7b": LibraryModel(
        config=("1" * 64, 485),
        layers=(Layer(kind="model", digest="2" * 64, size=4372900000),),
        shape=Shape(layers=32, embedding=4096, heads=32, kv_heads=8, ff=14336, vocab=32768, context=32768, mix=True),
    ),
    "gemma3:1b": LibraryModel(
        config=("120007c81bf8b4eb54e896a4a3e5ff9949f124b0ea42295277c8523f7fa9c7f6", 492),
        layers=(
            Layer(
                kind="model", digest="7cd4618c1faf8b7233c6c906dac1694b6a47684b37b8895d470ac688520b9c01", size=815310432
            ),
            Layer(kind="template", digest="e0a42594d802e5d31cdc786deb4823edb8adff66094d49de8fffe976d753e348", size=358),
            Layer(kind="license", digest="dd084c7d92a3c1c14cc09ae77153b903fd2024b64a100a0cc8ec9316063d2dbc", size=8432),
            Layer(kind="params", digest="3116c52250752e00dd06b16382e952bd33c34fd79fc4fe3a5d2c77cf7de1b14b", size=77),
        ),
        shape=SPECS["gemma3:1b"],
    ),
    "qwen3:8b": LibraryModel(
        config=("05a61d37b08453e59290add468e3bb2f688e23a01e967fecb0e2fa41218cea76", 487),
        layers=(
            Layer(
                kind="model", digest="a3de86cd1c132c822487ededd47a324c50491393e6565cd14bafa40d0b8e686f", size=5225374496
            ),
            Layer(
                kind="template", digest="ae370d884f108d16e7cc8fd5259ebc5773a0afa6e078b11f4ed7e39a27e0dfc4", size=1723
            ),
            Layer(
                kind="license", digest="d18a5cc71b84bc4af394a31116bd3932b42241de70c77d2b76d69a314ec8aa12", size=11338
            ),
            Layer(kind="params", digest="cff3f395ef3756ab63e58b0ad1b32bb6f802905cae1472e6a12034e4246fbbdb", size=120),
        ),
        shape=SPECS["qwen3:8b"],
    ),
    "nomic-embed-text": LibraryModel(
        config=("31df23ea7daa448f9ccdbbcecce6c14689c8552222b80defd3830707c0139d4f", 420),
        layers=(
            Layer(
                kind="model", digest="970aa74c0a90ef7482477cf803618e776e173c007bf957f635f1015bfcfef0e6", size=274290656
            ),
            Layer(
                kind="license", digest="c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4", size=11357
            ),
            Layer(kind="params", digest="ce4a164fc04605703b485251fe9f1a181688ba0eb6badb80cc6335c0de17ca0d", size=17),
        ),
        shape=NOMIC,
    ),
}


@functools.cache
def library_header(name: str) -> bytes:
    """The header of one of `LIBRARY`; made once, since a vocabulary of 128,256 tokens takes a while."""
    shape = LIBRARY[name].shape
    return (llm(shape) if isinstance(shape, Shape) else made(shape)).header


def _add_library(world: World) -> None:
    for name, entry in LIBRARY.items():
        blobs = [
            HeaderBody(
                header=library_header(name) if layer.kind == "model" else b"", size=layer.size, sha256=layer.digest
            )
            for layer in entry.layers
        ]
        world.ollama_manifest(name, entry.manifest, blobs)


# ── image models ──
def _with(file: MadeFile, name: str, shape: tuple[int, ...]) -> MadeFile:
    """The same file with one more 16-bit tensor, which its real size shows to be there."""
    entries = json.loads(file.header[8:])
    tensors = {key: (e["dtype"], e["shape"]) for key, e in entries.items()}
    return safetensors({**tensors, name: ("F16", shape)})


def _t5() -> MadeFile:
    """``t5xxl_fp16.safetensors`` holds its token embedding twice."""
    return _with(real.t5(), "encoder.embed_tokens.weight", (32128, 4096))


def _flux_fp8() -> MadeFile:
    """``flux1-schnell-fp8.safetensors`` has CLIP's projection too."""
    return _with(real.flux_fp8(), "text_encoders.clip_l.transformer.text_projection.weight", (768, 768))


def _flux_dev_fp8() -> MadeFile:
    """``flux1-dev-fp8.safetensors`` is the same with the guidance that schnell lacks."""
    return _with(_flux_fp8(), "model.diffusion_model.guidance_in.out_layer.weight", (3072, 1665))


SAFETENSORS: dict[str, Callable[[], MadeFile]] = {
    "v1-5-pruned-emaonly.safetensors": real.sd15,
    "sd_xl_base_1.0.safetensors": real.sdxl,
    "sdxl_vae.safetensors": real.sdxl_vae,
    "flux1-schnell-fp8.safetensors": _flux_fp8,
    "flux1-dev-fp8.safetensors": _flux_dev_fp8,
    "flux1-dev.safetensors": real.flux_dev,
    "t5xxl_fp16.safetensors": _t5,
    "clip_l.safetensors": real.clip_l,
    "ae.safetensors": real.flux_vae,
}


_FAMILY: Mapping[str, tuple[str, tuple[str, Sequence[int]]]] = {
    "flux-2-klein-4b.safetensors": ("BF16", ("double_stream_modulation_img.lin.weight", (18432, 3072))),
    "flux-2-klein-4b-fp8.safetensors": ("F8_E4M3", ("double_stream_modulation_img.lin.weight", (18432, 3072))),
    "z_image_turbo_bf16.safetensors": ("BF16", ("cap_embedder.1.weight", (3840, 2560))),
    "qwen_image_2512_fp8_e4m3fn.safetensors": ("F8_E4M3", ("txt_norm.weight", (3584,))),
}
"""The type of most of a denoiser's weights, and a tensor that identifies its family."""


def part_header(name: str, size: int) -> bytes:
    """The header of a safetensors file of the tiers, of which only the family and the size are real for the newest."""
    if name in SAFETENSORS:
        return padded(SAFETENSORS[name](), size)
    dtype, mark = _FAMILY.get(name, ("F32" if name == "flux2-vae.safetensors" else "BF16", ("weight", (1,))))
    rest = (size - 100_000 - 2 * math.prod(mark[1])) // {"F32": 4, "BF16": 2, "F8_E4M3": 1}[dtype]
    return padded(safetensors({mark[0]: ("BF16", mark[1]), "all_other_weights": (dtype, (rest,))}), size)


def padded(file: MadeFile, size: int) -> bytes:
    """The header, made longer by spaces, as the format allows, until the whole file has its real size."""
    length: int = struct.unpack("<Q", file.header[:8])[0]
    assert file.size is not None
    longer = length + size - file.size
    assert length <= longer < 10**6, f"the real header would have {longer} bytes"
    head = file.header[8:] + b" " * (longer - length)
    return struct.pack("<Q", longer) + head


def _add_images(world: World, manifest: Manifest) -> None:
    for model in manifest.models:
        uri = model.source
        if not isinstance(uri, HfUri) or uri.path is None:
            continue
        assert model.size is not None
        assert model.digest is not None
        assert uri.commit is not None
        head = part_header(uri.path.rpartition("/")[2], model.size)
        body = HeaderBody(header=head, size=model.size, sha256=model.digest.hex)
        before = world.repos.get(uri.repo)
        files = {path: file.body for path, file in before.commits[before.main].files.items()} if before else {}
        gated = uri.repo.startswith("black-forest-labs/")
        repo = world.hf_repo(uri.repo, {**files, uri.path: body}, gated="auto" if gated else False)
        made_up = repo.commits.pop(repo.main)
        repo.commits[uri.commit] = Commit(sha=uri.commit, files=made_up.files)
        repo.refs["main"] = uri.commit


def tier_world(*manifests: Manifest) -> World:
    """Everything that `fit` requests for the tiers; ``hf_member`` may read what is gated."""
    world = World()
    _add_library(world)
    for manifest in manifests:
        _add_images(world, manifest)
    world.token("hf", "hf_member", gated=["*"])
    return world
