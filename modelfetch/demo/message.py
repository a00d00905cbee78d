"""Requests and responses as values: a route returns a complete response before any byte is sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from modelfetch.demo.body import Body, BytesBody, as_body

if TYPE_CHECKING:
    from collections.abc import Mapping

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One received request. Header names are lower case; the last value of a repeated header is used."""

    origin: str
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def raw_path(self) -> str:
        """The path with its percent-encoding, so that an encoded slash stays encoded."""
        return urlsplit(self.target).path

    @property
    def path(self) -> str:
        """The decoded path."""
        return unquote(self.raw_path)

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters; the last value of a repeated one is used."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def bearer(self) -> str | None:
        """The bearer token of the request, if any."""
        scheme, _, value = self.headers.get("authorization", "").partition(" ")
        return value.strip() if scheme.lower() == "bearer" and value.strip() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A route's response.

    ``file`` marks the content of a model file: ranges, validators and faults of bodies apply to it.
    ``label`` is the path of the client's original request, if that differs from this request's.
    """

    status: int = 200
    headers: Headers = ()
    body: Body = field(default_factory=lambda: BytesBody(b""))
    file: bool = False
    etag: str | None = None
    last_modified: str | None = None
    label: str | None = None
    ranges: bool = True

    def with_headers(self, *pairs: tuple[str, str]) -> Response:
        """Return the same response with additional headers."""
        return replace(self, headers=self.headers + pairs)

    def header(self, name: str) -> str | None:
        """Return the value of a header; the name is case-insensitive."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


Route = Callable[[Request], Response]


def text(status: int, content: str, *headers: tuple[str, str], kind: str = "text/plain; charset=utf-8") -> Response:
    """Return a short text."""
    return Response(status=status, headers=(("Content-Type", kind), *headers), body=as_body(content))


def as_json(status: int, value: object, *headers: tuple[str, str]) -> Response:
    """Return a JSON document in the compact form that the hubs send."""
    document = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text(status, document, *headers, kind="application/json; charset=utf-8")


def redirect(status: int, location: str, *headers: tuple[str, str]) -> Response:
    """Return a redirect with the short body text that servers include."""
    return text(status, f"Redirecting to {location.partition('?')[0]}", ("Location", location), *headers)


def file_response(
    body: Body, *headers: tuple[str, str], etag: str | None, label: str | None = None, modified: str | None = None
) -> Response:
    """Return the content of a file, with its validators. ``etag`` is the bare value; quotes are added here."""
    quoted = None if etag is None else f'"{etag}"'
    return Response(headers=headers, body=body, file=True, etag=quoted, last_modified=modified, label=label)
