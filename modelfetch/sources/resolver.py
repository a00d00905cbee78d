"""All sources behind one interface: selects the source of a URI and runs it in a worker thread, with retries."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from modelfetch.core.events import Notice
from modelfetch.core.urls import credential_fields
from modelfetch.core.workers import run_in_thread
from modelfetch.errors import IntegrityError, UnreachableError
from modelfetch.http.auth import Credentials
from modelfetch.http.retry import RetryTiming, retry
from modelfetch.manifest.uri import CivitaiUri, HfUri
from modelfetch.sources.answers import FIRST_BYTE, check_file, is_elsewhere, total_size
from modelfetch.sources.factory import canonical_uri, make_source
from modelfetch.sources.pages import refuse_page

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from modelfetch.config.settings import Settings
    from modelfetch.core.artifact import Artifact, Resolution
    from modelfetch.core.cancel import Cancel
    from modelfetch.core.events import Sink
    from modelfetch.errors import ModelfetchError
    from modelfetch.http import Http
    from modelfetch.manifest.uri import Uri
    from modelfetch.sources.base import Source, SourceRequest

T = TypeVar("T")

ATTEMPT_LIMIT = 180.0
"""Time limit for one attempt to query a source, in seconds, however slowly the response arrives."""


class Sources:
    """The sources of one session.

    Args:
        http: The HTTP client; its request count includes requests sent by huggingface_hub.
        settings: The environment's settings.
        retries: Attempts for temporary failures.
        sink: Receives a notice for each retry, and for each URL that contains a credential.
        sleep: Waits between attempts.
        timing: The intervals between them.
    """

    def __init__(
        self,
        *,
        http: Http,
        settings: Settings,
        retries: int = 5,
        sink: Sink | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        timing: RetryTiming | None = None,
    ) -> None:
        self._timing = timing
        self._http = http
        self._settings = settings
        self._retries = retries
        self._sink = sink
        self._sleep = sleep
        self._made: dict[str, Source[Any]] = {}
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    async def resolve(self, wanted: SourceRequest, *, retries: int | None = None) -> Resolution:
        """Return the files of a URI, as its source reports them.

        Args:
            wanted: The request.
            retries: Number of attempts, if different from the session's.

        Raises:
            ModelfetchError: They do not exist (66), access is denied (77), the source can't be reached or requests are
                disabled (69), its answer is invalid or contradicts the manifest (65), or it is rate limited (75).
        """
        uri = canonical_uri(wanted.uri, self._settings)
        self._warn_of_credentials(wanted.uri, uri)
        source = self._source(uri)

        def on_retry(error: ModelfetchError, delay: float) -> None:
            if self._sink is not None:
                # Many models of an unreachable hub produce the same notice; renderers show it once.
                about = "" if "://" in error.message else f"{wanted.uri}: "
                text = f"{about}{error.message}; retrying in {delay:.0f} s"
                self._sink(Notice(level="info", message=text))

        return await retry(
            lambda: _within_limit(lambda: source.resolve(uri, wanted, offline=self._settings.offline)),
            retries=self._retries if retries is None else retries,
            sleep=self._sleep,
            on_retry=on_retry,
            timing=self._timing,
        )

    def probe(self, wanted: SourceRequest, artifact: Artifact, cancel: Cancel | None = None) -> None:
        """Request the first byte of an artifact of ``wanted`` at its first location. Blocks.

        Raises:
            ModelfetchError: It is not available there, or differs from the manifest.
        """
        location, uri = artifact.locations[0], canonical_uri(wanted.uri, self._settings)
        if location.is_local:
            return
        url = location.url
        with self._http.open("GET", url, headers=FIRST_BYTE, cancel=cancel) as response:
            if not 200 <= response.status < 300 and not is_elsewhere(response, url):
                error = self._source(uri).explain(response, uri)
                if error is not None:
                    raise error
            path = "" if artifact.weights else artifact.path
            refuse_page(
                response,
                artifact.uri,
                path=path,
                size=artifact.size,
                digest=artifact.digest,
                weights=artifact.weights,
            )
            check_file(response, url, what=artifact.uri, uri=artifact.uri)
            size = total_size(response)
            response.drain()
        if size is not None and artifact.size is not None and size != artifact.size:
            raise IntegrityError(
                f"{artifact.uri} has {size} bytes upstream, expected {artifact.size}",
                code="size-mismatch",
                hint="the file was changed upstream: `--refresh` resolves it again, unless the manifest pins it",
            )

    def _source(self, uri: Uri) -> Source[Any]:
        with self._lock:
            scheme = uri.scheme
            if scheme not in self._made:
                self._made[scheme] = make_source(scheme, self._http, self._settings)
            return self._made[scheme]

    def _warn_of_credentials(self, written: Uri, uri: Uri) -> None:
        """Warn once about a URL that contains a credential, and use the token of a CivitAI link."""
        token = uri.token if isinstance(uri, CivitaiUri) else None
        fields = ("token",) if token else credential_fields(written.text)
        if token is not None and isinstance(self._http.auth, Credentials):
            self._http.auth.use_civitai_token(token)
        with self._lock:
            if not fields or self._sink is None or str(written) in self._warned:
                return
            self._warned.add(str(written))
        message = f"{written}: its address holds what looks like a credential ({', '.join(fields)})"
        if isinstance(uri, CivitaiUri):
            instead = "set CIVITAI_API_TOKEN"
        elif isinstance(uri, HfUri):
            instead = "set HF_TOKEN"
        else:
            instead = (
                f"add a line for {urlsplit(written.text).hostname} to ~/.netrc, which becomes an Authorization header,"
            )
        self._sink(Notice(level="warning", message=message, hint=f"{instead} and leave it out of the address"))


async def _within_limit(work: Callable[[], T]) -> T:
    """Run one attempt in a thread.

    Raises:
        UnreachableError: It took too long (``timeout``).
        Exception: Any exception of ``work``.
    """
    try:
        return await asyncio.wait_for(run_in_thread(work), ATTEMPT_LIMIT)
    except TimeoutError:
        raise UnreachableError(f"no complete answer within {ATTEMPT_LIMIT:.0f} s", code="timeout") from None
