"""All sources behind one door: who answers for which URI, off the loop's thread, again where that helps."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from modelfetch.core.events import Notice
from modelfetch.errors import UnreachableError
from modelfetch.sources.base import display_uri
from modelfetch.sources.factory import canonical_uri, make_source
from modelfetch.sources.retry import retry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from modelfetch.config.settings import Settings
    from modelfetch.core.artifact import Resolution
    from modelfetch.core.events import Sink
    from modelfetch.errors import ModelfetchError
    from modelfetch.http import Http
    from modelfetch.manifest.uri import Uri
    from modelfetch.sources.base import ReadBlob, Source, SourceRequest

T = TypeVar("T")

ATTEMPT_LIMIT = 180.0
"""Seconds that one attempt to ask a source may take in all, however slowly its answer trickles."""


class Sources:
    """What all sources share for the length of a session: the client, what was learned, the patience.

    Args:
        http: The one client; its count of requests includes those that huggingface_hub sends.
        settings: What the environment says.
        retries: How many attempts a question gets while its failures may pass.
        sink: Hears when a source has to be asked again.
        sleep: Waits between attempts.
    """

    def __init__(
        self,
        *,
        http: Http,
        settings: Settings,
        retries: int = 5,
        sink: Sink | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._http = http
        self._settings = settings
        self._retries = retries
        self._sink = sink
        self._sleep = sleep
        self._made: dict[str, Source[Any]] = {}
        self._lock = threading.Lock()

    async def resolve(self, wanted: SourceRequest, *, retries: int | None = None) -> Resolution:
        """Ask the source of a URI what its files are.

        Args:
            wanted: What is asked.
            retries: How many attempts, where not as many as all questions get.

        Raises:
            ModelfetchError: Upstream does not have them (66), refuses (77), can't be reached or must not be asked (69),
                answers nonsense or what the manifest contradicts (65), or wants to be asked later (75).
        """
        uri = canonical_uri(wanted.uri, self._settings)
        source = self._source(uri)

        def on_retry(error: ModelfetchError, delay: float) -> None:
            if self._sink is not None:
                # Many models of one hub that is away say the same: whoever shows it, shows it once.
                about = "" if "://" in error.message else f"{display_uri(str(wanted.uri))}: "
                text = f"{about}{error.message}; asking again in {delay:.0f} s"
                self._sink(Notice(level="info", message=text))

        return await retry(
            lambda: in_thread(lambda: source.resolve(uri, wanted, offline=self._settings.offline), limit=ATTEMPT_LIMIT),
            retries=self._retries if retries is None else retries,
            sleep=self._sleep,
            on_retry=on_retry,
        )

    def known(self, wanted: SourceRequest, read_blob: ReadBlob) -> Resolution | None:
        """What the manifest alone tells, without any request; None where a source must be asked."""
        return self._source(wanted.uri).known(wanted.uri, wanted, read_blob)

    def _source(self, uri: Uri) -> Source[Any]:
        with self._lock:
            scheme = uri.scheme
            if scheme not in self._made:
                self._made[scheme] = make_source(scheme, self._http, self._settings)
            return self._made[scheme]


async def in_thread(work: Callable[[], T], *, limit: float) -> T:
    """Run blocking work in a thread of its own; when the task is cancelled, nobody waits for the thread.

    Raises:
        UnreachableError: It took longer than ``limit`` seconds (``timeout``).
        Exception: Whatever ``work`` raises.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(deliver: Callable[[], None]) -> None:
        if not future.done():
            deliver()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            failure = error  # handed over, whatever it is

            def deliver() -> None:
                future.set_exception(failure)
        else:

            def deliver() -> None:
                future.set_result(result)

        # A loop that is closed by now has nobody waiting any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, deliver)

    threading.Thread(target=run, name="modelfetch-source", daemon=True).start()
    try:
        return await asyncio.wait_for(future, limit)
    except TimeoutError:
        raise UnreachableError(f"no whole answer within {limit:.0f} s", code="timeout") from None
