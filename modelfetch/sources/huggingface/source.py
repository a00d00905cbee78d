"""``hf://…``: the Hugging Face Hub, or the mirror in HF_ENDPOINT.

One request per repo and revision returns the commit and the sizes and digests of all its files (source: the Hub's API,
``/api/models/{repo}/revision/{rev}?blobs=true``). Every file URL then contains the commit, so files can't change.

Proxies and older mirrors lack parts of that API. Data missing from the listing is taken from ``paths-info``, from the
tree, or from the headers of the file itself (``X-Repo-Commit``, ``X-Linked-Etag``), which are all that the official
client needs for a download (source: huggingface_hub, ``file_download.get_hf_file_metadata``).
"""

from __future__ import annotations

import threading
from collections import defaultdict
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from modelfetch.core.artifact import Artifact, Location, Resolution
from modelfetch.core.digest import is_commit
from modelfetch.core.units import parse_decimal
from modelfetch.errors import CredentialsError, ModelfetchError, NotFoundError, UnreachableError
from modelfetch.http.auth import Credentials
from modelfetch.http.redirects import REDIRECTS
from modelfetch.http.status import ServerError
from modelfetch.manifest.uri import HfUri
from modelfetch.sources.answers import FIRST_BYTE, total_size
from modelfetch.sources.base import Source, SourceRequest
from modelfetch.sources.huggingface.api import HubApi, Info, MissingApiError
from modelfetch.sources.huggingface.errors import ImpossibleError, Query, UnusableAnswerError, refusal
from modelfetch.sources.huggingface.listing import SHA1, HubFile, Listing, read_commit, read_hash, read_size
from modelfetch.sources.huggingface.repo import Repo, choose, git_name, named
from modelfetch.sources.pages import is_html

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from modelfetch.config.settings import Settings
    from modelfetch.http import Http, Response
    from modelfetch.sources.base import ReadBlob

_LINKED = "x-linked-etag"
_HUBS_FIELDS = frozenset({"x-repo-commit", "x-checksum-sha1"})
_EMPTY_OID = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # git's name of an empty file
_REFUSED_API = frozenset({"forbidden", "missing-or-private"})
"""Errors of the API for which files are looked for without it: a proxy may let only those through."""
_MOST_SIBLINGS = 50_000
"""Files up to which the list in a repo's metadata is complete (source: huggingface_hub 1.0, ``snapshot_download``)."""


class HfSource(Source[HfUri]):
    """Requests metadata through huggingface_hub; caches it per repo for the session."""

    def __init__(self, http: Http, settings: Settings) -> None:
        self._http = http
        self._settings = settings
        credentials = http.auth if isinstance(http.auth, Credentials) else Credentials(settings)
        self._api = HubApi(http, settings, credentials)
        self._repos: dict[tuple[str, str], Repo] = {}
        self._locks: defaultdict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()

    def query(self, uri: HfUri, wanted: SourceRequest) -> Resolution:
        """Return the commit, and each file with its size, digest and cache name."""
        revision = uri.revision or "main"
        repo = self._repo(uri.repo, revision, complete=named(uri, wanted) is None)
        try:
            return self._find(uri, revision, repo, wanted)
        except ModelfetchError as error:
            problem = copy(repo.problem)
            if problem is None or isinstance(error, ImpossibleError):
                raise
            is_missing = error.permanent and isinstance(error, NotFoundError | UnreachableError)
            if is_missing and (pinned := self._from_pins(uri, wanted, self._settings, lambda _: None, any_commit=True)):
                return pinned
            if isinstance(problem, CredentialsError):
                raise problem from None
            if is_missing and not (isinstance(error, NotFoundError) and isinstance(problem, UnusableAnswerError)):
                raise problem from None
            raise

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
        cls, uri: HfUri, wanted: SourceRequest, settings: Settings, read_blob: ReadBlob, *, any_commit: bool = False
    ) -> Resolution | None:
        """Return the files if all are pinned; with ``any_commit`` also those of a branch, unless for a cache."""
        if uri.commit is None and (wanted.cached or not (any_commit or settings.offline)):
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

    # -- the hub's lists -------------------------------------------------------------------------------------------

    def _repo(self, repo: str, revision: str, *, complete: bool) -> Repo:
        """Return what the hub lists; ``complete``: all files."""
        key = (repo, revision)
        with self._guard:
            lock = self._locks[key]
        with lock:
            found = self._repos.get(key) or self._fetch(repo, revision)
            if complete and not found.complete:
                found = self._with_tree(repo, revision, found)
            if found.problem is None or found.problem.permanent:
                self._repos[key] = found
            return found

    def _fetch(self, repo: str, revision: str) -> Repo:
        commit = revision if is_commit(revision) else None
        problem: ModelfetchError
        try:
            info = self._api.info(repo, revision)
        except MissingApiError as missing:
            problem = missing.error
        except (CredentialsError, ServerError) as error:
            if isinstance(error, CredentialsError) and error.code not in _REFUSED_API:
                raise
            problem = error
        else:
            return self._listed(repo, revision, info)
        return Repo(commit=commit, files={}, complete=False, problem=problem)

    def _listed(self, repo: str, revision: str, info: Info) -> Repo:
        if info.gated:
            self._check_gate(repo, revision)
        files = info.files or {}
        complete = 0 < len(files) <= _MOST_SIBLINGS
        return Repo(commit=info.commit, files=Listing(files), complete=complete, license=info.license)

    def _check_gate(self, repo: str, revision: str) -> None:
        """Raise if access to a gated repo's files is denied; its metadata is public."""
        try:
            self._api.check_gate(repo, revision)
        except MissingApiError:
            return  # the transfer will report it
        except (NotFoundError, UnreachableError) as error:
            if not error.permanent:
                raise

    def _with_tree(self, repo: str, revision: str, found: Repo) -> Repo:
        try:
            files = self._api.tree(repo, found.commit or revision)
        except (MissingApiError, CredentialsError) as error:
            if found.problem is not None:
                raise copy(found.problem) from None
            if isinstance(error, CredentialsError):
                raise
            raise UnusableAnswerError(
                f"{self._settings.hf_endpoint} gives no complete list of the files of {repo}",
                hint="name them with `files`, or choose an HF_ENDPOINT whose API is complete",
            ) from None
        return replace(found, files=Listing(files), complete=True, problem=None)

    def _find(self, uri: HfUri, revision: str, repo: Repo, wanted: SourceRequest) -> Resolution:
        """Return the requested files with what the hub lists of them, completed from other places."""
        names = named(uri, wanted) or ()
        unlisted = [name for name in names if name not in repo.files]
        if unlisted and (not repo.complete or self._exists(uri, repo.commit or revision, unlisted[0])):
            repo = replace(repo, files={name: repo.files.get(name, HubFile(path=name)) for name in names})
        chosen = {file.path: file for file in choose(repo, uri, wanted)}
        if repo.commit is None:
            first = next(iter(chosen))
            commit, file = self._head(replace(uri, revision=revision), first)
            repo, chosen[first] = replace(repo, commit=commit), chosen[first].updated(file)
        if repo.commit is None:
            raise UnusableAnswerError(
                f"{self._settings.hf_endpoint} does not name the commit of {uri.repo}@{revision}",
                hint=f"write the commit into the source: hf://{uri.repo}@COMMIT",
            )
        files = self._with_digests(uri, repo.commit, chosen, wanted, unlisted)
        if wanted.cached and any(file.digest is None and file.path not in _pinned(wanted) for file in files):
            raise UnreachableError(
                f"{self._settings.hf_endpoint} gives no digests for {uri.repo}, which name the files of a cache",
                code="bad-response",
                permanent=True,
                hint="unset HF_ENDPOINT, or choose a mirror whose API is complete",
            )
        return replace(self._resolution(uri, repo.commit, files), license=repo.license)

    def _exists(self, uri: HfUri, revision: str, path: str) -> bool:
        """Return whether a file that a list lacks exists nevertheless."""
        try:
            self._head(replace(uri, revision=revision), path)
        except ModelfetchError:
            return False
        return True

    def _with_digests(
        self, uri: HfUri, commit: str, files: dict[str, HubFile], wanted: SourceRequest, unlisted: Sequence[str]
    ) -> list[HubFile]:
        """Return the files with what the listing lacks, from the first alternative that provides it.

        Raises:
            NotFoundError: One of the ``unlisted`` files does not exist.
        """
        places: list[Callable[[list[str]], Mapping[str, HubFile | None]]] = [
            lambda paths: self._api.paths_info(uri.repo, commit, paths),
            lambda _paths: self._api.tree(uri.repo, commit),
            lambda paths: {path: self._head(replace(uri, revision=commit), path)[1] for path in paths},
        ]
        if len(files) == 1:
            places.reverse()  # its headers are a single request, too, and all that the official client needs
        pinned, confirmed, failure = _pinned(wanted), set[str](), None
        for place in places:
            lacking = [file.path for file in files.values() if file.digest is None and file.path not in pinned]
            if not lacking:
                return list(files.values())
            try:
                found = place(lacking)
            except MissingApiError:
                continue
            except (NotFoundError, CredentialsError, UnreachableError) as error:
                if isinstance(error, ImpossibleError) or (unlisted and isinstance(error, NotFoundError)):
                    raise
                if not (error.permanent or isinstance(error, ServerError)):
                    raise
                failure = error
                continue
            confirmed |= found.keys()
            files |= {path: files[path].updated(file) for path, file in found.items() if file and path in files}
        lacking = [file.path for file in files.values() if file.digest is None and file.path not in pinned]
        denied = failure is not None and (not failure.permanent or isinstance(failure, CredentialsError))
        if failure is not None and lacking and (denied or not confirmed.union(pinned).issuperset(unlisted)):
            raise failure
        return list(files.values())

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
            commit = read_commit(fields.get("x-repo-commit", "").strip(), uri.revision or "main")
            linked, etag = (_etag(fields.get(name, "")) for name in (_LINKED, "etag"))
            size = read_size(parse_decimal(fields.get("x-linked-size", "").strip()))
            by_hub = bool(moved or linked or read_hash(etag, SHA1) or not fields.keys().isdisjoint(_HUBS_FIELDS))
            if size is None and by_hub and not moved:  # many servers answer HEAD with a length of 0
                size = total_size(response) or (0 if etag == _EMPTY_OID else None)
            if not by_hub and is_html(fields) and not path.endswith((".html", ".htm")):
                message = f"{self._settings.hf_endpoint} sent a web page instead of {path} of {uri.repo}"
                raise UnreachableError(message, code="bad-response", permanent=True)
        # The ETag of an externally stored file is that of the other store, not a digest of its content.
        oid = linked if moved else linked or etag
        if oid == fields.get("x-checksum-sha1"):  # Artifactory's ETag, the sha1 of the content alone
            oid = ""
        sha256 = read_hash(linked) or read_hash(fields.get("x-checksum-sha256"))
        return commit, HubFile(path=path, size=size, oid=None if sha256 else read_hash(oid, SHA1), sha256=sha256)


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
