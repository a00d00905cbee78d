"""A pull client for any registry that implements the distribution specification.

Source: opencontainers/distribution-spec, spec.md, "Pull". The authenticator answers the registry's challenges and
handles tokens.
"""

from __future__ import annotations

import ssl
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelfetch.config.settings import HF_ENDPOINT, Settings
from modelfetch.core.digest import Digest
from modelfetch.core.urls import origin
from modelfetch.errors import CredentialsError, IntegrityError, ModelfetchError, NotFoundError, UnreachableError
from modelfetch.formats.oci_manifest import INDEXES, MANIFESTS, MAX_MANIFEST
from modelfetch.http import check_status
from modelfetch.manifest.uri import OLLAMA_HOST
from modelfetch.sources.pages import refuse_page_as_metadata

if TYPE_CHECKING:
    from modelfetch.http import Http, Reply

EVERY_TYPE = ", ".join((*MANIFESTS, *INDEXES))
_DOCKER_HUB = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
_HF_HOSTS = ("hf.co", "huggingface.co")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestResponse:
    """A manifest as a registry served it."""

    content: bytes = field(repr=False)
    media_type: str
    base: str


def bases(host: str, settings: Settings) -> tuple[str, ...]:
    """Return a host's base URLs to try, in order: HTTPS, then plain HTTP only if it is allowed."""
    if host.lower() == OLLAMA_HOST:
        return (settings.ollama_registry,)
    name = _DOCKER_HUB.get(host.lower(), host)
    _, bare, port = origin(f"http://{name}")
    if settings.allows_http(bare, port):
        return f"https://{name}", f"http://{name}"
    return (f"https://{name}",)


class Registry:
    """Requests manifests; remembers for the session whether a host supports TLS."""

    def __init__(self, http: Http, settings: Settings) -> None:
        self._http = http
        self._settings = settings
        self._settled: dict[str, str] = {}
        self._lock = threading.Lock()

    def _bases(self, host: str) -> tuple[str, ...]:
        with self._lock:
            if host in self._settled:
                return (self._settled[host],)
        return bases(host, self._settings)

    def manifest(self, host: str, repo: str, reference: str, *, accept: str, uri: str) -> ManifestResponse:
        """Return the manifest for a tag or digest.

        Raises:
            IntegrityError: Its bytes do not match the digest.
            ModelfetchError: The registry's response is an error; see `check_status`.
        """
        base, reply = self._request(host, f"/v2/{repo}/manifests/{reference}", accept)
        rejected = reply.status == 401 and self._http.auth is not None and self._http.auth.rejected(reply.url)
        _check(reply, host, repo, reference, uri, rejected=rejected)
        refuse_page_as_metadata(reply, f"the manifest of {repo}:{reference}", uri)
        if reference.startswith("sha256:") and Digest.sha256(reply.body) != Digest.parse(reference):
            raise IntegrityError(f"{host} served other bytes for {repo}@{reference}", uri=uri)
        return ManifestResponse(content=reply.body, media_type=reply.headers.get("content-type", ""), base=base)

    def _request(self, host: str, path: str, accept: str) -> tuple[str, Reply]:
        *first, last = self._bases(host)
        for base in first:
            try:
                reply = self._http.get(base + path, headers={"Accept": accept}, limit=MAX_MANIFEST)
            except UnreachableError as error:
                if not _lacks_tls(error):
                    raise
                continue
            return self._remember_base(host, base), reply
        reply = self._http.get(last + path, headers={"Accept": accept}, limit=MAX_MANIFEST)
        return self._remember_base(host, last), reply

    def _remember_base(self, host: str, base: str) -> str:
        with self._lock:
            return self._settled.setdefault(host, base)


def _lacks_tls(error: ModelfetchError) -> bool:
    """Return whether a failure means that the server has no TLS; a bad certificate or an alert shows that it has."""
    if error.code not in ("unreachable", "timeout"):
        return False
    link: BaseException | None = error
    for _ in range(12):
        if link is None:
            return True
        if isinstance(link, ssl.SSLError) and "ALERT" in str(link).upper():
            return False
        link = link.__cause__ or link.__context__
    return True


def blob_url(base: str, repo: str, digest: Digest) -> str:
    """Return the stable URL of a blob."""
    return f"{base}/v2/{repo}/blobs/{digest}"


def _check(reply: Reply, host: str, repo: str, reference: str, uri: str, *, rejected: bool = False) -> None:
    """Raise the error for a registry's status; ``rejected``: a login was sent and not accepted."""
    if rejected:
        hint = (
            "HF_TOKEN may have expired"
            if host.lower() in _HF_HOSTS
            else f"`docker login {host}` again, or correct ~/.netrc"
        )
        raise CredentialsError(
            f"{host} rejects the login that is set for it, or denies it {repo}",
            code="unauthorized",
            uri=uri,
            hint=hint,
        )
    if reply.status in (400, 404):
        hint = "check name and tag"
        if host == OLLAMA_HOST:
            hint += f": https://ollama.com/{repo}/tags lists what there is"
        if host.lower() in _HF_HOSTS:
            hint = f"the tag is a quantisation that the repo's files have: {HF_ENDPOINT}/{repo}/tree/main"
        raise NotFoundError(f"{host} has no {repo}:{reference}", code="unknown-tag", uri=uri, hint=hint)
    try:
        check_status(reply, what=f"{repo}:{reference}", uri=uri)
    except ModelfetchError as error:
        if error.code in ("missing-or-private", "unauthorized"):
            error.hint = f"it does not exist, or needs a login: `docker login {host}`, or {host} in ~/.netrc"
            if host.lower() in _HF_HOSTS:
                error.hint = f"accept the terms at {HF_ENDPOINT}/{repo} if it is gated, and set HF_TOKEN"
        raise


__all__ = ["EVERY_TYPE", "Registry", "ManifestResponse", "blob_url"]
