"""``modelfetch adopt``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import common, complete, options
from modelfetch.errors import UsageError
from modelfetch.render.care import adopt_text, dedupe_text

if TYPE_CHECKING:
    from modelfetch.core.report import Report
    from modelfetch.pipeline.session import Session


@click.command("adopt")
@click.argument(
    "folders",
    metavar="DIR...",
    nargs=-1,
    required=True,
    type=options.value("root"),
    shell_complete=complete.folders,
)
@options.accept_hidden(options.folder_options, keep=("root", "store"))
@options.option("--in-place", is_flag=True, help="Only record where the files are, for sync to copy from.")
@options.option("--dedupe", is_flag=True, help="Replace identical files in these folders with links to one blob.")
@options.option(
    "--dry-run/--no-dry-run", default=None, help="With --dedupe: only show what would be linked.  [default: dry run]"
)
@options.accept_hidden(options.strict_options)
@options.accept_hidden(options.transfer_options, keep=("lock_timeout",))
@options.output_options
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> int:
    """Take models that are already on disk into the store, so that they are never downloaded again.

    Reads folders of ComfyUI, AUTOMATIC1111, Forge, Stability Matrix, LM Studio, Ollama and Hugging Face caches. The
    files stay where they are, with their mode and owner; the store shares their bytes. Nothing is copied across file
    systems.
    """
    if common.is_on_command_line(ctx, "dry_run") and not values["dedupe"]:
        raise UsageError("--dry-run requires --dedupe", hint="without --dedupe, no file is changed")
    if values["in_place"] and values["dedupe"]:
        raise UsageError("--in-place and --dedupe can't be used together", hint="run one after the other")

    def work(session: Session) -> tuple[Report, str]:
        from modelfetch.care.adopt import adopt_folders
        from modelfetch.care.dedupe import dedupe_folders

        if values["dedupe"]:
            report, deduped = dedupe_folders(values["folders"], session, apply=values["dry_run"] is False)
            return report, dedupe_text(deduped)
        report, adopted = adopt_folders(values["folders"], session, in_place=values["in_place"])
        return report, adopt_text(adopted, verbose=values["verbose"])

    report, text = common.perform_detailed(
        ctx, lambda _, session: asyncio.to_thread(work, session), may_be_unnamed=True
    )
    return common.show(report, as_json=values["as_json"], text="" if values["quiet"] else text or "")
