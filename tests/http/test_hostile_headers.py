"""Values read from any header are usable: numbers are in range and texts are safe."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfetch.core.units import MAX_SIZE
from modelfetch.errors import ModelfetchError
from modelfetch.http.auth.challenge import may_request_token, parse_challenges
from modelfetch.http.redirects import leads_elsewhere, next_hop
from modelfetch.http.response import Response
from modelfetch.http.status import retry_after, status_error
from modelfetch.manifest.paths import check_relative
from modelfetch.sources.answers import check_file, disposition_name, total_size
from modelfetch.transfer.range_request import Answer, WantedRange, WrongRangeError, check_response
from tests.examples import examples

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NAMES = (
    *("ETag", "Content-Range", "Content-Length", "Content-Type", "Content-Encoding", "Content-Disposition"),
    *("Location", "Retry-After", "RateLimit", "Date", "Last-Modified", "WWW-Authenticate", "Transfer-Encoding"),
    *("Connection", "X-Error-Code", "X-Error-Message", "Link", "X-Linked-Size", "X-Linked-ETag", "X-Repo-Commit"),
)
VALUES = [
    *(b"", b"-1", b"+5", b"9223372036854775808", b"9" * 19, b"1" * 5000, b"1e9", b"NaN", b"0x10", b"\xb2"),
    *(b"bytes 0-0/-1", b"bytes 0-9/9999999999999999999", b"bytes 5-1/10", b"bytes */*", b"bytes \xd9\xa1-9/9"),
    *(b"\xff\xfe", b"a\rb", b"a\nX: b", b"a\0b", b"\x1b[2J", b'"', b'W/"', b'"a\x7f"', b'"' + b"x" * 2000 + b'"'),
    *(b"Thu, 01 Jan 1000000000 00:00:00 GMT", b"Thu, 01 Jan 0000 00:00:00 GMT", b"1 Jan 1"),
    *(b"Thu, 01 Jan 0001 00:00:00 +2359", b"Thu, 01 Jan 9999 23:59:59 -2359", b"Thu, 01 Jan 2026 00:00:00 +9999999"),
    *(b"attachment; filename=../../x", b"attachment; filename*=UTF-8''%ED%A0%80", b'attachment; filename="\x01"'),
    *(b"attachment; filename=.", b"attachment; filename*=utf-16''%00", b"attachment; filename=" + b"x" * 5000),
    *(
        b"http://[",
        b"//",
        b"http://127.0.0.1:99999/",
        b"ftp://x/",
        b"http://\0/",
        b"?",
        b"http://a b/",
        b"http://u:p@h/",
    ),
    *(b'Bearer realm="http://["', b"Bearer", b'Basic realm="', b"gzip, gzip", b"chunked", b"identity, chunked"),
]


def answer(status: int, fields: Sequence[tuple[bytes, bytes]]) -> Response:
    inner = httpx.Response(status, headers=list(fields))
    return Response(inner, url="https://h.example/x", translate=lambda error: error, cancel=None, release=lambda: None)


def check_sizes(response: Response) -> None:
    for size in (response.length, total_size(response)):
        assert size is None or 0 <= size <= MAX_SIZE


def check_name(response: Response) -> None:
    name = disposition_name(response.headers)
    assert name is None or ("/" not in name and check_relative(name) == name)


def check_delay(response: Response) -> None:
    delay = retry_after(response.headers)
    assert delay is None or (math.isfinite(delay) and delay >= 0)


def check_answer(response: Response) -> None:
    wanted = WantedRange(start=0, end=10, ranged=True)
    found = check_response(response, wanted, None, size=None, has_digest=False, what="x.bin", uri="https://h.example/x")
    if isinstance(found, Answer):
        for text in (found.etag, found.modified):
            assert text is None or (text.isascii() and text.isprintable())
        assert found.end is None or found.start <= found.end
        assert found.size is None or found.size <= MAX_SIZE


def check_target(response: Response) -> None:
    location = response.headers.get("location", "")
    leads_elsewhere(response.url, location)
    assert next_hop(response.url, location, lambda _host, _port: False).startswith("http")


def check_refusal(response: Response) -> None:
    assert "\n" not in status_error(response, what="x", uri=None).message
    check_file(response, response.url, what="x", uri="https://h.example/x")


def check_challenges(response: Response) -> None:
    for challenge in parse_challenges(response.headers.get("www-authenticate", "")):
        may_request_token(response.url, challenge.realm, same_host_only=False)


READERS: Sequence[Callable[[Response], Any]] = (
    *(check_sizes, check_name, check_delay, check_answer, check_target, check_refusal, check_challenges),
)


def read_all(status: int, fields: Sequence[tuple[bytes, bytes]]) -> None:
    response = answer(status, fields)
    codes = set()
    for reader in READERS:
        try:
            reader(response)
        except ModelfetchError as error:
            codes.add(error.exit_code)
    assert 70 not in codes


@pytest.mark.parametrize("status", [200, 206, 302, 401, 416, 429])
def test_hostile_values_are_read_or_refused(status: int) -> None:
    for value in VALUES:
        read_all(status, [(name.encode(), value) for name in NAMES])
        read_all(status, [(name.encode(), value) for name in NAMES for _ in range(2)])


@pytest.mark.parametrize("field", [b"bytes 0-9/9223372036854775808", b"bytes 0-9/9999999999999999999"])
def test_an_impossible_file_size_is_refused(field: bytes) -> None:
    with pytest.raises(WrongRangeError):
        check_answer(answer(206, [(b"Content-Range", field)]))


@settings(max_examples=examples(60))
@given(
    st.sampled_from([200, 206, 302, 401, 416, 429, 503]),
    st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=40) | st.sampled_from(VALUES)), max_size=6),
)
def test_any_values_are_read_or_refused(status: int, fields: list[tuple[str, bytes]]) -> None:
    read_all(status, [(name.encode(), value) for name, value in fields])
