"""Care for what is on disk: verify, repair, list, remove, prune and adopt."""
