"""Verified files named by digest: a blob exists only once its content is verified."""

from modelfetch.store.store import Blob, Store, is_store

__all__ = ["Blob", "Store", "is_store"]
