from __future__ import annotations

import math

import pytest

from modelfetch.manifest.core_schema import MAX_NUMBER, resolve
from tests.cases import each


@each("text", ["", "~", "null", "Null", "NULL"])
def test_null_has_five_spellings(text: str) -> None:
    assert resolve(text) is None


@each(
    ("text", "value"),
    [("true", True), ("True", True), ("TRUE", True), ("false", False), ("False", False), ("FALSE", False)],
)
def test_truth_values_are_those_of_yaml_1_2(text: str, value: bool) -> None:
    assert resolve(text) is value


@each(
    ("text", "value"),
    [("0", 0), ("007", 7), ("-12", -12), ("+3", 3), ("0o17", 15), ("0xfF", 255), ("6938078334", 6938078334)],
)
def test_integers_are_read_in_each_base(text: str, value: int) -> None:
    assert resolve(text) == value
    assert type(resolve(text)) is int


@each(
    ("text", "value"),
    [
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e3", 1000.0),
        ("-1E-1", -0.1),
        (".inf", math.inf),
        ("-.INF", -math.inf),
    ],
)
def test_floats_are_read(text: str, value: float) -> None:
    assert resolve(text) == value
    assert type(resolve(text)) is float


def test_nan_is_a_float() -> None:
    assert isinstance(nan := resolve(".nan"), float)
    assert math.isnan(nan)


@each(
    "text",
    [
        "yes",
        "No",
        "on",
        "OFF",
        "y",
        "1_000",
        "2024-01-01",
        "1:30",
        "190:20:30",
        "0b11",
        "0O17",
        "-0o7",
        "-0x1",
        "tRUE",
        "nUll",
        "1e",
        "e3",
        ".",
        "+",
        "-",
        "--1",
        "1.2.3",
        "0x",
        "0o8",
        "inf",
        ".infinity",
        "+.nan",
        "16g",
        "=",
        "<<",
        "٣",
    ],
)
def test_yaml_1_1_spellings_are_text(text: str) -> None:
    assert resolve(text) == text


@each("text", ["1" * (MAX_NUMBER + 1), "0x" + "f" * MAX_NUMBER, "1." + "0" * MAX_NUMBER])
def test_a_number_beyond_the_digit_limit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"at most {MAX_NUMBER} characters"):
        resolve(text)
