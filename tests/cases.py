"""Many cases in one test, and cases for `make e2e` only.

A separate test for a case of microseconds takes a hundred times as long as the case.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Test = Callable[..., None]


THOROUGH = pytest.mark.thorough
"""Marks what takes long and resembles a faster test, or compares pages with the tiers: only `make e2e` runs it."""


def first(count: int, values: Iterable[Any]) -> list[Any]:
    """Return the cases of a parametrized test: the first ``count`` for `make test`, the others for `make e2e`."""
    cases = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*case, marks=() if at < count else THOROUGH) for at, case in enumerate(cases)]


def each(names: str | tuple[str, ...], values: Iterable[Any]) -> Callable[[Test], Test]:
    """Like `pytest.mark.parametrize`, in one test. All cases run; each failure names its case.

    For tests without fixtures, which all cases would share.
    """
    split = tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else names
    cases = [dict(zip(split, (case,) if len(split) == 1 else case, strict=True)) for case in values]
    if not cases:
        raise ValueError(f"no cases of {names}")

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def run(*args: Any, **given: Any) -> None:
            failures: list[BaseException] = []
            for case in cases:
                try:
                    test(*args, **given, **case)
                except (Exception, pytest.fail.Exception) as error:
                    error.add_note(f"in the case {case}"[:500])
                    failures.append(error)
            if len(failures) == 1:
                raise failures[0]
            if failures:
                raise BaseExceptionGroup(f"{len(failures)} of {len(cases)} cases", failures)

        signature = inspect.signature(test)
        left = [parameter for name, parameter in signature.parameters.items() if name not in split]
        vars(run)["__signature__"] = signature.replace(parameters=left)
        return run

    return decorate
