from __future__ import annotations

from modelfetch.http import Headers
from modelfetch.http.types import ContentRange
from tests.cases import each


def test_repeated_headers_are_joined_and_names_know_no_case() -> None:
    headers = Headers([("Accept", "a"), ("ACCEPT", "b"), ("X", "1")])
    assert headers["accept"] == "a, b"
    assert "x" in headers
    assert len(headers) == 2
    assert "1" not in repr(headers)


@each(
    ("text", "part"),
    [
        ("bytes 5-9/10", (5, 10, 10)),
        ("bytes 0-0/*", (0, 1, None)),
        ("bytes */10", (0, 0, 10)),
        (f"bytes 0-0/{2**63 - 1}", (0, 1, 2**63 - 1)),
    ],
)
def test_a_content_range_gives_the_part_and_the_size(text: str, part: tuple[int, int, int | None]) -> None:
    found = ContentRange.of(Headers({"Content-Range": f" {text} "}))
    assert found is not None
    assert (found.start, found.end, found.size) == part


@each(
    "text",
    [
        *("", "bytes", "lines 0-1/2", "bytes 0-/2", "bytes -1-5/9", "bytes 0-1", "bytes \u0661-\u0662/9"),
        *("bytes 5-4/10", "bytes 5-3/*", "bytes 0-10/10", f"bytes 0-9/{2**63}", "bytes 0-9999999999999999999/*"),
    ],
)
def test_an_impossible_content_range_counts_as_missing(text: str) -> None:
    assert ContentRange.of(Headers({"Content-Range": text})) is None
