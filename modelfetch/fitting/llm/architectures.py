"""The architectures with known memory, and how each differs from llama's.

Source: llama.cpp, src/models/*.cpp (the graphs), src/llama-model.cpp (the kind of memory each one gets).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Block = Literal["llama", "gemma4", "bert"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The differences of an architecture.

    Attributes:
        block: The kind of block: most are variations of llama's.
        fused: Queries, keys and values come from one matrix, and so do the halves of the feed-forward part.
        normed: Queries and keys are normalised before they are rotated.
        after: The outputs of attention and feed-forward part are normalised too.
        gated: Each query comes with a gate on the output of attention.
        linear: All blocks but one in ``full_attention_interval`` are gated delta nets.
        latent: Multi-head latent attention.
        window_every: With a sliding window, all blocks but one in so many see only the window; 0: the window is not
            used.
        dense_with_experts: Blocks with experts have a dense feed-forward part too.
        scaled: The embedded tokens are scaled.
        encoder: No cache and no output: the batch attends to itself.
        ungated: The feed-forward part has one half only.
        learned_positions: Positions are added to the embedded tokens; queries and keys are not rotated.
    """

    block: Block = "llama"
    fused: bool = False
    normed: bool = False
    after: bool = False
    gated: bool = False
    linear: bool = False
    latent: bool = False
    window_every: int = 0
    dense_with_experts: bool = False
    scaled: bool = False
    encoder: bool = False
    ungated: bool = False
    learned_positions: bool = False


_GPT_OSS = Architecture(window_every=2)
_HYBRID = Architecture(linear=True, normed=True, gated=True)

ARCHITECTURES = {
    **dict.fromkeys(("llama", "mistral3", "granite", "deci", "qwen2"), Architecture()),
    **dict.fromkeys(("qwen3", "qwen3moe"), Architecture(normed=True)),
    **dict.fromkeys(("qwen35", "qwen35moe"), _HYBRID),
    "phi3": Architecture(fused=True),
    "gemma2": Architecture(after=True, scaled=True, window_every=2),
    "gemma3": Architecture(after=True, scaled=True, normed=True, window_every=6),
    "gemma4": Architecture(
        block="gemma4", after=True, scaled=True, normed=True, window_every=6, dense_with_experts=True
    ),
    **dict.fromkeys(("gpt-oss", "gptoss"), _GPT_OSS),  # the second is the name in Ollama's own files
    "deepseek2": Architecture(latent=True),
    "nemotron": Architecture(ungated=True),
    "bert": Architecture(block="bert", encoder=True, ungated=True, learned_positions=True),
    "nomic-bert": Architecture(block="bert", encoder=True, fused=True),
    "gemma-embedding": Architecture(after=True, scaled=True, normed=True, window_every=6, encoder=True),
}
"""Any other architecture is reported as unknown, with bounds."""
