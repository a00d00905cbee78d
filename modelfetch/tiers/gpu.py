"""The GPUs of this machine, and the largest tier that fits them.

NVIDIA GPUs are queried through NVML (package ``nvidia-ml-py``, the extra ``gpu``); AMD GPUs are read from the files of
the ``amdgpu`` driver in sysfs (source: kernel.org, "drm/amdgpu AMDgpu driver", ``mem_info_vram_total`` and
``product_name``).
"""

from __future__ import annotations

import contextlib
import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelfetch.core.limits import raise_limit
from modelfetch.core.units import GIB, format_size, parse_decimal
from modelfetch.errors import SettingError
from modelfetch.manifest.budget import default_usable, together

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from modelfetch.manifest.model import Manifest

DRM = Path("/sys/class/drm")
"""The sysfs folder where the kernel lists graphics cards."""

_DATED = re.compile(r"\d+g-\d{4}")
_CLASSES = (8, 12, 16, 24, 32, 94)
_REPORTED = 0.9375  # drivers report less than a card's class: 15 of 16 GiB (T4), 7.8 of 8, 31.8 of 32, 93.6 of 94
_DRIVER = GIB // 4  # reserved by the driver out of the memory that it reports
_FALSE = frozenset({"0", "off", "no", "false"})
_UNSEEN = {"cpu": "forbids it", "intel": "names cards whose memory can't be read"}
_INTEGRATED = 2 * GIB  # integrated graphics have less (of main memory), current cards have more


_GENERATIONS = (
    ((5, 0), "Maxwell"),
    ((6, 0), "Pascal"),
    ((7, 0), "Volta"),
    ((7, 5), "Turing"),
    ((8, 0), "Ampere"),
    ((8, 9), "Ada"),
    ((9, 0), "Hopper"),
    ((10, 0), "Blackwell"),
)
"""The lowest CUDA compute capability of each generation (source: NVIDIA, "CUDA GPU Compute Capability")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU: ``vendor`` is nvidia or amd, ``memory`` is the total that its driver reports, in bytes.

    ``compute`` is the CUDA compute capability of an NVIDIA GPU.
    """

    vendor: str
    name: str
    memory: int
    compute: tuple[int, int] | None = None

    @property
    def usable(self) -> int:
        """VRAM available to services, in bytes: the contract's value for its class, slightly less than reported."""
        classes = [default_usable(c * GIB) for c in _CLASSES if self.memory >= c * GIB * _REPORTED]
        return max(0, min(max([*classes, default_usable(self.memory)]), self.memory - _DRIVER))

    @property
    def generation(self) -> str | None:
        """The name of its generation; None if it is not an NVIDIA GPU, or older than all known ones."""
        known = [name for since, name in _GENERATIONS if self.compute is not None and since <= self.compute]
        return known[-1] if known else None

    @property
    def weights(self) -> str | None:
        """How it computes with small types of weights; None if its generation is not known."""
        if self.generation is None or self.compute is None:
            return None
        if self.compute < (8, 0):
            return "it has no bf16: VAEs run in 32 bits unless --vae-in-fp16 (Forge) or --fp16-vae (ComfyUI) is set"
        if self.compute < (8, 9):
            return "fp8 weights save memory, but are computed in 16 bits"
        return "it computes fp8" + (" and fp4" if self.compute >= (10, 0) else "")

    def __str__(self) -> str:
        generation = f" ({self.generation})" if self.generation else ""
        return f"{self.name}{generation} with {format_size(self.memory)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectedGpus:
    """The GPUs in the order in which containers get them, and the reason why some may not have been detected."""

    gpus: tuple[Gpu, ...] = ()
    why: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoTier:
    """The chosen tier, the GPU that it must fit, and the usable bytes of that GPU.

    Attributes:
        needed: What the tier's services need together, in bytes.
        larger: The next larger tier and what it needs, in bytes; None if there is none.
        dated: The tier with a year for the same class of card; None if there is none.
        count: How many GPUs services see; the smallest of them is ``gpu``.
    """

    tier: str
    gpu: Gpu
    usable: int
    needed: int = 0
    larger: tuple[str, int] | None = None
    dated: str | None = None
    count: int = 1

    def reasons(self) -> tuple[str, ...]:
        """Explain the choice: the card, why this tier and no larger one, and what else would fit."""
        card = f"your card: {self.gpu}, {format_size(self.usable)} usable"
        if self.count > 1:
            card += f"; the smallest of {self.count}, since all services share one card"
        choice = f"auto chooses {self.tier}: its services need {format_size(self.needed)} together"
        if self.larger:
            choice += f"; the next larger tier, {self.larger[0]}, needs {format_size(self.larger[1])}"
        lines = [card, choice]
        if self.dated:
            lines.append(f"newer models for this card: --tier {self.dated}")
        return (*lines, *([f"{self.gpu.generation}: {self.gpu.weights}"] if self.gpu.weights else ()))


def find_gpus(*, vendor: str = "", nvml: Any = None, drm: Path | None = None) -> DetectedGpus:
    """Find the GPUs: NVIDIA's if there are any, otherwise AMD's. Never raises.

    Args:
        vendor: ``nvidia`` or ``amd`` if services only get GPUs of that vendor.
        nvml: The module ``pynvml``; imported if not given.
        drm: The folder where the kernel lists graphics cards; default `DRM`.
    """
    nvidia = DetectedGpus() if vendor == "amd" else _nvidia(nvml)
    if nvidia.gpus or vendor == "nvidia":
        return nvidia
    amd = _amd(drm or DRM)
    return DetectedGpus(gpus=amd, why=() if amd else (*nvidia.why, "no amdgpu card shows its memory in /sys/class/drm"))


def auto_tier(
    tiers: Iterable[tuple[str, Manifest]], environ: Mapping[str, str], *, found: DetectedGpus | None = None
) -> AutoTier:
    """Choose the largest tier that fits the GPU.

    All services share one card, so with several cards (the first ``GPU_COUNT``) the smallest one is used.

    Args:
        tiers: Names and manifests of all tiers.
        environ: The environment, read for ``GPU_ENABLE``, ``GPU_VENDOR`` and ``GPU_COUNT``.
        found: The GPUs; detected if not given.

    Raises:
        SettingError: There is no GPU, it may not be used, or no tier fits it (``no-gpu``); or ``GPU_COUNT`` is invalid.
    """
    known = tuple(tiers)
    hint = f"name the tier with --tier: {', '.join(name for name, _ in _sizes(known)) or 'none found'}"
    vendor = environ.get("GPU_VENDOR", "").strip().lower()
    disabled = environ.get("GPU_ENABLE", "").strip().lower() in _FALSE
    if disabled or vendor in _UNSEEN:
        why = "GPU_ENABLE=false forbids it" if disabled else f"GPU_VENDOR={vendor} {_UNSEEN[vendor]}"
        raise SettingError(f"the tier auto needs a GPU, but {why}", code="no-gpu", hint=hint)
    count = _count(environ)
    found = found or find_gpus(vendor=vendor)
    gpus = found.gpus if count is None else found.gpus[:count]
    if not gpus:
        why = "; ".join(found.why) if not found.gpus else "GPU_COUNT=0"
        raise SettingError(f"the tier auto needs a GPU, and none was found: {why}", code="no-gpu", hint=hint)
    gpu = min(gpus, key=lambda one: one.usable)
    tier = largest_within(known, gpu.usable)
    if tier is None:
        text = f"no tier fits {gpu}, of which {format_size(gpu.usable)} are usable"
        if len(found.gpus) > 1:
            text += (
                f"; services see {len(gpus)} of {len(found.gpus)} GPUs (GPU_COUNT), and the smallest of these counts"
            )
        raise SettingError(text, code="no-gpu", hint=f"{hint}; or write a manifest that extends one (`extends:`)")
    sizes = {name: together(manifest.services) for name, manifest in _sizes(known)}
    larger = min(((size, name) for name, size in sizes.items() if size > gpu.usable), default=None)
    return AutoTier(
        tier=tier,
        gpu=gpu,
        usable=gpu.usable,
        needed=sizes[tier],
        larger=(larger[1], larger[0]) if larger else None,
        dated=_dated_tier(known, tier, gpu.usable),
        count=len(gpus),
    )


def _dated_tier(tiers: Sequence[tuple[str, Manifest]], tier: str, usable: int) -> str | None:
    """The newest tier with a year of the same class, if it fits."""
    names = [
        name
        for name, manifest in tiers
        if _DATED.fullmatch(name) and name.startswith(f"{tier}-") and together(manifest.services) <= usable
    ]
    return max(names, default=None)


def largest_within(tiers: Sequence[tuple[str, Manifest]], usable: int) -> str | None:
    """The tier whose services together use the most of ``usable`` bytes without exceeding them."""
    fitting = [(together(manifest.services), name) for name, manifest in _sizes(tiers)]
    fitting = [(needed, name) for needed, name in fitting if needed <= usable]
    # On a tie, prefer the plain name over a user's tier that only adds to a shipped one.
    return max(fitting, key=lambda pair: (pair[0], re.fullmatch(r"\d+g", pair[1]) is not None))[1] if fitting else None


def _sizes(tiers: Sequence[tuple[str, Manifest]]) -> list[tuple[str, Manifest]]:
    """The tiers that have budgets, except the demo tier and dated tiers, which are only chosen by name."""
    return [
        (name, manifest)
        for name, manifest in tiers
        if name != "demo"
        and not _DATED.fullmatch(name)
        and manifest.vram is not None
        and together(manifest.services) > 0
    ]


def _count(environ: Mapping[str, str]) -> int | None:
    """The number of GPUs visible to services; None for all."""
    text = environ.get("GPU_COUNT", "").strip().lower() or "1"
    if text in ("all", "-1"):
        return None
    if (count := parse_decimal(text, digits=3)) is None:
        raise SettingError(f"GPU_COUNT={text[:40]}: expected a number of GPUs, or all")
    return count


def _nvidia(nvml: Any) -> DetectedGpus:
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return DetectedGpus(why=("the package nvidia-ml-py is not installed (pip install nvidia-ml-py)",))
    try:
        nvml.nvmlInit()
    except Exception as error:  # an NVMLError, or anything that a broken driver causes
        return DetectedGpus(why=(f"NVML: {error}",))
    try:
        return _query_nvml(nvml)
    finally:
        with contextlib.suppress(Exception):
            nvml.nvmlShutdown()


def _query_nvml(nvml: Any) -> DetectedGpus:
    gpus: list[Gpu] = []
    why: list[str] = []
    try:
        count = nvml.nvmlDeviceGetCount()
    except Exception as error:
        return DetectedGpus(why=(f"NVML: {error}",))
    for index in range(count):
        try:
            device = nvml.nvmlDeviceGetHandleByIndex(index)
            name = nvml.nvmlDeviceGetName(device)
            memory = int(nvml.nvmlDeviceGetMemoryInfo(device).total)
            parts = _parts(nvml, device)
        except Exception as error:
            why.append(f"NVML, GPU {index}: {error}")
            continue
        text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
        sizes = [memory] if parts is None else parts
        text += "" if parts is None else " (a MIG instance)"
        why += [] if sizes else [f"GPU {index} is in MIG mode and has no instance"]
        compute = _compute(nvml, device)
        gpus += [Gpu(vendor="nvidia", name=text, memory=size, compute=compute) for size in sizes]
    return DetectedGpus(gpus=tuple(gpus), why=tuple(why) if why or gpus else ("NVML reports no GPU",))


def _compute(nvml: Any, device: Any) -> tuple[int, int] | None:
    try:
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(device)
    except Exception:  # not supported by this driver or package
        return None
    return int(major), int(minor)


def _parts(nvml: Any, device: Any) -> list[int] | None:
    """The memory of each instance of a GPU in MIG mode, since services get one instance; None if it is not split.

    Source: NVML API reference, "Multi Instance GPU Management".
    """
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(device)
    except Exception:  # most GPUs can't be split
        return None
    if not current:
        return None
    sizes: list[int] = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(device)):
        with contextlib.suppress(Exception):  # fewer instances than the maximum
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, index)
            sizes.append(int(nvml.nvmlDeviceGetMemoryInfo(part).total))
    return sizes


def _amd(drm: Path) -> tuple[Gpu, ...]:
    """AMD's cards in the kernel's order; integrated graphics only if there is no other card."""
    found: list[tuple[int, Gpu]] = []
    try:
        cards = list(drm.iterdir())
    except OSError as error:
        raise_limit(error)
        return ()
    for card in cards:
        match, name = re.fullmatch(r"card(\d{1,4})", card.name), ""
        if match is None:
            continue  # outputs of a card, such as card0-DP-1
        try:
            memory = int(_read(card / "device" / "mem_info_vram_total"))
        except (OSError, ValueError) as error:
            raise_limit(error)
            continue
        with contextlib.suppress(OSError):  # older cards and drivers have no name
            name = " ".join(_read(card / "device" / "product_name").split())
        found.append((int(match[1]), Gpu(vendor="amd", name=name or f"{card.name} (amdgpu)", memory=memory)))
    ordered = [gpu for _, gpu in sorted(found, key=lambda pair: pair[0])]
    return tuple([gpu for gpu in ordered if gpu.memory >= _INTEGRATED] or ordered)


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")
