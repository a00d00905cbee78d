"""The tree of errors: each can be copied, pickled and sent to another process."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

from modelfetch.errors import FitError, InterruptedSync, ManifestError, ModelfetchError, NotAModelError, Problem
from modelfetch.http.status import RateLimitedError, ServerError
from tests.cases import each

if TYPE_CHECKING:
    from collections.abc import Callable

MANIFEST = ManifestError([Problem("a.yaml", 3, 5, "unknown key"), Problem("a.yaml", 1, 1, "no version")], model="m")
ERRORS = [
    MANIFEST,
    FitError("it does not fit", hint="h", model="m", uri="u"),
    NotAModelError("a page", code="login-page", exit_code=77, permanent=False),
    InterruptedSync("terminated", code="terminated", exit_code=143),
    RateLimitedError("429", retry_after=900.0),
    ServerError("503", retry_after=None),
]


def pickled(error: ModelfetchError) -> Any:
    return pickle.loads(pickle.dumps(error))  # noqa: S301 - these bytes are its own


@each("error", ERRORS)
@each(
    "copied",
    [copy.copy, copy.deepcopy, pickled],
)
def test_a_copy_has_all_that_the_error_has(
    error: ModelfetchError, copied: Callable[[ModelfetchError], ModelfetchError]
) -> None:
    other = copied(error)
    assert type(other) is type(error)
    assert (str(other), vars(other)) == (str(error), vars(error))
    assert other.as_dict() == error.as_dict()


def test_the_problems_of_a_manifest_are_kept() -> None:
    assert [problem.line for problem in pickled(MANIFEST).problems] == [1, 3]
