"""Which values of ``.env`` the generation of a card sets."""

from __future__ import annotations

import pytest

from modelfetch.tiers.dotenv.cards import card_values

BEFORE_TURING = {"COMFYUI_IMAGE": "yanwk/comfyui-boot:cu126-slim-20260914"}
TURING_TO_HOPPER: dict[str, str] = {}
BLACKWELL = {"TORCH_BUILD": "cu128", "WHISPERX_IMAGE": "learnedmachine/whisperx-asr-service:0.4.1-blackwell"}


@pytest.mark.parametrize(
    ("compute", "values"),
    [
        # compute capabilities: developer.nvidia.com/cuda-gpus
        pytest.param((6, 1), BEFORE_TURING, id="GeForce GTX 1080, Tesla P40"),
        pytest.param((7, 0), BEFORE_TURING, id="Tesla V100"),
        pytest.param((7, 5), TURING_TO_HOPPER, id="GeForce RTX 2080"),
        pytest.param((8, 0), TURING_TO_HOPPER, id="A100"),
        pytest.param((8, 9), TURING_TO_HOPPER, id="L4"),
        pytest.param((9, 0), TURING_TO_HOPPER, id="H100"),
        pytest.param((10, 0), BLACKWELL, id="B200"),
        pytest.param((12, 0), BLACKWELL, id="GeForce RTX 5090"),
        pytest.param(None, None, id="unknown"),
    ],
)
def test_the_generation_of_a_card_sets_the_images(
    compute: tuple[int, int] | None, values: dict[str, str] | None
) -> None:
    assert card_values(compute) == values
