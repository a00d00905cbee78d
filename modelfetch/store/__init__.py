"""Verified bytes, named by digest: a blob exists only once it is right."""

from modelfetch.store.store import Blob, Store

__all__ = ["Blob", "Store"]
