"""``hf://…``: the Hugging Face Hub, or a mirror of it that HF_ENDPOINT names.

One question per repo and revision tells commit, sizes and digests of all its files (source: the Hub's API,
``/api/models/{repo}/revision/{rev}?blobs=true``). The commit then stands in every address, so nothing moves meanwhile.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from modelfetch import __version__
from modelfetch.config import hub
from modelfetch.core.artifact import Artifact, Location, Resolution
from modelfetch.core.urls import origin
from modelfetch.errors import ModelfetchError, NotFoundError, UnreachableError
from modelfetch.http.redirects import rewrite
from modelfetch.manifest.uri import HfUri
from modelfetch.sources.base import Source, SourceRequest
from modelfetch.sources.huggingface import client
from modelfetch.sources.huggingface.errors import Asked, nonsense, translate
from modelfetch.sources.huggingface.repo import HubFile, Repo, choose, git_name, read_file, read_info

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from modelfetch.config.settings import Settings
    from modelfetch.http import Http
    from modelfetch.http.auth import Credentials
    from modelfetch.sources.base import ReadBlob

T = TypeVar("T")


class HfSource(Source[HfUri]):
    """Asks the hub through huggingface_hub; what it said of a repo is kept for the session."""

    def __init__(self, http: Http, settings: Settings, credentials: Credentials) -> None:
        self._http = http
        self._settings = settings
        self._credentials = credentials
        self._repos: dict[tuple[str, str], Repo] = {}
        self._locks: defaultdict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()

    def ask(self, uri: HfUri, wanted: SourceRequest) -> Resolution:
        """The commit, and each file with its size, its digest and its name in a cache."""
        revision = uri.revision or "main"
        repo = self._repo(uri.repo, revision)
        chosen = choose(repo, uri, wanted)
        if any(file.digest is None for file in chosen):
            chosen = self._look_closer(uri.repo, repo, chosen)
        pinned = {spec.path for spec in wanted.files or () if spec.digest is not None}
        if wanted.cached and any(file.digest is None and file.path not in pinned for file in chosen):
            raise UnreachableError(
                f"{self._settings.hf_endpoint} gives no digests for {uri.repo}, and they name the cache's files",
                code="bad-response",
                permanent=True,
                hint="unset HF_ENDPOINT, or choose a mirror whose API is complete",
            )
        return Resolution(
            artifacts=tuple(self._artifact(uri, repo.commit, file) for file in chosen),
            revision=repo.commit,
            pinned=uri.commit is not None,
            license=repo.license,
        )

    def known(self, uri: HfUri, wanted: SourceRequest, read_blob: ReadBlob) -> Resolution | None:
        """Files whose commit and digests are pinned.

        The names in a cache are the hub's to know; they are worked out from the bytes only where it may not be asked.
        """
        if uri.commit is None or (wanted.cached and not self._settings.offline):
            return None
        if uri.path is not None and not wanted.snapshot:
            pins = [(uri.path, wanted.size, wanted.digest)]
        elif wanted.files and uri.path is None:
            pins = [(spec.path, spec.size, spec.digest) for spec in wanted.files]
        else:
            return None
        if any(size is None or digest is None for _, size, digest in pins):
            return None
        files = (
            HubFile(
                path=path,
                size=size,
                oid=git_name(path, size, digest, read_blob) if wanted.cached else None,
                sha256=None,
            )
            for path, size, digest in pins
        )
        artifacts = tuple(replace(self._artifact(uri, uri.commit, file), digest=None) for file in files)
        return self.agree(wanted, Resolution(artifacts=artifacts, revision=uri.commit, pinned=True))

    def _artifact(self, uri: HfUri, commit: str, file: HubFile) -> Artifact:
        name = f"hf://{uri.repo}@{commit}/{quote(file.path)}" if uri.text.startswith("hf:") else uri.text
        address = f"{self._settings.hf_endpoint}/{uri.repo}/resolve/{commit}/{quote(file.path)}"
        return Artifact(
            uri=name,
            path=file.path,
            size=file.size,
            digest=file.digest,
            cache_name=file.sha256 or file.oid,
            locations=(Location(uri=name, url=address),),
        )

    # -- asking ----------------------------------------------------------------------------------------------------

    def _repo(self, repo: str, revision: str) -> Repo:
        key = (repo, revision)
        with self._guard:
            lock = self._locks[key]
        with lock:
            if key not in self._repos:
                self._repos[key] = self._fetch(repo, revision)
            return self._repos[key]

    def _fetch(self, repo: str, revision: str) -> Repo:
        info, asked = self._call(
            repo, revision, lambda api: api.model_info(repo, revision=revision, files_metadata=True)
        )
        try:
            found = read_info(info, revision)
        except (ValueError, TypeError, AttributeError):
            raise nonsense(asked) from None
        if getattr(info, "gated", None):
            self._check_gate(repo, revision)
        return found

    def _check_gate(self, repo: str, revision: str) -> None:
        """The metadata of a gated repo is open to all; whether its files are is another question."""
        try:
            self._call(repo, revision, lambda api: api.auth_check(repo))
        except (NotFoundError, UnreachableError) as error:
            if error.permanent:
                return  # a mirror without this part of the API: the transfer will tell
            raise

    def _look_closer(self, repo: str, found: Repo, chosen: Sequence[HubFile]) -> list[HubFile]:
        """Ask for single files where a mirror's listing had no digests."""
        paths = [file.path for file in chosen]
        try:
            entries, _ = self._call(
                repo, found.commit, lambda api: api.get_paths_info(repo, paths, revision=found.commit)
            )
            details = {entry.path: read_file(entry.path, entry) for entry in entries}
        except (ValueError, TypeError, AttributeError, NotFoundError):
            return list(chosen)
        except UnreachableError as error:
            if error.code != "bad-response":
                raise
            return list(chosen)
        return [details.get(file.path, file) for file in chosen]

    def _call(self, repo: str, revision: str, question: Callable[[Any], T]) -> tuple[T, Asked]:
        endpoint = self._endpoint(f"/api/models/{repo}")
        headers = dict(self._credentials.headers(endpoint + "/api/"))
        asked = Asked(endpoint=endpoint, repo=repo, revision=revision, with_token=bool(headers))
        api = hub.load().HfApi(
            endpoint=endpoint,
            token=False,
            library_name="modelfetch",
            library_version=__version__,
            headers=_lower(headers),
        )
        failure: ModelfetchError
        try:
            with client.watched(self._watch):
                return question(api), asked
        except Exception as error:
            failure = translate(error, asked)
        # Raised out here, so that no foreign exception with its request hangs on to it.
        raise failure

    def _endpoint(self, path: str) -> str:
        """The hub's address, or what MODELFETCH_MIRRORS puts in its place."""
        endpoint = self._settings.hf_endpoint
        mirrored = rewrite(endpoint + path, self._settings.mirrors)
        return mirrored.removesuffix(path) if mirrored.endswith(path) else endpoint

    def _watch(self, url: str) -> None:
        self._http.count()
        scheme, host, port = origin(url)
        if scheme == "http" and not self._settings.allows_http(host, port):
            raise UnreachableError(
                f"the hub redirects to http://{host}, which is not encrypted", code="insecure-redirect", permanent=True
            )


def _lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
