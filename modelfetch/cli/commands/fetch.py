"""``modelfetch fetch``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import common, options
from modelfetch.core.digest import Digest
from modelfetch.core.report import ArtifactReport, ModelReport
from modelfetch.errors import ModelfetchError, UsageError

if TYPE_CHECKING:
    from modelfetch.config.options import Options
    from modelfetch.config.settings import Settings
    from modelfetch.core.report import Report
    from modelfetch.pipeline.retrieve import Retrieved
    from modelfetch.pipeline.session import Session


@click.command("fetch")
@click.argument("uri")
@options.option(
    "--digest",
    metavar="DIGEST",
    type=options.Parsed("digest", lambda value: Digest.parse(str(value))),
    help="Expected digest: sha256:HEX or blake3:HEX.",
)
@options.option(
    "-o",
    "--output",
    metavar="PATH",
    type=options.value("path"),
    help="Write an ordinary file to PATH instead of into the user's cache.",
)
@options.option("--force", is_flag=True, help="With -o: replace an existing file.")
@options.option("--store", metavar="DIR", help="Store in which to keep the file as a blob, too.")
@options.offline
@options.option("--refresh", is_flag=True, help="Query the source even if the cache knows the URI.")
@options.accept_hidden(options.download_options, keep=("connections", "limit_rate", "retries", "lock_timeout"))
@options.output_options
@click.pass_context
def command(ctx: click.Context, /, uri: str, **values: Any) -> int:
    """Download one file and verify it.

    Prints the path, in the user's cache unless -o names another.
    """
    from modelfetch.config.options import parse_options
    from modelfetch.pipeline.output import Output, check_output, fetch_to, work_folder
    from modelfetch.pipeline.retrieve import as_uri, into_cache
    from modelfetch.pipeline.run import run_session

    target: Path | None = values["output"]
    if str(target) == "-":
        raise UsageError(
            "-o -: expected the path of a file: bytes are printed only once they are verified",
            hint='without -o the path is printed: cat "$(modelfetch fetch URI)"',
        )

    def make_options(settings: Settings) -> Options:
        given = common.option_values(ctx)
        if target is not None:
            check_output(target)
            given["store"] = given["store"] or work_folder(target)
        return parse_options({**given, "root": settings.cache_path()})

    async def work(session: Session) -> Report:
        parsed = as_uri(uri, session.settings)  # an invalid URI is not repeated in the error: it may contain a password
        try:
            if target is None:
                found = await into_cache(session, parsed, values["digest"])
            else:
                output = Output(path=target, uri=parsed, keep=bool(values["store"]), force=values["force"])
                found = await fetch_to(output, session, values["digest"])
        except ModelfetchError as error:
            raise error.about(uri=str(parsed)) from error.__cause__
        return _report(found, session)

    report = common.run(ctx, partial(run_session, make_options, work))
    path = str(Path(report.root, report.models[0].name)) if report.models else ""
    return common.show(report, as_json=values["as_json"], text=path)


def _report(found: Retrieved, session: Session) -> Report:
    artifact = ArtifactReport(
        uri=found.uri,
        served_by=found.served_by,
        digest=str(found.digest),
        size=found.size,
        action=found.action,
        bytes_fetched=found.bytes_fetched,
        placements=(found.path.name,),
    )
    model = ModelReport(name=found.path.name, ok=True, artifacts=(artifact,))
    return replace(session.report([model], bytes_fetched=found.bytes_fetched), root=str(found.path.parent))
