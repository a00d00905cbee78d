"""Readers for model file formats, used by the content check and by `fit`."""
