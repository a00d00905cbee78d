"""Let the real faster-whisper transcribe two seconds of noise with a model that must already be in the cache.

Usage: transcribe.py CACHE REPO_ID
"""

import json
import sys

import numpy as np  # type: ignore[import-not-found,unused-ignore]
from faster_whisper import WhisperModel  # type: ignore[import-not-found,unused-ignore]

cache, repo_id = sys.argv[1:]
model = WhisperModel(repo_id, device="cpu", compute_type="float32", download_root=cache, local_files_only=True)
noise = np.random.default_rng(0).standard_normal(32_000).astype("float32") * 0.1
segments, info = model.transcribe(noise, language="en", beam_size=1, without_timestamps=True, max_new_tokens=4)
sys.stdout.write(json.dumps({"seconds": info.duration, "segments": [segment.tokens for segment in segments]}))
