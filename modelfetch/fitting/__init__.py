"""The I/O side of `modelfetch.fit`: which files a manifest or a URI means, and how their first bytes are read."""

from modelfetch.fitting.ask import Asked, fit_manifests, fit_uri

__all__ = ["Asked", "fit_manifests", "fit_uri"]
