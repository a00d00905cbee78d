"""Requests and responses as values: what a route decides, before a byte is sent."""

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
    """One request as it came in. Header names are lower case; the last of a repeated header counts."""

    origin: str
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def raw_path(self) -> str:
        """The path with its percent-encoding kept, so that an encoded slash stays one."""
        return urlsplit(self.target).path

    @property
    def path(self) -> str:
        """The decoded path."""
        return unquote(self.raw_path)

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters; the last of a repeated one counts."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def bearer(self) -> str | None:
        """The bearer token that was sent, if any."""
        scheme, _, value = self.headers.get("authorization", "").partition(" ")
        return value.strip() if scheme.lower() == "bearer" and value.strip() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What a route answers.

    ``file`` marks content of a model file: ranges and validators apply to it, and so do the faults that concern bodies.
    ``label`` is the path under which a client first asked for it, where that is another than the request's.
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
        """The same response with more headers."""
        return replace(self, headers=self.headers + pairs)

    def header(self, name: str) -> str | None:
        """The value of a header, by any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


Route = Callable[[Request], Response]


def text(status: int, content: str, *headers: tuple[str, str], kind: str = "text/plain; charset=utf-8") -> Response:
    """A short text."""
    return Response(status=status, headers=(("Content-Type", kind), *headers), body=as_body(content))


def as_json(status: int, value: object, *headers: tuple[str, str]) -> Response:
    """A JSON document in the compact form that the hubs send."""
    document = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text(status, document, *headers, kind="application/json; charset=utf-8")


def redirect(status: int, location: str, *headers: tuple[str, str]) -> Response:
    """A redirect with the short text that servers send beside it."""
    return text(status, f"Redirecting to {location.partition('?')[0]}", ("Location", location), *headers)


def file_response(
    body: Body, *headers: tuple[str, str], etag: str | None, label: str | None = None, modified: str | None = None
) -> Response:
    """The content of a file, with its validators. ``etag`` is the bare value; quotes are added here."""
    quoted = None if etag is None else f'"{etag}"'
    return Response(headers=headers, body=body, file=True, etag=quoted, last_modified=modified, label=label)
