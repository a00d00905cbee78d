"""The hub's API, requested with huggingface_hub's session and read by `listing`.

Its own functions are not used for lists of files: they refuse a whole list for one missing value, and take three times
the memory. Sources: ``HfApi.model_info``, ``get_paths_info``, ``list_repo_tree``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urljoin

from modelfetch.config import hub
from modelfetch.core.urls import origin
from modelfetch.errors import CredentialsError, ModelfetchError, UnreachableError
from modelfetch.http.client import USER_AGENT
from modelfetch.http.names import check_name
from modelfetch.http.proxies import proxy_of
from modelfetch.http.redirects import rewrite
from modelfetch.sources.huggingface import client
from modelfetch.sources.huggingface.errors import Query, is_missing_api, translate
from modelfetch.sources.huggingface.listing import SIBLINGS, TREE, HubFile, read_commit, read_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping, Sequence

    from modelfetch.config.settings import Settings
    from modelfetch.http import Http
    from modelfetch.http.auth import Credentials

    Files = dict[str, HubFile | None]

T = TypeVar("T")

_LONG_LIST = 10_000
"""Files beyond which a list in pages is a long answer, too."""


class MissingApiError(Exception):
    """A hub lacks part of the API; ``error`` is raised if there is no alternative."""

    def __init__(self, error: ModelfetchError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What the API gives for one revision; ``files`` is None without a list, and ``commit`` if it is not named."""

    commit: str | None
    files: Files | None
    license: str | None
    gated: bool


class HubApi:
    """Requests to one hub. Each of them raises `MissingApiError` if the hub does not provide it."""

    def __init__(self, http: Http, settings: Settings, credentials: Credentials) -> None:
        self._http = http
        self._settings = settings
        self._credentials = credentials

    def info(self, repo: str, revision: str) -> Info:
        """Return the commit of a revision, and its files with all that the hub lists of them."""
        path = f"/revision/{quote(revision, safe='')}"
        try:
            return self._call(repo, revision, lambda get: _read_info(get(path, params={"blobs": "true"})[0], revision))
        except MissingApiError:
            return self._call(repo, revision, lambda get: _read_info(get(path)[0], revision))

    def paths_info(self, repo: str, commit: str, paths: Sequence[str]) -> Files:
        """Return those of the paths that exist."""
        path = f"/paths-info/{commit}"
        return self._call(
            repo, commit, lambda get: read_files(get(path, method="POST", data={"paths": list(paths)})[0], TREE)
        )

    def tree(self, repo: str, revision: str) -> Files:
        """Return all files, from as many pages as there are."""

        def entries(get: _Get) -> Iterator[Any]:
            address: str | None = f"/tree/{quote(revision, safe='')}?recursive=true"
            count = 0
            while address is not None:
                page, address = get(address)
                count += len(page)
                if count > _LONG_LIST:
                    client.take_turn()
                yield from page

        return self._call(repo, revision, lambda get: read_files(entries(get), TREE))

    def check_gate(self, repo: str, revision: str) -> None:
        """Raise if access to a gated repo's files is denied; its metadata is public."""
        self._call(repo, revision, lambda get: get.send("/auth-check"))

    def _call(self, repo: str, revision: str, question: Callable[[_Get], T]) -> T:
        endpoint = self._endpoint(f"/api/models/{repo}")
        headers = self._credentials.headers(endpoint + "/api/")
        query = Query(endpoint=endpoint, repo=repo, revision=revision, with_token=bool(headers))
        failure: ModelfetchError
        if proxy_of(endpoint) is None:
            check_name(origin(endpoint)[1])
        try:
            hub.load().utils.validate_repo_id(repo)
            with client.watched(self._watch, endpoint):
                return question(_Get(f"{endpoint}/api/models/{repo}"))
        except Exception as error:
            failure = translate(error, query)
            missing = is_missing_api(error, failure)
        if isinstance(failure, CredentialsError) and not query.with_token:
            self._name_problem(failure, endpoint)
        # Raised outside the handler, so that the library's exception and its request are not attached.
        raise MissingApiError(failure) if missing else failure

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


class _Get:
    """Requests JSON within a repo's part of the API."""

    def __init__(self, base: str) -> None:
        name, _, version = USER_AGENT.partition("/")
        self._base = base
        self._utils = hub.load().utils
        self._headers = self._utils.build_hf_headers(token=False, library_name=name, library_version=version)

    def send(self, path: str, *, method: str = "GET", **options: Any) -> Any:
        """Return the response."""
        address = self._base + path if path.startswith("/") else path
        response = self._utils.get_session().request(method, address, headers=dict(self._headers), **options)
        self._utils.hf_raise_for_status(response)
        return response

    def __call__(self, path: str, **options: Any) -> tuple[Any, str | None]:
        """Return the value, and the URL of the next page if there is one, to be passed as ``path``."""
        response = self.send(path, **options)
        following = response.links.get("next", {}).get("url")
        return response.json(), None if following is None else urljoin(str(response.url), following)


def _read_info(document: Any, revision: str) -> Info:
    """Parse the metadata of a repo.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: It does not follow the hub's API.
        ImpossibleError: It can't be true.
    """
    siblings = document.get("siblings")
    return Info(
        commit=read_commit(document.get("sha"), revision),
        files=read_files(siblings, SIBLINGS) if isinstance(siblings, list) else None,
        license=_license(document.get("tags")),
        gated=bool(document.get("gated")),
    )


def _license(tags: Any) -> str | None:
    """Return the licence in a repo's tags."""
    names = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    found = next((name for tag in names if (name := tag.removeprefix("license:")) != tag), "")
    return found if found and found.isprintable() and len(found) <= 100 else None
