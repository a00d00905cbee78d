"""The CDN behind the hubs: signed URLs on another host that expire and must not receive credentials."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from modelfetch.demo.message import Request, Response, file_response, text

if TYPE_CHECKING:
    from modelfetch.demo.body import Body
    from modelfetch.demo.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """The content behind one signed URL. ``head``: whether the signature also covers HEAD."""

    label: str
    body: Body
    etag: str
    filename: str | None
    head: bool


class Cdn:
    """Issues signed URLs and serves them.

    As on S3 and R2: a signed URL with an Authorization header gets 400, a signature is for one method, an
    expired or forged one gets 403 with an XML body.
    """

    def __init__(self) -> None:
        self.base = ""
        self._secret = secrets.token_bytes(16)
        self._lock = threading.Lock()
        self._objects: dict[str, StoredObject] = {}
        self._serial = 0
        self._expired_through = 0

    def publish(
        self,
        bucket: str,
        body: Body,
        *,
        label: str,
        etag: str,
        filename: str | None = None,
        head: bool = True,
        lifetime: int = 3600,
    ) -> str:
        """Store content and return a URL for it that is valid for ``lifetime`` seconds."""
        key = f"/{bucket}/{hashlib.sha256((label + etag).encode()).hexdigest()}"
        with self._lock:
            self._objects[key] = StoredObject(label=label, body=body, etag=etag, filename=filename, head=head)
            self._serial += 1
            serial = self._serial
        until = int(time.time()) + lifetime
        query = {"X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Expires": str(lifetime), "serial": str(serial)}
        if filename:
            query["response-content-disposition"] = f'attachment; filename="{filename}"'
        query |= {"until": str(until), "X-Amz-Signature": self._sign(key, str(serial), str(until))}
        return f"{self.base}{key}?{urlencode(query)}"

    def expire_urls(self) -> None:
        """Expire every URL issued so far; those issued later are valid."""
        with self._lock:
            self._expired_through = self._serial

    def answer(self, request: Request) -> Response:
        """Return the content behind a signed URL, or the refusal."""
        if "authorization" in request.headers:
            return refusal(400, "InvalidArgument", "Only one auth mechanism allowed")
        if request.method not in {"GET", "HEAD"}:
            return refusal(405, "MethodNotAllowed", "The specified method is not allowed")
        query = request.query
        key, serial, until = request.path, query.get("serial", ""), query.get("until", "")
        if not hmac.compare_digest(query.get("X-Amz-Signature", ""), self._sign(key, serial, until)):
            return refusal(403, "SignatureDoesNotMatch", "The request signature does not match")
        with self._lock:
            expired = int(serial) <= self._expired_through or int(until) < time.time()
            stored = self._objects[key]
        if expired:
            return refusal(403, "AccessDenied", "Request has expired")
        if request.method == "HEAD" and not stored.head:
            return refusal(403, "SignatureDoesNotMatch", "The request signature does not match")
        return _content(stored)

    def _sign(self, key: str, serial: str, until: str) -> str:
        return hmac.new(self._secret, f"{key}\n{serial}\n{until}".encode(), "sha256").hexdigest()


class Site:
    """The base class of the hubs, which serve the world's content through the CDN; ``base`` is the hub's URL."""

    def __init__(self, world: World, cdn: Cdn) -> None:
        self._world = world
        self._cdn = cdn
        self.base = ""


def _content(stored: StoredObject) -> Response:
    headers = [("Content-Type", "application/octet-stream"), ("Cache-Control", "public, max-age=31536000")]
    if stored.filename:
        headers.append(("Content-Disposition", f'attachment; filename="{stored.filename}"'))
    modified = "Thu, 01 Jan 2026 00:00:00 GMT"
    return file_response(stored.body, *headers, etag=stored.etag, label=stored.label, modified=modified)


def refusal(status: int, code: str, message: str) -> Response:
    """Return an S3 error document."""
    document = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return text(status, document, kind="application/xml")
