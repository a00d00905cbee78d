"""``hf://…``: the Hugging Face Hub, or a mirror of it that HF_ENDPOINT names.

One question per repo and revision tells commit, sizes and digests of all its files (source: the Hub's API,
``/api/models/{repo}/revision/{rev}?blobs=true``). The commit then stands in every address, so nothing moves meanwhile.
"""

from __future__ import annotations

import difflib
import threading
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from modelfetch.artifacts import Artifact, Location, Resolution
from modelfetch.credentials import hub
from modelfetch.digests import Digest, new_hasher
from modelfetch.errors import IntegrityError, ModelfetchError, NotFoundError, UnreachableError
from modelfetch.http.hops import host_and_port, rewrite
from modelfetch.manifest.paths import check_relative
from modelfetch.manifest.uri import HfUri, is_commit
from modelfetch.sources import hf_client
from modelfetch.sources.base import Source, Wanted
from modelfetch.sources.hf_errors import Asked, nonsense, translate
from modelfetch.units import MAX_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from modelfetch.credentials import Credentials
    from modelfetch.http import Http
    from modelfetch.settings import Settings
    from modelfetch.sources.base import ReadBlob

T = TypeVar("T")

_LFS_SIZE = 10 * 2**20
_LFS_SUFFIXES = (
    *(".7z", ".arrow", ".bin", ".bz2", ".ckpt", ".ftz", ".gguf", ".gz", ".h5", ".joblib", ".lfs", ".mlmodel", ".model"),
    *(".msgpack", ".npy", ".npz", ".onnx", ".ot", ".parquet", ".pb", ".pickle", ".pkl", ".pt", ".pth", ".rar"),
    *(".safetensors", ".tar", ".tflite", ".tgz", ".wasm", ".xz", ".zip", ".zst"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """One file of a repo as the hub knows it; ``sha256`` for LFS files only, ``oid`` is the git blob's sha1."""

    path: str
    size: int | None
    oid: str | None
    sha256: str | None

    @property
    def digest(self) -> Digest | None:
        """What its bytes must have."""
        if self.sha256 is not None:
            return Digest("sha256", self.sha256)
        return Digest("git-sha1", self.oid) if self.oid is not None and self.size is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repo:
    """One revision of a repo."""

    commit: str
    files: dict[str, HubFile | None]
    """By path; None for a file whose path can't be trusted."""


class HfSource(Source[HfUri]):
    """Asks the hub through huggingface_hub; what it said of a repo is kept for the session."""

    def __init__(self, http: Http, settings: Settings, credentials: Credentials) -> None:
        self._http = http
        self._settings = settings
        self._credentials = credentials
        self._repos: dict[tuple[str, str], Repo] = {}
        self._locks: defaultdict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()

    def ask(self, uri: HfUri, wanted: Wanted) -> Resolution:
        """The commit, and each file with its size, its digest and its name in a cache."""
        revision = uri.revision or "main"
        repo = self._repo(uri.repo, revision)
        chosen = _choose(repo, uri, wanted)
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
        )

    def known(self, uri: HfUri, wanted: Wanted, read_blob: ReadBlob) -> Resolution | None:
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
                oid=_git_name(path, size, digest, read_blob) if wanted.cached else None,
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
            found = _read_info(info, revision)
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
            details = {entry.path: _read_file(entry.path, entry) for entry in entries}
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
        api = hub.load().HfApi(endpoint=endpoint, token=False, library_name="modelfetch", headers=_lower(headers))
        failure: ModelfetchError
        try:
            with hf_client.watched(self._watch):
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
        scheme, host, port = host_and_port(url)
        if scheme == "http" and not self._settings.allows_http(host, port):
            raise UnreachableError(
                f"the hub redirects to http://{host}, which is not encrypted", code="insecure-redirect", permanent=True
            )


def _lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


# -- reading answers ---------------------------------------------------------------------------------------------------


def _read_info(info: Any, revision: str) -> Repo:
    """What matters of a ModelInfo.

    Raises:
        ValueError, TypeError, AttributeError: It is not what the hub's API says.
    """
    commit = info.sha
    if not isinstance(commit, str) or len(commit) != 40:
        raise ValueError("no commit")
    commit = Digest("git-sha1", commit).hex
    if is_commit(revision) and revision != commit:
        raise ValueError("another commit than the one asked for")
    files: dict[str, HubFile | None] = {}
    for sibling in info.siblings or ():
        path = sibling.rfilename
        if not isinstance(path, str):
            raise TypeError("a path that is no text")
        files[path] = _read_file(path, sibling) if _is_safe(path) else None
    return Repo(commit=commit, files=files)


def _read_file(path: str, entry: Any) -> HubFile:
    lfs = getattr(entry, "lfs", None)
    size = lfs.size if lfs is not None else getattr(entry, "size", None)
    oid = getattr(entry, "blob_id", None)
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_SIZE):
        raise ValueError("a size that none can be")
    return HubFile(
        path=path,
        size=size,
        oid=None if oid is None else Digest("git-sha1", oid).hex,
        sha256=None if lfs is None else Digest("sha256", lfs.sha256).hex,
    )


def _is_safe(path: str) -> bool:
    try:
        check_relative(path)
    except ValueError:
        return False
    return True


def _git_name(path: str, size: int | None, digest: Digest | None, read_blob: ReadBlob) -> str | None:
    """What git calls a file that lies in the store, if it is one that a repo keeps outside LFS; else None.

    Source: the Hub's default .gitattributes, and its limit of 10 MiB for files outside LFS.
    """
    if digest is None or size is None or size >= _LFS_SIZE or path.lower().endswith(_LFS_SUFFIXES):
        return None
    content = read_blob(digest)
    if content is None:
        return None
    hasher = new_hasher("git-sha1", len(content))
    hasher.update(content)
    return hasher.hexdigest()


# -- choosing files ----------------------------------------------------------------------------------------------------


def _choose(repo: Repo, uri: HfUri, wanted: Wanted) -> list[HubFile]:
    if uri.path is not None:
        names = [uri.path]
    elif wanted.files is not None:
        names = [spec.path for spec in wanted.files]
    elif wanted.include is not None:
        names = hf_client.matching(repo.files, wanted.include)
    else:
        names = sorted(repo.files)
    if missing := [name for name in names if name not in repo.files]:
        raise _missing(repo, uri, missing)
    if not names:
        what = f"no file that matches {', '.join(wanted.include)}" if wanted.include else "no files"
        raise NotFoundError(f"{uri.repo} at {repo.commit[:12]} has {what}", hint=f"it has {_some(repo.files)}")
    chosen = []
    for name in names:
        file = repo.files[name]
        if file is None:
            raise IntegrityError(f"{uri.repo} names a file {name[:120]!r}, which is no safe path", code="unsafe-path")
        chosen.append(file)
    return chosen


def _missing(repo: Repo, uri: HfUri, missing: Sequence[str]) -> NotFoundError:
    near = difflib.get_close_matches(missing[0], repo.files, n=3, cutoff=0.5)
    more = " and more" if len(missing) > 5 else ""
    return NotFoundError(
        f"{uri.repo} at {repo.commit[:12]} has no file {', '.join(missing[:5])}{more}",
        hint=f"did you mean {' or '.join(near)}?" if near else f"it has {_some(repo.files)}",
    )


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "") if listed else "no files"
