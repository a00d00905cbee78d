"""Find the known word that a mistyped one probably means."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST = 100
"""Characters; a longer text is not a typing mistake, and comparing it would take long."""


_OTHER_WORDS = {
    **dict.fromkeys(("a1111", "automatic1111", "forge", "sd", "sd-webui", "webui"), "stable-diffusion"),
    **dict.fromkeys(("faster-whisper", "whisperx"), "whisper"),
    **dict.fromkeys(("link", "repo", "uri", "url"), "source"),
    **dict.fromkeys(("checksum", "hash", "sha256"), "digest"),
    **dict.fromkeys(("consumer", "consumers", "service"), "for"),
    **dict.fromkeys(("destination", "dir", "folder"), "path"),
    **dict.fromkeys(("clip", "t5"), "text-encoder"),
    **dict.fromkeys(("esrgan", "upscale-model"), "upscaler"),
    "format": "json",
    "repository": "snapshot",
    "textual-inversion": "embedding",
    "type": "kind",
    "unet": "diffusion-model",
}
"""Words that other programs use for services, and for the keys and kinds of a manifest."""


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.65) -> str | None:
    """Return the known word that means the same as ``word`` or is most similar, whatever its case; None without one.

    ``cutoff`` is the least similarity, from 0 to 1 (source: difflib.get_close_matches).
    """
    if len(word) > _LONGEST:
        return None
    by_lower = {one.lower(): one for one in known}
    if (other := _OTHER_WORDS.get(word.lower())) in by_lower:
        return other
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else None
