"""Maintain the files on disk: verify, repair, list, remove, prune and adopt."""
