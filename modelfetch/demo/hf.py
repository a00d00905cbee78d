"""A simulation of the Hugging Face Hub's API.

Source: the client's own requests (huggingface_hub 2.4.0: ``hf_api``, ``file_download``, ``utils/_http``) and the Hub's
documentation on rate limits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote

from modelfetch.demo.cdn import Site
from modelfetch.demo.message import Request, Response, as_json, file_response, redirect, text

if TYPE_CHECKING:
    from modelfetch.demo.repo import Commit, HfRepo, RepoFile
    from modelfetch.demo.world import Token

API = "/api/models/"
_MODIFIED = "2026-01-01T00:00:00.000Z"
_API_VERBS = {"revision", "tree", "paths-info", "auth-check"}
_EXPOSED = "X-Repo-Commit,X-Request-Id,X-Error-Code,X-Error-Message,ETag,Link,Accept-Ranges,Content-Range,X-Linked-Size,X-Linked-ETag,X-Xet-Hash"  # noqa: E501 - one header value


class HfHub(Site):
    """Responds as the Hub does, with the world's content."""

    def answer(self, request: Request) -> Response:
        """Route one request."""
        kind = "api" if request.raw_path.startswith("/api/") else "resolvers"
        limit = self._world.spend(kind)
        headers = (
            ("RateLimit", f'"{kind}";r={limit.remaining};t={limit.reset}'),
            ("RateLimit-Policy", f'"fixed window";"{kind}";q={limit.quota};w=300'),
            ("X-Request-Id", f"Root=1-{limit.used:08x}"),
            ("Access-Control-Expose-Headers", _EXPOSED),
        )
        if limit.exceeded:
            return as_json(429, {"error": "We had to rate limit your IP"}).with_headers(*headers)
        return self._route(request).with_headers(*headers)

    def _route(self, request: Request) -> Response:
        path = request.raw_path
        if path == "/api/whoami-v2":
            return self._whoami(request)
        if path.startswith("/api/resolve-cache/models/"):
            return self._cached_file(request)
        if path.startswith(API):
            return self._api(request, path.removeprefix(API).split("/"))
        segments = path.lstrip("/").split("/")
        at = _keyword(segments, {"resolve"})
        if at is None:
            return text(404, "Not found", kind="text/html; charset=utf-8")
        return self._resolve(request, "/".join(segments[:at]), segments[at + 1 :])

    # -- the API ---------------------------------------------------------------------------------------------------

    def _api(self, request: Request, segments: list[str]) -> Response:
        at = _keyword(segments, _API_VERBS)
        name = unquote("/".join(segments if at is None else segments[:at]))
        verb, rest = ("info", []) if at is None else (segments[at], segments[at + 1 :])
        if name in self._world.renamed:
            target = API + "/".join([self._world.renamed[name], *segments[len(name.split("/")) :]])
            return redirect(307, target + _query(request))
        repo, refused = self._open(request, name)
        if repo is None:
            return refused
        if verb == "auth-check":
            return self._gate(request, repo) or as_json(200, {})
        revision, inner = _split_revision(rest or ["main"])
        commit = repo.resolve(revision)
        if commit is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if verb in {"info", "revision"}:
            return as_json(200, _info(repo, commit, blobs=_flag(request, "blobs")))
        if verb == "paths-info":
            return as_json(200, _paths_info(repo, commit, request))
        return self._tree(request, repo, commit, inner)

    def _tree(self, request: Request, repo: HfRepo, commit: Commit, folder: str) -> Response:
        query = request.query
        entries = _tree(repo, commit, folder, recursive=_flag(request, "recursive"))
        if folder and not entries:
            return _error(404, "EntryNotFound", f"{folder} does not exist on {commit.sha}")
        page = 50 if _flag(request, "expand") else self._world.tree_page
        start = int(query.get("cursor", "0") or "0")
        headers: list[tuple[str, str]] = []
        if start + page < len(entries):
            kept = "&".join(f"{key}={quote(value)}" for key, value in query.items() if key != "cursor")
            target = f"{self.base}{request.raw_path}?{kept}{'&' if kept else ''}cursor={start + page}"
            headers.append(("Link", f'<{target}>; rel="next"'))
        return as_json(200, entries[start : start + page], *headers)

    # -- files -----------------------------------------------------------------------------------------------------

    def _resolve(self, request: Request, name: str, rest: list[str]) -> Response:
        if request.method not in {"GET", "HEAD"}:
            return text(405, "Method not allowed")
        name = unquote(name)
        if name in self._world.renamed:
            return redirect(307, "/".join(["", self._world.renamed[name], "resolve", *rest]) + _query(request))
        repo, refused = self._open(request, name)
        if repo is None:
            return refused
        revision, path = _split_revision(rest)
        commit = repo.resolve(revision)
        if commit is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        closed = self._gate(request, repo)
        if closed is not None:
            return closed
        file = commit.files.get(path)
        pinned = ("X-Repo-Commit", commit.sha)
        if file is None:
            return _error(404, "EntryNotFound", "Entry not found").with_headers(pinned)
        if file.sha256 is not None:
            return self._linked(request, repo, file).with_headers(pinned)
        if repo.resolve_cache:
            target = f"/api/resolve-cache/models/{repo.repo_id}/{commit.sha}/{quote(path)}"
            return redirect(307, target, pinned, ("ETag", f'"{file.oid}"'))
        return _small(file).with_headers(pinned)

    def _linked(self, request: Request, repo: HfRepo, file: RepoFile) -> Response:
        location = self._cdn.publish(
            "xet-bridge-us",
            file.body,
            label=request.path,
            etag=file.xet_hash,
            filename=file.path.rpartition("/")[2],
        )
        headers = [
            ("X-Linked-Size", str(file.body.size)),
            ("X-Linked-ETag", f'"{file.sha256}"'),
            ("Accept-Ranges", "bytes"),
        ]
        if repo.xet:
            route = f"{self.base}{API}{repo.repo_id}/xet-read-token/{repo.main}"
            headers += [("X-Xet-Hash", file.xet_hash), ("Link", f'<{route}>; rel="xet-auth"')]
        return redirect(302, location, *headers)

    def _cached_file(self, request: Request) -> Response:
        segments = request.path.removeprefix("/api/resolve-cache/models/").split("/")
        for size in (1, 2):
            name, commit, path = "/".join(segments[:size]), segments[size], "/".join(segments[size + 1 :])
            repo = self._world.repos.get(name)
            found = None if repo is None else repo.commits.get(commit)
            if repo is not None and found is not None and path in found.files:
                closed = self._gate(request, repo)
                return closed or _small(found.files[path]).with_headers(("X-Repo-Commit", commit))
        return _error(404, "EntryNotFound", "Entry not found")

    # -- access ----------------------------------------------------------------------------------------------------

    def _open(self, request: Request, name: str) -> tuple[HfRepo, Response] | tuple[None, Response]:
        repo = self._world.repos.get(name)
        token = self._token(request)
        if request.bearer and token is None and not (repo and repo.gated):
            return None, _error(401, None, "Invalid credentials in Authorization header")
        if repo is not None and (not repo.private or (token is not None and token.may_read(name))):
            return repo, text(200, "")
        if token is None:
            return None, _error(401, None, "Invalid username or password.")
        return None, _error(404, "RepoNotFound", "Repository not found")

    def _gate(self, request: Request, repo: HfRepo) -> Response | None:
        if not repo.gated:
            return None
        token = self._token(request)
        restricted = f"Access to model {repo.repo_id} is restricted"
        if token is None:
            return _error(
                401,
                "GatedRepo",
                f"{restricted}. You must have access to it and be authenticated to access it. Please log in.",
            )
        if not token.has_accepted(repo.repo_id):
            visit = f"{self.base}/{repo.repo_id}"
            return _error(
                403,
                "GatedRepo",
                f"{restricted} and you are not in the authorized list. Visit {visit} to ask for access.",
            )
        return None

    def _whoami(self, request: Request) -> Response:
        if self._token(request) is None:
            return _error(401, None, "Invalid username or password.")
        token = {"displayName": "demo", "role": "read"}
        return as_json(200, {"type": "user", "name": "demo", "auth": {"type": "access_token", "accessToken": token}})

    def _token(self, request: Request) -> Token | None:
        return self._world.tokens.get(("hf", request.bearer or ""))


def _keyword(segments: list[str], words: set[str]) -> int | None:
    """Return the position of the verb: repository ids have one or two segments."""
    return next((at for at in (1, 2) if at < len(segments) and segments[at] in words), None)


def _split_revision(segments: list[str]) -> tuple[str, str]:
    """Return (revision, path). A full reference (``refs/pr/1``) may be one encoded segment or three plain ones."""
    size = 3 if segments[0] == "refs" else 1
    return unquote("/".join(segments[:size])), unquote("/".join(segments[size:]))


def _query(request: Request) -> str:
    _, mark, query = request.target.partition("?")
    return mark + query


def _flag(request: Request, name: str) -> bool:
    return request.query.get(name, "").lower() in {"1", "true"}


def _error(status: int, code: str | None, message: str) -> Response:
    headers = [("X-Error-Message", message)]
    if code is not None:
        headers.append(("X-Error-Code", code))
    return as_json(status, {"error": message}, *headers)


def _small(file: RepoFile) -> Response:
    kind = "application/json" if file.path.endswith(".json") else "text/plain; charset=utf-8"
    disposition = f'inline; filename="{file.path.rpartition("/")[2]}"'
    return file_response(
        file.body, ("Content-Type", kind), ("Content-Disposition", disposition), etag=file.oid, modified=None
    )


def _info(repo: HfRepo, commit: Commit, *, blobs: bool) -> dict[str, Any]:
    return {
        "_id": commit.sha[:24],
        "id": repo.repo_id,
        "modelId": repo.repo_id,
        "author": repo.repo_id.partition("/")[0],
        "sha": commit.sha,
        "lastModified": _MODIFIED,
        "createdAt": _MODIFIED,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [f"license:{repo.license}"] if repo.license else [],
        "siblings": [_sibling(file) if blobs else {"rfilename": file.path} for file in commit.files.values()],
        "usedStorage": sum(file.body.size for file in commit.files.values()),
    }


def _sibling(file: RepoFile) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": file.path, "blobId": file.oid, "size": file.body.size}
    if file.sha256 is not None:
        entry["lfs"] = {"sha256": file.sha256, "size": file.body.size, "pointerSize": file.pointer_size}
    return entry


def _entry(repo: HfRepo, file: RepoFile) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": file.oid, "size": file.body.size, "path": file.path}
    if file.sha256 is not None:
        entry["lfs"] = {"oid": file.sha256, "size": file.body.size, "pointerSize": file.pointer_size}
        if repo.xet:
            entry["xetHash"] = file.xet_hash
    return entry


def _folders(commit: Commit) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in commit.files:
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            name = "/".join(parts[:depth])
            found[name] = {"type": "directory", "oid": commit.sha, "size": 0, "path": name}
    return found


def _tree(repo: HfRepo, commit: Commit, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    prefix = folder.rstrip("/") + "/" if folder else ""
    entries = _folders(commit) | {path: _entry(repo, file) for path, file in commit.files.items()}
    return [
        entry
        for path, entry in sorted(entries.items())
        if path.startswith(prefix) and path != prefix and (recursive or "/" not in path[len(prefix) :])
    ]


def _paths_info(repo: HfRepo, commit: Commit, request: Request) -> list[dict[str, Any]]:
    """Return metadata for the paths in a form; a path that does not exist is silently left out."""
    paths = [value for key, value in parse_qsl(request.body.decode()) if key in {"paths", "paths[]"}]
    entries = _folders(commit) | {path: _entry(repo, file) for path, file in commit.files.items()}
    return [entries[path] for path in paths if path in entries]
