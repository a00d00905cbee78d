"""A simulation of the Ollama registry's API.

Source: Ollama's client (``server/images.go``, ``server/download.go``, ``server/auth.go``) and the registry's responses.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from modelfetch.demo.cdn import Site
from modelfetch.demo.message import Request, Response, as_json, file_response, redirect, text
from modelfetch.demo.registry_world import MANIFEST_TYPE

if TYPE_CHECKING:
    from modelfetch.demo.body import Body


class OllamaRegistry(Site):
    """Responds as registry.ollama.ai does, with the world's content."""

    def answer(self, request: Request) -> Response:
        """Route one request."""
        if request.path == "/token":
            return self._token(request)
        parts = request.path.strip("/").split("/")
        if parts[0] != "v2" or request.method not in {"GET", "HEAD"}:
            return text(404, "404 page not found")
        if len(parts) == 1:
            return self._challenge(request, "") or as_json(200, {})
        if len(parts) < 4:
            return text(404, "404 page not found")
        name, kind, reference = "/".join(parts[1:-2]), parts[-2], parts[-1]
        challenged = self._challenge(request, name)
        if challenged is not None:
            return challenged
        if kind == "manifests":
            return self._manifest(name, reference)
        if kind == "blobs":
            return self._blob(request, reference)
        return text(404, "404 page not found")

    def _manifest(self, name: str, reference: str) -> Response:
        model = self._world.ollama.get(f"{name}:{reference}")
        if model is None and reference.startswith("sha256:"):
            tags = (value for key, value in self._world.ollama.items() if key.startswith(f"{name}:"))
            model = next((tag for tag in tags if tag.digest == reference), None)
        if model is None:
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        return text(
            200,
            model.manifest.decode(),
            ("Docker-Content-Digest", model.digest),
            ("Ollama-Content-Digest", model.digest.removeprefix("sha256:")),
            ("Ollama-Push-Time", "1767225600"),
            kind=MANIFEST_TYPE,
        )

    def _blob(self, request: Request, digest: str) -> Response:
        body = self._world.blobs.get(digest)
        if body is None:
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        if request.method == "HEAD" or not self._world.ollama_redirects:
            return _blob_content(body, digest)
        # The CDN's own ETag is that of an object store: an MD5-like value unrelated to the sha256.
        etag = hashlib.sha256(digest.encode()).hexdigest()[:32] + "-12"
        location = self._cdn.publish(
            "ollama/docker/registry/v2/blobs/sha256", body, label=request.path, etag=etag, head=False, lifetime=86400
        )
        return redirect(307, location, ("Docker-Content-Digest", digest))

    def _challenge(self, request: Request, name: str) -> Response | None:
        if self._world.ollama_login is None or request.bearer == self._issue():
            return None
        scope = f',scope="repository:{name}:pull"' if name else ""
        challenge = f'Bearer realm="{self.base}/token",service="demo"{scope}'
        return _error(401, "UNAUTHORIZED", "authentication required").with_headers(("WWW-Authenticate", challenge))

    def _token(self, request: Request) -> Response:
        login = self._world.ollama_login
        if isinstance(login, tuple):
            expected = "Basic " + base64.b64encode(":".join(login).encode()).decode()
            if request.headers.get("authorization") != expected:
                return _error(401, "UNAUTHORIZED", "incorrect username or password")
        return as_json(200, {"token": self._issue(), "expires_in": 300})

    def _issue(self) -> str:
        return hashlib.sha256(f"demo token {self._world.ollama_login}".encode()).hexdigest()


def _blob_content(body: Body, digest: str) -> Response:
    headers = (("Content-Type", "application/octet-stream"), ("Docker-Content-Digest", digest))
    return file_response(body, *headers, etag=digest)


def _error(status: int, code: str, message: str) -> Response:
    return as_json(status, {"errors": [{"code": code, "message": message, "detail": {}}]})
