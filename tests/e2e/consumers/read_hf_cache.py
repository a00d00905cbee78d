"""Read every repository of a cache with the official client, by name alone, with no network.

Usage: read_hf_cache.py CACHE
"""

import json
import sys
from pathlib import Path

from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download, try_to_load_from_cache

cache = Path(sys.argv[1])
scan = scan_cache_dir(cache)
repos: dict[str, object] = {}
for repo in scan.repos:
    snapshot = Path(snapshot_download(repo.repo_id, cache_dir=cache, local_files_only=True))
    files = {}
    for path in sorted(str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file()):
        found = hf_hub_download(repo.repo_id, path, cache_dir=cache, local_files_only=True)
        by_commit = hf_hub_download(repo.repo_id, path, cache_dir=cache, revision=snapshot.name, local_files_only=True)
        looked_up = try_to_load_from_cache(repo.repo_id, path, cache_dir=cache)
        files[path] = [found, by_commit, looked_up]
    repos[repo.repo_id] = {"snapshot": str(snapshot), "revisions": len(repo.revisions), "files": files}
sys.stdout.write(json.dumps({"warnings": [str(warning) for warning in scan.warnings], "repos": repos}))
