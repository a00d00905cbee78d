from __future__ import annotations

from modelfetch.http import Headers


def test_repeated_headers_are_joined_and_names_know_no_case() -> None:
    headers = Headers([("Accept", "a"), ("ACCEPT", "b"), ("X", "1")])
    assert headers["accept"] == "a, b"
    assert "x" in headers
    assert len(headers) == 2
    assert "1" not in repr(headers)
