"""The objects that one command shares: store, HTTP client, sources, engine, placer; each is created on first use.

A `sync` that finds everything in place creates none of the costly ones: it opens no connection and imports no client.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

from modelfetch.core.cancel import Cancel
from modelfetch.core.collector import short_collections
from modelfetch.core.directories import own_folder
from modelfetch.core.events import Sink, discard
from modelfetch.core.report import ModelReport, Report
from modelfetch.errors import DestinationError, DiskError, ModelfetchError, RetryLaterError, exit_code_of
from modelfetch.placement import Inspector, Placer, RootTree
from modelfetch.placement.consumer_dirs import find_consumer_dirs
from modelfetch.store import Store
from modelfetch.store.locks.gate import adding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from modelfetch.config.options import Options
    from modelfetch.config.settings import Settings
    from modelfetch.http import Http
    from modelfetch.manifest.model import Manifest
    from modelfetch.pipeline.local_files import LocalFiles
    from modelfetch.sources import Sources
    from modelfetch.store.locks.lock import Held, LockOptions
    from modelfetch.transfer import Engine


class Session:
    """The shared objects of one command.

    Args:
        options: The command's options.
        settings: The environment's settings.
        sink: Receives events.
        cancel: Ends all work when it is set.

    Attributes:
        report_interruption: Builds the report if the work is cancelled; None before there is anything to report.
    """

    def __init__(
        self, options: Options, settings: Settings, *, sink: Sink = discard, cancel: Cancel | None = None
    ) -> None:
        self._started = time.monotonic()
        self.options = options
        self.settings = replace(settings, offline=True) if options.offline else settings
        self.sink = sink
        self.cancel = cancel or Cancel()
        self._collections = ExitStack()
        self._blocked_removals = ExitStack()
        self._blocked_folders: dict[Path, Held] = {}
        self.report_interruption: Callable[[], Report] | None = None

    def block_removals(self, *, make: bool = False) -> None:
        """Keep `prune` and `remove` of other processes waiting until `allow_removals` or the end; blocks.

        If a folder is not writable, nothing can be removed from it either, so that is no error.

        Args:
            make: Whether to make folders that do not exist yet; without it, there is nothing in them to be removed.

        Raises:
            RetryLaterError: A removal took longer than the time-out.
            InterruptedSync: It was cancelled.
        """
        for folder in dict.fromkeys((own_folder(self.options.root), self.options.store_path)):
            if folder in self._blocked_folders or not (make or folder.is_dir()):
                continue
            guard = adding(folder / "locks", **self.lock_options)
            with suppress(DestinationError, DiskError):
                self._blocked_folders[folder] = self._blocked_removals.enter_context(guard)

    def allow_removals(self) -> None:
        """Allow `prune` and `remove` of other processes again."""
        self._blocked_removals.close()
        self._blocked_folders.clear()

    def _reason_of(self, error: BaseException | None) -> RetryLaterError | None:
        """Return the error for what a disk error is due to: another process took over while this one was suspended.

        None if that is not the reason, or for any other error.
        """
        is_of_disk = isinstance(error, OSError) or (isinstance(error, ModelfetchError) and error.code == "io-error")
        if not is_of_disk or all(held.still_owned() for held in self._blocked_folders.values()):
            return None
        message = "another process changed files while this one was suspended"
        found = RetryLaterError(message, code="lock-timeout", hint="run it again")
        return found.about(model=error.model, uri=error.uri) if isinstance(error, ModelfetchError) else found

    @property
    def lock_options(self) -> LockOptions:
        """How long to wait for locks of other processes, where to show it, and what ends the wait."""
        return {"timeout": self.options.lock_timeout, "sink": self.sink, "cancel": self.cancel}

    @cached_property
    def store(self) -> Store:
        """The store of verified blobs."""
        return Store(self.options.store_path, sink=self.sink)

    @cached_property
    def inspector(self) -> Inspector:
        """Reads what exists below ROOT."""
        tree = RootTree(self.options.root, self.consumer_dirs)
        return Inspector(tree, self.cancel, store=self.store, sink=self.sink)

    @cached_property
    def consumer_dirs(self) -> Mapping[str, Path]:
        """Consumers' folders outside ROOT; raises as `find_consumer_dirs` does."""
        options = self.options
        return find_consumer_dirs(
            options.root, dict(options.consumer_dirs), consumers=options.consumers, sink=self.sink
        )

    @cached_property
    def local_files(self) -> LocalFiles:
        """Files elsewhere on this machine that need not be fetched."""
        from modelfetch.pipeline.local_files import LocalFiles

        return LocalFiles(self.options.root, self.settings.hf_cache)

    @cached_property
    def http(self) -> Http:
        """The HTTP client."""
        from modelfetch.http import Http
        from modelfetch.http.auth import Credentials

        settings = self.settings
        return Http(allow_http=settings.allows_http, rewrites=settings.mirrors, auth=Credentials(settings))

    @cached_property
    def sources(self) -> Sources:
        """Resolves models to their files."""
        from modelfetch.sources import Sources

        return Sources(http=self.http, settings=self.settings, retries=self.options.retries, sink=self.sink)

    @cached_property
    def engine(self) -> Engine:
        """Fetches artifacts into the store."""
        from modelfetch.transfer import Engine

        return Engine(http=self.http, store=self.store, options=self.options, sink=self.sink, cancel=self.cancel)

    @cached_property
    def placer(self) -> Placer:
        """Places blobs where services expect them."""
        return Placer(
            self.options.root,
            self.store,
            inspector=self.inspector,
            owner=self.options.chown,
            lock_timeout=self.options.lock_timeout,
            sink=self.sink,
            cancel=self.cancel,
        )

    def report(
        self,
        models: Iterable[ModelReport] = (),
        errors: Iterable[ModelfetchError] = (),
        *,
        manifests: Sequence[Manifest] = (),
        is_bad: bool = False,
        bytes_fetched: int = 0,
    ) -> Report:
        """Build the report of this command; ``is_bad``: it fails even without an error, with exit code 1."""
        errors = tuple(self._reason_of(error) or error for error in errors)
        return Report(
            ok=not errors and not is_bad,
            exit_code=exit_code_of(errors) or int(is_bad),
            tier=manifests[0].tier if manifests else None,
            root=str(self.options.root),
            seconds=time.monotonic() - self._started,
            bytes_fetched=bytes_fetched,
            requests=self.requests,
            models=tuple(models),
            errors=errors,
        )

    @property
    def requests(self) -> int:
        """The number of requests sent so far."""
        return self.http.requests if "http" in self.__dict__ else 0

    @property
    def bytes_received(self) -> int:
        """The bytes that transfers received so far, also those that have not ended."""
        return self.engine.bytes_received if "engine" in self.__dict__ else 0

    async def __aenter__(self) -> Self:
        self._collections.enter_context(short_collections())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Cancel work in threads if the block was interrupted, and close everything that was opened.

        Raises:
            RetryLaterError: The block ended with a disk error because another process had taken over.
        """
        if kind is not None and not issubclass(kind, Exception):
            self.cancel.set()
        reason = self._reason_of(error)
        with self._collections:
            await self.close()
        if reason is not None:
            raise reason from error

    async def close(self) -> None:
        """Close everything that was opened."""
        self.allow_removals()
        if "engine" in self.__dict__:
            await self.engine.close()
        if "http" in self.__dict__:
            self.http.close()
