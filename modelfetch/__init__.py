"""Download AI models once, verify them, and put them in place before a service starts.

    >>> import modelfetch
    >>> report = modelfetch.sync(tier="16g", root="files/ai-models")  # doctest: +SKIP
    >>> report.ok  # doctest: +SKIP
    True

The public names are listed in ``__init__.pyi``, for type checkers and for this module, which imports each name when it
is first used: ``import modelfetch`` alone is quick.
"""

from __future__ import annotations

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    modules = {} if name.startswith("__") and name != "__all__" else _public_names()
    if name == "__all__":
        value: object = sorted(modules)
    elif name in modules:
        import importlib

        value = getattr(importlib.import_module(modules[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*_public_names(), "__all__", *(name for name in globals() if name.startswith("__"))})


def _public_names() -> dict[str, str]:
    """Return the module of each public name, as the stub imports them."""
    import ast

    stub = ast.parse(__loader__.get_data(__file__.rpartition(".")[0] + ".pyi"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}
