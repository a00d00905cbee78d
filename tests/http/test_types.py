from __future__ import annotations

import time

import pytest

from modelfetch.http import Headers
from modelfetch.http.types import ContentRange, http_date
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


def test_the_range_of_a_body_with_several_parts_counts_as_missing() -> None:
    fields = {"Content-Range": "bytes 5-9/10", "Content-Type": "Multipart/ByteRanges; boundary=x"}
    assert ContentRange.of(Headers(fields)) is None


@each(
    ("text", "seconds"),
    [
        ("Thu, 01 Jan 1970 00:01:00 GMT", 60),
        ("Thu, 01 Jan 1970 00:01:00 -0000", 60),
        ("Thu, 01 Jan 1970 00:01:00", 60),
        ("Thu, 01 Jan 1970 01:01:00 +0100", 60),
        *((text, None) for text in ("", "soon", "Thu, 01 Jan 99999 00:00:00 GMT", "1\u0661 Jan 1970 00:00:00 GMT")),
    ],
)
def test_a_date_without_a_time_zone_is_in_gmt(text: str, seconds: float | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Asia/Taipei")
        time.tzset()
        http_date.cache_clear()
        assert http_date(text) == seconds
    time.tzset()
