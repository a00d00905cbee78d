"""The ``.env`` values that depend on the GPU: PyTorch builds run only on generations they were compiled for. Pure.

Sources: the architecture lists of PyTorch's builds (pytorch/pytorch, ``.ci/manywheel/build_cuda.sh``): CUDA 12.1, 12.4
and 12.6 have kernels for compute capability 5.0 to 9.0, CUDA 12.8 adds 10.0 and 12.0, CUDA 13.0 starts at 7.5.
WhisperX' images: murtaza-nasir/whisperx-asr-service, README, "Image Variants"; ComfyUI's: YanWenKun/ComfyUI-Docker,
README.adoc.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_VALUES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """Generations of NVIDIA cards that the same images run on.

    Attributes:
        names: Their names.
        since: The lowest compute capability among them.
        values: The variables that differ from the table's defaults.
    """

    names: str
    since: tuple[int, int]
    values: Mapping[str, str] = field(default_factory=lambda: _NO_VALUES)


GENERATIONS = (
    Generation(
        names="Maxwell, Pascal, Volta",
        since=(5, 0),
        values={"COMFYUI_IMAGE": "yanwk/comfyui-boot:cu126-slim-20260914"},
    ),
    Generation(names="Turing, Ampere, Ada, Hopper", since=(7, 5)),
    Generation(
        names="Blackwell",
        since=(10, 0),
        values={"TORCH_BUILD": "cu128", "WHISPERX_IMAGE": "learnedmachine/whisperx-asr-service:0.4.1-blackwell"},
    ),
)
"""All supported generations, oldest first."""

CARD_VARIABLES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        name: frozenset(one.values[name] for one in GENERATIONS if name in one.values)
        for generation in GENERATIONS
        for name in generation.values
    }
)
"""The variables that depend on the card, each with all of its possible values."""


def card_values(compute: tuple[int, int] | None) -> Mapping[str, str] | None:
    """The variables that a card sets to values other than the table's; None if the card is not known.

    Args:
        compute: The card's CUDA compute capability; None for none.
    """
    if compute is None:
        return None
    fitting = [generation for generation in GENERATIONS if generation.since <= compute]
    return fitting[-1].values if fitting else _NO_VALUES
