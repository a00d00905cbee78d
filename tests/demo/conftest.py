"""A running hub, and a client that follows no redirects and returns responses unchanged."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from modelfetch.demo import Hub

if TYPE_CHECKING:
    from collections.abc import Iterator


class Answer:
    """A response as received: status, headers (lower case), body."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()


def ask(url: str, *, method: str = "GET", body: str | None = None, **headers: str) -> Answer:
    """Send one request on a new connection; header names are written with underscores."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    try:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            fields.setdefault("Content-Type", "application/x-www-form-urlencoded")
        connection.request(method, target, body=body, headers=fields)
        return Answer(connection.getresponse())
    finally:
        connection.close()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running
