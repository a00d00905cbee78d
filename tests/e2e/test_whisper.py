"""The real faster-whisper over the cache that `sync` filled."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.e2e import consumers
from tests.e2e.servers import NOWHERE, plain_environment
from tests.e2e.test_huggingface import repo_ids
from tests.e2e.tree import contents


def test_faster_whisper_transcribes_offline(filled: Path, whisper_python: Path, workplace: Path) -> None:
    cache = filled / "whisper" / "hub"
    before = contents(cache)
    models = [path.parents[2].name for path in cache.glob("models--*/snapshots/*/model.bin")]
    assert models
    for repo_id in repo_ids(cache):
        done = subprocess.run(
            [str(whisper_python), str(Path(*consumers.__path__, "transcribe.py")), str(cache), repo_id],
            env=plain_environment(workplace, HTTPS_PROXY=NOWHERE, HTTP_PROXY=NOWHERE, HF_HUB_OFFLINE="1"),
            cwd=workplace,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        heard = json.loads(done.stdout)
        assert heard["seconds"] == 2.0
        assert heard["segments"], "not one segment was decoded"
    assert contents(cache) == before
