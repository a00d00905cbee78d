"""A short JSON text can't take much memory as values."""

from __future__ import annotations

import json

import pytest

from modelfetch.core.untrusted_json import MAX_VALUES, count_values, parse_object
from tests.cases import each

MANY = MAX_VALUES + 2


@each(
    "content",
    [
        b"[" + b"{}," * MANY + b"1]",
        b"[" + b'{"":1},' * MANY + b"1]",
        b"[" + b"[[]]," * MANY + b"1]",
        b"{" + b",".join(b'"%d":1' % at for at in range(MANY)) + b"}",
        ("[" + "1," * MANY + "1]").encode("utf-16"),
    ],
)
def test_a_document_with_too_many_values_is_refused_before_it_is_parsed(content: bytes) -> None:
    with pytest.raises(ValueError, match="too many values"):
        parse_object(content)


@each(
    ("content", "problem"),
    [
        *((content, "not JSON") for content in (b"", b"{", b"\xff\xfe\xfd")),
        *((content, "not a JSON object") for content in (b"null", b"1", b"[]", b'"x"')),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_document_that_can_not_be_parsed_is_a_value_error(content: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_object(content)


@each("value", [{}, {"a": [{"a": [1, 2, {}]}, [], "x"]}, {"a": {"b": [[], [1]]}}])
def test_a_usual_document_is_parsed_and_its_values_are_counted(value: object) -> None:
    content = json.dumps(value).encode()
    assert parse_object(content) == value
    assert count_values(content) <= 10
