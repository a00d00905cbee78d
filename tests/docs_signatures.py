"""Griffe extension: documents ``NAME = blocking(NAME_async)`` as a function with the parameters of ``NAME_async``."""

from __future__ import annotations

from typing import Any

import griffe


class BlockingForms(griffe.Extension):
    """Replaces the blocking forms of ``modelfetch.api``."""

    def on_module_members(self, *, mod: griffe.Module, **_: Any) -> None:
        """Replace each attribute of the module that has an async form."""
        for name, member in list(mod.members.items()):
            source = mod.members.get(f"{name}_async")
            if isinstance(source, griffe.Function) and isinstance(member, griffe.Attribute):
                function = griffe.Function(
                    name, parameters=source.parameters, returns=source.returns, docstring=source.docstring
                )
                function.lineno = member.lineno
                mod.set_member(name, function)
