"""A page or message that comes in the place of a pinned file is not taken for a new version of it."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import httpx
import pytest

from modelfetch.core.digest import Digest
from modelfetch.errors import NotAModelError
from modelfetch.http.response import Response
from modelfetch.sources.pages import refuse_page
from tests.cases import each

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = b"<html><body>Please log in</body></html>"
BODIES = [
    ("text/html", PAGE),
    ("text/html", b"\r\n \xef\xbb\xbf" + PAGE),
    ("text/html", b""),
    ("text/html; charset=utf-16", PAGE.decode().encode("utf-16")),
    ("text/html; charset=shift_jis", "ログインしてください".encode("shift-jis")),
    ("application/octet-stream", PAGE),
    ("application/octet-stream", b"<p>log in"),
    ("", PAGE),
    ("application/json", b'{"login": "http://portal/"}'),
    ("application/xml", b"<Error>no</Error>"),
    ("text/plain", b"Please log in"),
    ("text/javascript", b"window.location = '/login'"),
    ("text/plain", PAGE.decode().encode("utf-16")),
    ("image/png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(99)),
    ("application/octet-stream", b"GIF89a" + bytes(99)),
]
WEIGHTS = b"\x00\x01\x02weights" * 60


def answer(kind: str, body: bytes, *, status: int = 200, coding: str = "", first: int | None = None) -> Response:
    """A response; with ``first``, that many bytes of a chunked body arrive before the others."""
    fields = {"Content-Type": kind, "Content-Encoding": coding}
    fields |= {"Content-Length": str(len(body))} if first is None else {"Transfer-Encoding": "chunked"}

    def pieces() -> Iterator[bytes]:
        yield from (body,) if first is None else (body[:first], body[first:])

    inner = httpx.Response(status, headers={name: value for name, value in fields.items() if value}, content=pieces())
    return Response(inner, url="https://h.example/x", translate=lambda error: error, cancel=None, release=lambda: None)


@each("packed", [False, True])
@each(("kind", "body"), BODIES)
def test_a_captive_portal_is_named_and_no_upgrade_of_the_pin_is_advised(
    kind: str, body: bytes, *, packed: bool
) -> None:
    response = answer(kind, gzip.compress(body), coding="gzip") if packed else answer(kind, body)
    with pytest.raises(NotAModelError) as caught:
        refuse_page(response, "https://h.example/x", path="x.safetensors", size=10**9, pinned=True)
    assert "the manifest's pin is not the cause" in str(caught.value.hint)


@each("status", [200, 206])
@each("fills_size", [False, True])
def test_the_digest_decides_whether_a_page_is_the_file(status: int, *, fills_size: bool) -> None:
    def check(digest: Digest, body: bytes = PAGE) -> None:
        refuse_page(
            answer("text/html", body, status=status),
            "https://h.example/x",
            path="x.dat",
            pinned=True,
            digest=digest,
            fills_size=fills_size,
        )

    if fills_size:
        with pytest.raises(NotAModelError):
            check(Digest.sha256(PAGE))
        return
    check(Digest.sha256(PAGE))
    check(Digest("sha256", "0" * 64), PAGE + bytes(2**20))
    if status == 200:
        with pytest.raises(NotAModelError, match="a web page came instead of the file"):
            check(Digest("sha256", "0" * 64))


@each("kind", ["application/octet-stream", "text/plain", "text/html", ""])
@each("size", [len(WEIGHTS), 10**9, None])
def test_weights_are_not_taken_for_a_page(kind: str, size: int | None) -> None:
    refuse_page(answer(kind, WEIGHTS), "https://h.example/x", path="x.safetensors", size=size, pinned=True)
    refuse_page(answer(kind, WEIGHTS[:1], status=206), "https://h.example/x", path="x.bin", size=size, pinned=True)


@each("first", [1, 4, 10])  # the magic of a GGUF, the header of a gzip
@each("coding", ["", "gzip"])
@each("kind", ["application/octet-stream", "text/plain", "text/html"])
def test_weights_whose_first_bytes_arrive_alone_are_not_taken_for_a_text(kind: str, coding: str, first: int) -> None:
    weights = b"GGUF" + WEIGHTS
    body = gzip.compress(weights) if coding else weights
    response = answer(kind, body, coding=coding, first=first)
    refuse_page(response, "https://h.example/x", path="x.gguf", size=len(weights))
    response = answer(kind, body, coding=coding, first=first)
    refuse_page(response, "https://h.example/x", path="x.gguf", fills_size=True)


@each("coding", ["br", "compress", "made-up", "gzip", "deflate", "gzip, gzip"])
@each("kind", ["text/html", "application/octet-stream"])
@each("size", [len(WEIGHTS), 10**9, None])
def test_a_body_that_can_not_be_decoded_is_left_to_the_transfer(coding: str, kind: str, size: int | None) -> None:
    refuse_page(answer(kind, WEIGHTS, coding=coding), "https://h/x", path="x.safetensors", size=size, pinned=True)
    refuse_page(answer(kind, WEIGHTS, coding=coding), "https://h/x", path="x.safetensors", size=size)


@each("kind", ["application/json", "text/plain", "text/html"])
def test_a_text_file_of_another_size_is_not_taken_for_a_page(kind: str) -> None:
    refuse_page(answer(kind, b"a list of words"), "https://h.example/x", path="words.txt", size=10, pinned=True)
