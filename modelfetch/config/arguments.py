"""Checks the arguments of a call of the Python API, and shows every option in its signature."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from modelfetch.config.options import Options
from modelfetch.core.cancel import Cancel
from modelfetch.core.similar import nearest

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import ParamSpec

    P = ParamSpec("P")

R = TypeVar("R")

_DEFAULTS = {**dataclasses.asdict(Options()), "root": str(Options().root)}
_OLDER_NAMES = ("for_",)
"""Options that are accepted but not shown."""


def checked(values: type) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Callable[P, Coroutine[Any, Any, R]]]:
    """Return a decorator that raises TypeError for an unknown option or an argument of the wrong type.

    ``values`` is the TypedDict of the function's ``**options``. `inspect.signature` and `help` show its keys as
    parameters.
    """

    def decorate(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        name = function.__name__.removesuffix("_async")
        signature = _signature(function, values)
        known = [*signature.parameters, *_OLDER_NAMES]
        unnamed = [one.name for one in signature.parameters.values() if one.kind is one.POSITIONAL_OR_KEYWORD]
        takes_any = any(one.kind is one.VAR_POSITIONAL for one in signature.parameters.values())

        @functools.wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if len(args) > len(unnamed) and not takes_any:
                text = f"name this argument, such as manifest=…; help(modelfetch.{name}) lists them"
                raise TypeError(f"{name}({args[len(unnamed)]!r:.80}): {text}")
            for given, value in (*zip(unnamed, args, strict=False), *kwargs.items()):
                if given not in known:
                    near = nearest(given, known)
                    text = f"did you mean {near!r}?" if near else f"help(modelfetch.{name}) lists the options"
                    raise TypeError(f"{name}() has no option {given!r}; {text}")
                may_be_none = given in signature.parameters and signature.parameters[given].default is None
                if given in _EXPECTED and not (value is None and may_be_none) and not _EXPECTED[given][1](value):
                    raise TypeError(f"{name}({given}={value!r:.80}): expected {_EXPECTED[given][0]}")
            return await function(*args, **kwargs)

        call.__signature__ = signature  # type: ignore[attr-defined]
        return call

    return decorate


def _signature(function: Callable[..., object], values: type) -> inspect.Signature:
    """Return the function's signature with a keyword parameter for each key of ``values`` in place of ``**options``."""
    signature = inspect.signature(function)
    own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS.get(name), annotation=annotation.__forward_arg__
        )
        for name, annotation in values.__annotations__.items()
        if name not in _OLDER_NAMES
    ]
    return signature.replace(parameters=[*own, *options])


def _is_path(value: object) -> bool:
    return isinstance(value, str | os.PathLike)


def _is_file(value: object) -> bool:
    """Whether this can be a file's path; a text of several lines is a manifest itself."""
    return _is_path(value) and "\n" not in str(value)


def _is_files(value: object) -> bool:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(map(_is_file, value))
    return _is_file(value)


def _is_progress(value: object) -> bool:
    return value is None or isinstance(value, bool) or callable(value)


_EXPECTED: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    "uri": ("a URI as text", lambda value: isinstance(value, str)),
    "tier": ("a tier's name", lambda value: isinstance(value, str)),
    "manifest": ("a manifest file's path, or a list of them", _is_files),
    "progress": ("True, False, or a function of one event", _is_progress),
    "events": ("a function of one event", _is_progress),
    "cancel": ("a modelfetch.Cancel", lambda value: isinstance(value, Cancel)),
}
"""What arguments of these names must be, with their check."""
