from __future__ import annotations

import gzip
import http.client
import json
import socket
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from modelfetch.demo.faults import DropAfter, Fault, Throttle
from tests.demo.conftest import Answer, ask
from tests.faults import (
    BitFlip,
    ChangedETag,
    Chunked,
    CloseDelimited,
    EndlessHeaders,
    ExpiredUrl,
    Gzip,
    HtmlPage,
    IgnoreRange,
    JsonError,
    NotHttp,
    OtherContent,
    OtherHeaders,
    RateLimited,
    RedirectLoop,
    RedirectTo,
    Refuse,
    ResetAfter,
    Stall,
    StallAfter,
    Status,
    Truncated,
    WrongContentRange,
    WrongLength,
)

if TYPE_CHECKING:
    from modelfetch.demo import Hub

DATA = bytes(range(256)) * 4


@pytest.fixture
def url(hub: Hub) -> str:
    hub.world.file("sub/model.bin", DATA, etag="v1")
    return hub.files + "sub/model.bin"


def broken(hub: Hub, url: str, *faults: Fault, **headers: str) -> Answer:
    """Return the response with the faults, which are then used up."""
    hub.faults.add("**/model.bin", *faults)
    answer = ask(url, **headers)
    assert hub.faults.pending() == 0
    assert ask(url).body == DATA
    return answer


def raw(url: str, extra: str = "") -> bytes:
    """Return all bytes of the connection after a GET."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10) as sock:
        sock.sendall(f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{extra}\r\n".encode())
        received = bytearray()
        while piece := sock.recv(65536):
            received += piece
        return bytes(received)


def test_status_replaces_the_answer(hub: Hub, url: str) -> None:
    answer = broken(hub, url, Status(code=503, body="busy", headers={"Retry-After": "1"}))
    assert (answer.status, answer.body, answer.headers["retry-after"]) == (503, b"busy", "1")


@pytest.mark.parametrize("retry_after", [True, False])
def test_rate_limited_has_a_retry_time(hub: Hub, url: str, retry_after: bool) -> None:
    answer = broken(hub, url, RateLimited(wait=55, kind="api", retry_after=retry_after))
    assert (answer.status, answer.headers["ratelimit"]) == (429, '"api";r=0;t=55')
    assert answer.headers.get("retry-after") == ("55" if retry_after else None)


def test_drop_after_closes_the_connection_in_the_middle_of_the_body(hub: Hub, url: str) -> None:
    hub.faults.add("*/model.bin", DropAfter(bytes=100))
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(url)
    assert caught.value.partial == DATA[:100]
    assert hub.log.requests()[-1].sent == 100


def test_reset_after_resets_the_connection_in_the_body(hub: Hub, url: str) -> None:
    hub.faults.add("*/model.bin", ResetAfter(bytes=100))
    with pytest.raises(ConnectionResetError):
        ask(url)


@pytest.mark.parametrize(("reset", "error"), [(True, ConnectionResetError), (False, http.client.RemoteDisconnected)])
def test_refuse_closes_the_connection_without_a_response(
    hub: Hub, url: str, reset: bool, error: type[Exception]
) -> None:
    hub.faults.add("*/model.bin", Refuse(reset=reset))
    with pytest.raises(error):
        ask(url)


def test_not_http_is_no_status_line(hub: Hub, url: str) -> None:
    hub.faults.add("*/model.bin", NotHttp())
    with pytest.raises(http.client.BadStatusLine):
        ask(url)


def test_stall_waits_before_the_headers(hub: Hub, url: str) -> None:
    started = time.monotonic()
    answer = broken(hub, url, Stall(seconds=0.2))
    assert time.monotonic() - started >= 0.2
    assert answer.body == DATA


def test_stall_after_waits_in_the_middle_and_then_sends_the_rest(hub: Hub, url: str) -> None:
    hub.faults.add("*/model.bin", StallAfter(seconds=0.2, bytes=100))
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    try:
        connection.request("GET", parts.path)
        response = connection.getresponse()
        assert response.read(100) == DATA[:100]
        started = time.monotonic()
        assert response.read() == DATA[100:]
        assert time.monotonic() - started > 0.1
    finally:
        connection.close()


def test_throttle_keeps_the_rate(hub: Hub, url: str) -> None:
    started = time.monotonic()
    answer = broken(hub, url, Throttle(rate=len(DATA) * 4))
    assert 0.2 <= time.monotonic() - started < 1
    assert answer.body == DATA


def test_ignore_range_sends_the_whole_with_200(hub: Hub, url: str) -> None:
    answer = broken(hub, url, IgnoreRange(), Range="bytes=5-9")
    assert (answer.status, answer.body) == (200, DATA)


def test_wrong_content_range_labels_the_right_bytes_wrongly(hub: Hub, url: str) -> None:
    answer = broken(hub, url, WrongContentRange(shift=2), Range="bytes=5-9")
    assert (answer.headers["content-range"], answer.body) == ("bytes 7-11/1024", DATA[5:10])


@pytest.mark.parametrize(("etag", "seen"), [('"v2"', '"v2"'), (None, None)])
def test_changed_etag_fails_the_condition(hub: Hub, url: str, etag: str | None, seen: str | None) -> None:
    answer = broken(hub, url, ChangedETag(etag=etag), Range="bytes=5-9", If_Range='"v1"')
    assert (answer.status, answer.headers.get("etag"), answer.body) == (200, seen, DATA)


def test_a_length_that_is_too_large_leaves_the_body_short(hub: Hub, url: str) -> None:
    hub.faults.add("*/model.bin", WrongLength(by=10))
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(url)
    assert (caught.value.partial, caught.value.expected) == (DATA, 10)


def test_a_length_that_is_too_small_leaves_bytes_behind_the_body(hub: Hub, url: str) -> None:
    hub.faults.add("*/model.bin", WrongLength(by=-10))
    head, _, body = raw(url).partition(b"\r\n\r\n")
    assert b"Content-Length: 1014" in head
    assert body == DATA


def test_truncated_agrees_with_its_own_length(hub: Hub, url: str) -> None:
    answer = broken(hub, url, Truncated(size=100))
    assert (answer.headers["content-length"], answer.body) == ("100", DATA[:100])


def test_other_content_comes_under_the_same_etag(hub: Hub, url: str) -> None:
    answer = broken(hub, url, OtherContent(content=b"other"))
    assert (answer.headers["etag"], answer.body) == ('"v1"', b"other")


def test_headers_can_be_added_and_removed(hub: Hub, url: str) -> None:
    fault = OtherHeaders(put={"Content-Disposition": 'attachment; filename="../x"'}, remove=("ETag", "content-type"))
    answer = broken(hub, url, fault)
    assert answer.headers["content-disposition"] == 'attachment; filename="../x"'
    assert not {"etag", "content-type"} & set(answer.headers)
    assert (answer.headers["content-length"], answer.body) == ("1024", DATA)


@pytest.mark.parametrize("wanted", [{}, {"Range": "bytes=300-"}])
def test_bit_flip_changes_one_bit_at_its_place_in_the_file(hub: Hub, url: str, wanted: dict[str, str]) -> None:
    start = 300 if wanted else 0
    answer = broken(hub, url, BitFlip(at=500), **wanted)
    changed = [index for index, byte in enumerate(answer.body) if byte != DATA[start + index]]
    assert changed == [500 - start]
    assert answer.body[500 - start] ^ DATA[500] == 1


def test_chunked_has_no_length(hub: Hub, url: str) -> None:
    answer = broken(hub, url, Chunked())
    assert (answer.headers["transfer-encoding"], answer.body) == ("chunked", DATA)
    assert "content-length" not in answer.headers


def test_close_delimited_ends_with_the_connection(hub: Hub, url: str) -> None:
    hub.faults.add("*/model.bin", CloseDelimited())
    head, _, body = raw(url).partition(b"\r\n\r\n")
    assert (b"Content-Length" in head, b"Connection: close" in head, body) == (False, True, DATA)


def test_gzip_encodes_unrequested(hub: Hub, url: str) -> None:
    answer = broken(hub, url, Gzip())
    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(answer.body) == DATA


def test_redirects_may_lead_to_another_host_or_loop(hub: Hub, url: str) -> None:
    assert broken(hub, url, RedirectTo(url="http://localhost/x", code=307)).headers["location"] == "http://localhost/x"
    assert broken(hub, url, RedirectLoop()).headers["location"] == "/files/sub/model.bin"


def test_a_page_or_a_json_error_comes_with_200_instead_of_the_file(hub: Hub, url: str) -> None:
    page = broken(hub, url, HtmlPage())
    assert (page.status, page.headers["content-type"][:9], page.body[:9]) == (200, "text/html", b"<!DOCTYPE")
    error = broken(hub, url, JsonError(message="no"))
    assert (error.status, json.loads(error.body)) == (200, {"error": "no"})


def test_endless_headers_are_sent_until_the_client_disconnects(hub: Hub, url: str) -> None:
    hub.faults.add("*/model.bin", EndlessHeaders())
    with pytest.raises(http.client.HTTPException, match="got more than 100 headers"):
        ask(url)


def test_a_body_fault_takes_effect_only_in_the_body(hub: Hub) -> None:
    hub.world.hf_repo("org/name", {"model.bin": DATA})
    hub.faults.add("**/model.bin", ExpiredUrl(), BitFlip(at=0))
    resolve = f"{hub.endpoint}/org/name/resolve/main/model.bin"
    location = ask(resolve).headers["location"]
    assert hub.faults.pending() == 2
    assert ask(resolve, method="HEAD").status == 302
    assert ask(location).status == 403
    assert ask(location).body == DATA


def test_a_fault_may_be_for_one_origin_only(hub: Hub) -> None:
    hub.world.hf_repo("org/name", {"model.bin": DATA})
    hub.faults.add("*", Status(code=500), origin="cdn")
    location = ask(f"{hub.endpoint}/org/name/resolve/main/model.bin").headers["location"]
    assert ask(location).status == 500


def test_faults_skip_repeat_and_combine(hub: Hub, url: str) -> None:
    hub.faults.add("*.bin", Status(code=500), times=2, skip=1)
    assert [ask(url).status for _ in range(4)] == [200, 500, 500, 200]
    hub.faults.add("*.bin", Chunked(), BitFlip(at=0))
    answer = ask(url)
    assert (answer.headers["transfer-encoding"], answer.body[0]) == ("chunked", DATA[0] ^ 1)
    hub.faults.add("*.bin", Status(code=500), times=None)
    assert [ask(url).status for _ in range(3)] == [500, 500, 500]
    hub.faults.clear()
    assert ask(url).status == 200


def test_a_fault_leaves_other_paths_alone(hub: Hub, url: str) -> None:
    hub.faults.add("*/other.bin", Status(code=500))
    assert ask(url).status == 200
    assert hub.faults.pending() == 1


def test_the_log_names_the_faults_that_hit(hub: Hub, url: str) -> None:
    broken(hub, url, Chunked(), BitFlip(at=0))
    assert [entry.faults for entry in hub.log.requests()] == [("Chunked", "BitFlip"), ()]
