from __future__ import annotations

import pytest

from modelfetch.demo import Hub, PatternBody
from modelfetch.demo.body import read_all
from tests.demo.conftest import ask

DATA = bytes(range(100))


@pytest.fixture
def url(hub: Hub) -> str:
    hub.world.file("sub/model.bin", DATA, etag="v1")
    return hub.files + "sub/model.bin"


def test_a_file_comes_whole_with_its_length_and_validators(url: str) -> None:
    answer = ask(url)
    assert (answer.status, answer.body) == (200, DATA)
    assert answer.headers["content-length"] == "100"
    assert answer.headers["etag"] == '"v1"'
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["last-modified"].endswith("GMT")


def test_head_has_the_headers_of_get_and_no_body(url: str) -> None:
    answer = ask(url, method="HEAD")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "100")


@pytest.mark.parametrize(
    ("wanted", "content_range", "body"),
    [
        ("bytes=0-0", "bytes 0-0/100", DATA[:1]),
        ("bytes=10-19", "bytes 10-19/100", DATA[10:20]),
        ("bytes=90-", "bytes 90-99/100", DATA[90:]),
        ("bytes=90-500", "bytes 90-99/100", DATA[90:]),
        ("bytes=-5", "bytes 95-99/100", DATA[95:]),
        ("bytes=-500", "bytes 0-99/100", DATA),
    ],
)
def test_a_range_gets_206(url: str, wanted: str, content_range: str, body: bytes) -> None:
    answer = ask(url, Range=wanted)
    assert (answer.status, answer.headers["content-range"], answer.body) == (206, content_range, body)
    assert answer.headers["content-length"] == str(len(body))


@pytest.mark.parametrize("wanted", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_beyond_the_end_gets_416_with_the_size(url: str, wanted: str) -> None:
    answer = ask(url, Range=wanted)
    assert (answer.status, answer.headers["content-range"], answer.body) == (416, "bytes */100", b"")


@pytest.mark.parametrize("wanted", ["bytes=5-2", "bytes=0-1,5-6", "items=0-5", "bytes=-", "bytes=x-"])
def test_a_range_that_is_not_a_single_valid_one_gets_the_whole(url: str, wanted: str) -> None:
    answer = ask(url, Range=wanted)
    assert (answer.status, answer.body) == (200, DATA)
    assert "content-range" not in answer.headers


@pytest.mark.parametrize(
    ("condition", "status"),
    [('"v1"', 206), ('"v2"', 200), ('W/"v1"', 200), ("Thu, 01 Jan 2026 00:00:00 GMT", 206)],
)
def test_if_range_gives_the_part_only_of_the_same_content(url: str, condition: str, status: int) -> None:
    assert ask(url, Range="bytes=50-", If_Range=condition).status == status


def test_if_none_match_gets_304_without_a_body(url: str) -> None:
    answer = ask(url, If_None_Match='"v1"')
    assert (answer.status, answer.body) == (304, b"")
    assert "content-length" not in answer.headers


def test_a_server_without_ranges_announces_it_and_sends_the_whole_file(hub: Hub) -> None:
    hub.world.file("plain.bin", DATA, ranges=False)
    answer = ask(hub.files + "plain.bin", Range="bytes=5-")
    assert (answer.status, answer.headers["accept-ranges"], answer.body) == (200, "none", DATA)


def test_a_missing_file_is_an_html_404(hub: Hub) -> None:
    answer = ask(hub.files + "nothing")
    assert (answer.status, answer.headers["content-type"]) == (404, "text/html")


def test_a_file_behind_a_password_opens_with_it(hub: Hub) -> None:
    hub.world.file("basic.bin", DATA, basic=("u", "p"))
    hub.world.file("bearer.bin", DATA, bearer="secret")
    assert ask(hub.files + "basic.bin").headers["www-authenticate"].startswith("Basic ")
    assert ask(hub.files + "basic.bin", Authorization="Basic dTpw").status == 200
    assert ask(hub.files + "bearer.bin", Authorization="Bearer wrong").status == 401
    assert ask(hub.files + "bearer.bin", Authorization="Bearer secret").status == 200


def test_content_that_is_computed_arrives_as_it_was_hashed(hub: Hub) -> None:
    body = PatternBody(3_000_001, seed=7)
    hub.world.file("pattern.bin", body)
    whole = ask(hub.files + "pattern.bin").body
    assert whole == read_all(body)
    part = ask(hub.files + "pattern.bin", Range="bytes=1048570-2097160").body
    assert part == whole[1048570:2097161]
