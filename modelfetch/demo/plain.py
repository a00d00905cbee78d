"""An ordinary web server: files with ranges and validators, password-protected if configured."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING

from modelfetch.demo.message import Request, Response, file_response, text

if TYPE_CHECKING:
    from modelfetch.demo.world import PlainFile, World

PREFIX = "/files/"


class PlainServer:
    """Serves the world's files."""

    def __init__(self, world: World) -> None:
        self._world = world

    def answer(self, request: Request) -> Response:
        """Route one request."""
        file = self._world.files.get(request.path.removeprefix(PREFIX))
        if file is None or not request.path.startswith(PREFIX):
            return text(404, "<html><body><h1>404 Not Found</h1></body></html>", kind="text/html")
        if request.method not in {"GET", "HEAD"}:
            return text(405, "Method Not Allowed", ("Allow", "GET, HEAD"))
        if not _authorized(file, request):
            scheme = "Basic" if file.basic else "Bearer"
            return text(401, "Unauthorized", ("WWW-Authenticate", f'{scheme} realm="files"'))
        headers = [("Content-Type", file.content_type)]
        if file.disposition is not None:
            headers.append(("Content-Disposition", file.disposition))
        found = file_response(file.body, *headers, etag=None, modified=file.last_modified)
        if file.etag is not None:
            etag = file.etag if file.etag.startswith(('"', "W/")) else f'"{file.etag}"'
            found = replace(found, etag=etag)
        return replace(found, ranges=file.ranges)


def _authorized(file: PlainFile, request: Request) -> bool:
    if file.basic is not None:
        expected = "Basic " + base64.b64encode(":".join(file.basic).encode()).decode()
        return request.headers.get("authorization") == expected
    return file.bearer is None or request.bearer == file.bearer
