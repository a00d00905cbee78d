"""A mistyped word is matched with a known one."""

from __future__ import annotations

import time

from modelfetch.core.similar import nearest
from tests.cases import each

WORDS = ("ollama", "stable-diffusion", "comfyui", "whisper")


@each(
    ("word", "found"),
    [
        ("comfi", "comfyui"),
        ("ComfyUI", "comfyui"),
        ("whisperx", "whisper"),
        ("stable_diffusion", "stable-diffusion"),
        ("forge", "stable-diffusion"),
        ("WhisperX", "whisper"),
        ("unet", None),
        ("ui", None),
        ("xyz", None),
        ("", None),
    ],
)
def test_the_most_similar_word_is_found_in_any_case(word: str, found: str | None) -> None:
    assert nearest(word, WORDS) == found


@each(("word", "found"), [("url", "source"), ("sha256", "digest"), ("type", "kind"), ("service", "for")])
def test_a_word_of_other_programs_is_known(word: str, found: str) -> None:
    assert nearest(word, ("name", "source", "digest", "kind", "for")) == found


def test_a_word_that_only_shares_its_end_is_not_similar() -> None:
    assert nearest("model", ("style-model", "checkpoint")) is None


def test_a_long_text_is_not_compared() -> None:
    started = time.process_time()
    assert nearest("comfyui" * 100_000, WORDS) is None
    assert time.process_time() - started < 1
