"""``hf://…``: the Hugging Face Hub, or the mirror in HF_ENDPOINT.

One request per repo and revision returns the commit and the sizes and digests of all its files (source: the Hub's API,
``/api/models/{repo}/revision/{rev}?blobs=true``). Every file URL then contains the commit, so files can't change.

Proxies and older mirrors lack parts of that API. Data missing from the listing is taken from ``paths-info``, from the
tree, or from the headers of the file itself (``X-Repo-Commit``, ``X-Linked-Etag``), which are all that the official
client needs for a download (source: huggingface_hub, ``file_download.get_hf_file_metadata``).
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from modelfetch.config import hub
from modelfetch.core.artifact import Artifact, Location, Resolution
from modelfetch.core.digest import is_commit
from modelfetch.core.units import MAX_SIZE, parse_decimal
from modelfetch.core.urls import origin
from modelfetch.errors import CredentialsError, ModelfetchError, NotFoundError, UnreachableError
from modelfetch.http.auth import Credentials
from modelfetch.http.client import USER_AGENT
from modelfetch.http.names import check_name
from modelfetch.http.proxies import proxy_of
from modelfetch.http.redirects import REDIRECTS, rewrite
from modelfetch.manifest.uri import HfUri
from modelfetch.sources.answers import FIRST_BYTE, total_size
from modelfetch.sources.base import Source, SourceRequest
from modelfetch.sources.huggingface import client
from modelfetch.sources.huggingface.errors import Query, is_missing_api, refusal, translate
from modelfetch.sources.huggingface.repo import HubFile, Repo, choose, git_name, read_file, read_info
from modelfetch.sources.pages import is_html

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, MutableMapping, Sequence

    from modelfetch.config.settings import Settings
    from modelfetch.http import Http, Response
    from modelfetch.sources.base import ReadBlob

T = TypeVar("T")

_LINKED = "x-linked-etag"
_REFUSED_API = frozenset({"forbidden", "missing-or-private"})
"""Errors of the API for which files are looked for without it: a proxy may let only those through."""
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class _MissingApiError(Exception):
    """A hub lacks part of the API; ``error`` is raised if there is no alternative."""

    def __init__(self, error: ModelfetchError) -> None:
        super().__init__(str(error))
        self.error = error


class HfSource(Source[HfUri]):
    """Requests metadata through huggingface_hub; caches it per repo for the session."""

    def __init__(self, http: Http, settings: Settings) -> None:
        self._http = http
        self._settings = settings
        self._credentials = http.auth if isinstance(http.auth, Credentials) else Credentials(settings)
        self._repos: dict[tuple[str, str], Repo] = {}
        self._locks: defaultdict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()

    def query(self, uri: HfUri, wanted: SourceRequest) -> Resolution:
        """Return the commit, and each file with its size, digest and cache name."""
        revision = uri.revision or "main"
        try:
            repo = self._repo(uri.repo, revision)
        except _MissingApiError as missing:
            if (found := self._without_api(uri, revision, wanted)) is None:
                raise missing.error from None
            return found
        except CredentialsError as error:
            if error.code not in _REFUSED_API:
                raise
            with contextlib.suppress(ModelfetchError):
                if (found := self._without_api(uri, revision, wanted)) is not None:
                    return found
            raise
        chosen = self._with_digests(uri.repo, repo, choose(repo, uri, wanted), wanted)
        if wanted.cached and any(file.digest is None and file.path not in _pinned(wanted) for file in chosen):
            raise UnreachableError(
                f"{self._settings.hf_endpoint} gives no digests for {uri.repo}, which name the files of a cache",
                code="bad-response",
                permanent=True,
                hint="unset HF_ENDPOINT, or choose a mirror whose API is complete",
            )
        return replace(self._resolution(uri, repo.commit, chosen), license=repo.license)

    @classmethod
    def known(cls, uri: HfUri, wanted: SourceRequest, settings: Settings, read_blob: ReadBlob) -> Resolution | None:
        """Return files whose commit and digests are pinned.

        Cache names come from the hub; they are derived from the content only if requests are disabled. Without
        requests, files of a branch or tag are known by their digests alone, unless a cache needs the commit's name.
        """
        if wanted.cached and not settings.offline:
            return None
        return cls._from_pins(uri, wanted, settings, read_blob)

    @classmethod
    def _from_pins(
        cls, uri: HfUri, wanted: SourceRequest, settings: Settings, read_blob: ReadBlob
    ) -> Resolution | None:
        if uri.commit is None and (wanted.cached or not settings.offline):
            return None
        revision = uri.revision or "main"
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
        artifacts = tuple(replace(_artifact(uri, revision, file, settings), digest=None) for file in files)
        pinned = uri.commit is not None
        return cls.apply_pins(wanted, Resolution(artifacts=artifacts, revision=uri.commit, pinned=pinned))

    def explain(self, response: Response, uri: HfUri) -> ModelfetchError | None:
        """Return the error for a refused file; None if the file is missing from an existing repo."""
        if response.status == 404 and response.headers.get("x-error-code") == "EntryNotFound":
            return None
        query = Query(
            endpoint=self._settings.hf_endpoint,
            repo=uri.repo,
            revision=uri.revision,
            with_token=response.authorized,
        )
        return refusal(response.status, response.headers, response.url, query)

    def _resolution(self, uri: HfUri, commit: str, files: Iterable[HubFile]) -> Resolution:
        return Resolution(
            artifacts=tuple(_artifact(uri, commit, file, self._settings) for file in files),
            revision=commit,
            pinned=uri.commit is not None,
        )

    # -- the hub's API ---------------------------------------------------------------------------------------------

    def _repo(self, repo: str, revision: str) -> Repo:
        key = (repo, revision)
        with self._guard:
            lock = self._locks[key]
        with lock:
            if key not in self._repos:
                self._repos[key] = self._fetch(repo, revision)
            return self._repos[key]

    def _fetch(self, repo: str, revision: str) -> Repo:
        def read(api: Any, **fields: bool) -> tuple[Repo, bool]:
            info = api.model_info(repo, revision=revision, **fields)
            return read_info(info, revision), bool(getattr(info, "gated", None))

        try:
            found, gated = self._call(repo, revision, lambda api: read(api, files_metadata=True))
        except _MissingApiError:
            found, gated = self._call(repo, revision, read)
        if gated:
            self._check_gate(repo, revision)
        return found

    def _check_gate(self, repo: str, revision: str) -> None:
        """Raise if access to a gated repo's files is denied; its metadata is public."""
        try:
            self._call(repo, revision, lambda api: api.auth_check(repo))
        except _MissingApiError:
            return  # the transfer will report it
        except (NotFoundError, UnreachableError) as error:
            if not error.permanent:
                raise

    def _with_digests(self, repo: str, found: Repo, chosen: Sequence[HubFile], wanted: SourceRequest) -> list[HubFile]:
        """Return the files with digests missing from the listing, from the first alternative that provides them."""
        files = {file.path: file for file in chosen}
        places: tuple[Callable[[list[str]], Iterable[HubFile]], ...] = (
            lambda paths: self._paths_info(repo, found.commit, paths),
            lambda paths: self._tree(repo, found.commit, paths),
            lambda paths: self._heads(HfUri(text="", repo=repo, revision=found.commit, path=None), paths)[1],
        )
        pinned = _pinned(wanted)
        for place in places:
            open_ones = [file.path for file in files.values() if file.digest is None and file.path not in pinned]
            if not open_ones:
                break
            try:
                files |= {file.path: file for file in place(open_ones) if file.path in files}
            except (ValueError, TypeError, AttributeError, NotFoundError, _MissingApiError):
                continue
            except UnreachableError as error:
                if error.code != "bad-response":
                    raise
        return list(files.values())

    def _paths_info(self, repo: str, commit: str, paths: list[str]) -> list[HubFile]:
        entries = self._call(repo, commit, lambda api: list(api.get_paths_info(repo, paths, revision=commit)))
        return [read_file(entry.path, entry) for entry in entries]

    def _tree(self, repo: str, commit: str, paths: list[str]) -> list[HubFile]:
        names = set(paths)

        def find(api: Any) -> dict[str, Any]:
            entries = api.list_repo_tree(repo, recursive=True, revision=commit)
            return {entry.path: entry for entry in entries if entry.path in names}

        entries = self._call(repo, commit, find)
        return [read_file(path, entry) for path, entry in entries.items()]

    def _call(self, repo: str, revision: str, question: Callable[[Any], T]) -> T:
        endpoint = self._endpoint(f"/api/models/{repo}")
        headers = self._credentials.headers(endpoint + "/api/")
        query = Query(endpoint=endpoint, repo=repo, revision=revision, with_token=bool(headers))
        name, _, version = USER_AGENT.partition("/")
        api = hub.load().HfApi(endpoint=endpoint, token=False, library_name=name, library_version=version)
        failure: ModelfetchError
        if proxy_of(endpoint) is None:
            check_name(origin(endpoint)[1])
        try:
            with client.watched(self._watch, endpoint):
                return question(api)
        except Exception as error:
            failure, missing = translate(error, query), is_missing_api(error)
        if isinstance(failure, CredentialsError) and not query.with_token:
            self._name_problem(failure, endpoint)
        # Raised outside the handler, so that the library's exception and its request are not attached.
        raise _MissingApiError(failure) if missing else failure

    def _name_problem(self, failure: CredentialsError, endpoint: str) -> None:
        """Add to an error that a token exists but can't be read."""
        if (problem := self._credentials.problem(endpoint + "/api/")) is not None:
            failure.message += f"; {problem.message}"
            failure.args = (failure.message,)

    def _endpoint(self, path: str) -> str:
        """Return the hub's base URL, or its replacement in MODELFETCH_MIRRORS."""
        endpoint = self._settings.hf_endpoint
        mirrored = rewrite(endpoint + path, self._settings.mirrors)
        return mirrored.removesuffix(path) if mirrored.endswith(path) else endpoint

    def _watch(self, url: str, headers: MutableMapping[str, str]) -> None:
        """Count a request of huggingface_hub, and set the credential that it may carry."""
        self._http.count()
        try:
            scheme, host, port = origin(url)
        except ValueError:
            raise UnreachableError("the hub refers to an invalid URL", code="bad-response", permanent=True) from None
        if scheme == "http" and not self._settings.allows_http(host, port):
            raise UnreachableError(
                f"the hub redirects to http://{host}, which is not encrypted", code="insecure-redirect", permanent=True
            )
        headers.pop("authorization", None)
        headers.update({name.lower(): value for name, value in self._credentials.headers(url).items()})

    # -- without the API -------------------------------------------------------------------------------------------

    def _without_api(self, uri: HfUri, revision: str, wanted: SourceRequest) -> Resolution | None:
        """Resolve the named files from their headers, else from the manifest's pins; None if neither is possible."""
        names = [uri.path] if uri.path is not None else [spec.path for spec in wanted.files or ()]
        if not names:
            return None
        try:
            commit, files = self._heads(replace(uri, revision=revision), names)
        except (NotFoundError, UnreachableError) as error:
            if not error.permanent:
                raise
            return self._from_pins(uri, wanted, self._settings, lambda _digest: None)
        if commit is None or (wanted.cached and any(f.digest is None and f.path not in _pinned(wanted) for f in files)):
            return self._from_pins(uri, wanted, self._settings, lambda _digest: None)
        return self._resolution(uri, commit, files)

    def _heads(self, uri: HfUri, paths: Iterable[str]) -> tuple[str | None, list[HubFile]]:
        """Return the commit and the metadata in each file's headers."""
        commit, files = uri.commit, []
        for path in paths:
            found, file = self._head(uri, path)
            commit = commit or found
            files.append(file)
        return commit, files

    def _head(self, uri: HfUri, path: str) -> tuple[str | None, HubFile]:
        address = _address(uri.repo, uri.revision or "main", path, self._settings)
        response = self._http.open(
            "HEAD", address, headers={"Accept-Encoding": "identity"}, leave_host=False, stop_at=_LINKED
        )
        if response.status in (405, 501):
            response.close()
            response = self._http.open("GET", address, headers=FIRST_BYTE, leave_host=False, stop_at=_LINKED)
        with response:
            fields, moved = response.headers, response.status in REDIRECTS
            if not 200 <= response.status < 300 and not moved:
                error = self.explain(response, uri)
                raise error or NotFoundError(f"{uri.repo} has no file {path}")
            commit = fields.get("x-repo-commit", "")
            linked, etag = (_etag(fields.get(name, "")) for name in (_LINKED, "etag"))
            size = _size(fields.get("x-linked-size", ""))
            if size is None and not moved:
                size = total_size(response)
            if not (moved or commit or linked) and is_html(fields) and not path.endswith((".html", ".htm")):
                message = f"{self._settings.hf_endpoint} sent a web page instead of {path} of {uri.repo}"
                raise UnreachableError(message, code="bad-response", permanent=True)
        # The ETag of an externally stored file is that of the other store, not a digest of its content.
        oid = etag if is_commit(etag) and not moved else linked if is_commit(linked) else None
        sha256 = linked if _SHA256.match(linked) else None
        file = HubFile(path=path, size=size, oid=oid, sha256=sha256)
        return commit if is_commit(commit) else None, file


def _artifact(uri: HfUri, commit: str, file: HubFile, settings: Settings) -> Artifact:
    name = f"hf://{uri.repo}@{commit}/{quote(file.path)}" if uri.text.startswith("hf:") else str(uri)
    return Artifact(
        uri=name,
        path=file.path,
        size=file.size,
        digest=file.digest,
        cache_name=file.sha256 or file.oid,
        locations=(Location(uri=name, url=_address(uri.repo, commit, file.path, settings)),),
    )


def _address(repo: str, revision: str, path: str, settings: Settings) -> str:
    return f"{settings.hf_endpoint}/{repo}/resolve/{quote(revision, safe='')}/{quote(path)}"


def _pinned(wanted: SourceRequest) -> set[str]:
    """Return the paths of files whose digests the manifest pins."""
    return {spec.path for spec in wanted.files or () if spec.digest is not None}


def _etag(value: str) -> str:
    return value.strip().removeprefix("W/").strip('"').lower()


def _size(value: str) -> int | None:
    size = parse_decimal(value.strip())
    return size if size is not None and size <= MAX_SIZE else None
