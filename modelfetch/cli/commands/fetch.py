"""``modelfetch fetch``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import common, options
from modelfetch.core.digest import Digest
from modelfetch.core.report import ArtifactReport, ModelReport, Report, failed
from modelfetch.errors import ModelfetchError, exit_code_of
from modelfetch.render.progress import make_progress

if TYPE_CHECKING:
    from modelfetch.core.cancel import Cancel
    from modelfetch.core.events import Sink
    from modelfetch.manifest.uri import Uri
    from modelfetch.pipeline.retrieve import Retrieved


class _DigestType(click.ParamType[Digest]):
    name = "digest"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Digest:
        """Text to a digest."""
        if isinstance(value, Digest):
            return value
        try:
            return Digest.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("fetch")
@click.argument("uri")
@options.option(
    "--digest", metavar="DIGEST", type=_DigestType(), help="What the bytes must be: sha256:HEX or blake3:HEX."
)
@options.option("-o", "--output", metavar="PATH", help="Write an ordinary file there instead of the user's cache.")
@options.option("--store", metavar="DIR", help="Keep a blob there as well.")
@options.option("--offline", is_flag=True, help="Ask nobody: fail where something is missing.")
@options.option("--refresh", is_flag=True, help="Ask again even where the cache knows the URI.")
@options.transfers
@options.output
@click.pass_context
def command(ctx: click.Context, /, uri: str, **values: Any) -> int:
    """Fetch one file and verify it.

    Prints the path, in the user's cache unless -o says otherwise.
    """
    got: list[Retrieved] = []
    progress = make_progress(values["progress"], verbose=values["verbose"], quiet=values["quiet"])

    async def start(cancel: Cancel) -> Report:
        return await _fetch(uri, values, progress, cancel, got)

    try:
        report = common.run_until_signal(start)
    finally:
        progress.close()
    return common.show(report, as_json=values["as_json"], text=(lambda: str(got[0].path)) if got else None)


async def _fetch(uri: str, values: dict[str, Any], sink: Sink, cancel: Cancel, got: list[Retrieved]) -> Report:
    import asyncio
    import time

    from modelfetch.config.options import Options
    from modelfetch.config.settings import Settings
    from modelfetch.pipeline import retrieve as retrieval
    from modelfetch.pipeline.session import Session

    started = time.monotonic()
    parsed: Uri | None = None
    target = Path(values["output"]) if values["output"] else None
    try:
        settings = Settings.from_env(os.environ)
        parsed = retrieval.as_uri(uri, settings)
        session = Session(_options(values, settings.cache_path(), target, Options), settings, sink=sink, cancel=cancel)
        try:
            if target is None:
                found = await retrieval.into_cache(session, parsed, values["digest"])
            else:
                found = await retrieval.to_path(session, parsed, values["digest"], target, keep=bool(values["store"]))
        finally:
            await session.close()
    except ModelfetchError as error:
        # A text that is no URI is not repeated: somebody may have written a password into it.
        about = error.about(uri=str(parsed)) if parsed is not None else error
        return failed([about], tier=None, root="", seconds=time.monotonic() - started)
    except asyncio.CancelledError:
        if not cancel.is_set():
            raise
        return failed([cancel.error()], tier=None, root="", seconds=time.monotonic() - started)
    got.append(found)
    return _report(found, session.requests, time.monotonic() - started)


def _options(values: dict[str, Any], cache: Path, target: Path | None, make: Any) -> Any:
    from modelfetch.pipeline.retrieve import workplace

    store = Path(values["store"]) if values["store"] else None
    if target is not None:
        work = workplace(target)
        store = store or work
    names = ("offline", "refresh", "jobs", "connections", "limit_rate", "retries", "lock_timeout")
    return make(root=cache, store=store, **{name: values[name] for name in names})


def _report(found: Retrieved, requests: int, seconds: float) -> Report:
    line = ArtifactReport(
        uri=found.uri,
        served_by=found.served_by if found.action in ("fetched", "resumed") else None,
        digest=str(found.digest),
        size=found.size,
        action=found.action,
        bytes_fetched=found.bytes_fetched,
        placements=(str(found.path),),
    )
    return Report(
        ok=True,
        exit_code=exit_code_of(()),
        tier=None,
        root=str(found.path.parent),
        seconds=seconds,
        bytes_fetched=found.bytes_fetched,
        requests=requests,
        models=(ModelReport(name=found.path.name, ok=True, artifacts=(line,)),),
    )
