from __future__ import annotations

import pytest

from tests.cases import each


def test_all_cases_run_and_the_failing_ones_are_named() -> None:
    seen = []

    @each("letter", "xy")
    @each(("number", "text"), [(1, "a"), (2, "b"), (3, "c")])
    def test(letter: str, number: int, text: str) -> None:
        seen.append(letter + text)
        assert (letter, number) != ("y", 2)

    with pytest.raises(AssertionError) as caught:
        test()
    assert seen == ["xa", "xb", "xc", "ya", "yb", "yc"]
    assert caught.value.__notes__ == ["in the case {'number': 2, 'text': 'b'}", "in the case {'letter': 'y'}"]


def test_several_failures_are_all_shown() -> None:
    @each("number", [0, 1, 2])
    def test(number: int) -> None:
        with pytest.raises(ZeroDivisionError):
            assert 1 / number

    with pytest.raises(BaseExceptionGroup, match="2 of 3 cases") as caught:
        test()
    assert [error.__notes__ for error in caught.value.exceptions] == [
        ["in the case {'number': 1}"],
        ["in the case {'number': 2}"],
    ]


def test_a_table_has_cases() -> None:
    with pytest.raises(ValueError, match="no cases of a"):
        each("a", [])
