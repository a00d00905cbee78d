"""Which layers of a language model run on the GPU if it does not fit as a whole.

The rule is that of llama.cpp's server (source: common/fit.cpp): the output first, then layers from the last to the
first. Of a mixture of experts, the experts come after everything else: if all the rest fits, those of the first layers
are added.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class OnGpu:
    """How many layers run on the GPU, the output included, and how many of these have their experts there too."""

    layers: int
    experts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSizes:
    """The bytes of a language model, part by part, in the order of its layers.

    Attributes:
        output: The output, which counts as one more layer, and a projector.
        layers: Each layer's weights and cache, without experts.
        experts: Each layer's experts; empty if the model has none.
    """

    output: int
    layers: tuple[int, ...]
    experts: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """The number of layers, the output included."""
        return len(self.layers) + 1

    def within(self, free: int) -> OnGpu:
        """The layers that are put on the GPU if ``free`` bytes are left for weights and cache."""
        if not self.experts:
            return OnGpu(layers=self._filled(free, (0,) * len(self.layers)), experts=0)
        if self.output + sum(self.layers) >= free:
            filled = self._filled(free, self.experts)
            return OnGpu(layers=filled, experts=min(1, max(0, filled - 1)))
        left = free - self.output - sum(self.layers)
        count = 0
        for size in self.experts:
            left -= size
            if left < 0:
                break
            count += 1
        return OnGpu(layers=self.count, experts=count)

    def _filled(self, free: int, first: tuple[int, ...]) -> int:
        """Layers that fit, from the last to the first; ``first`` is added for the foremost one on the GPU."""
        taken = self.output
        if taken > free:
            return 0
        for count, (size, more) in enumerate(zip(reversed(self.layers), reversed(first), strict=True), 1):
            taken += size
            if taken + more > free:
                return count
        return self.count
