"""The GPU memory that a model or a tier needs, estimated from file headers that are read by range.

`run` resolves what to measure and reads the headers, `verdict` adds up a tier, `estimate` picks each model's rule.
The package is not called ``fit``, because a package of that name would hide the function `modelfetch.fit`.
"""

from modelfetch.fitting.run import FitOverrides, fit_failed, fit_manifests, fit_uri, run_fit

__all__ = ["FitOverrides", "fit_failed", "fit_manifests", "fit_uri", "run_fit"]
