"""``modelfetch list``."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import click

from modelfetch.cli import common, options
from modelfetch.render.care import list_table
from modelfetch.render.out import put

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelfetch.care.inventory import Item
    from modelfetch.care.listing import Listing
    from modelfetch.core.report import Report
    from modelfetch.pipeline.session import Session


def _filter(text: object) -> Callable[[Item], bool]:
    from modelfetch.care.listing import parse_filter

    return parse_filter(str(text))


def _sort(text: object) -> tuple[str, bool]:
    from modelfetch.care.listing import parse_sort

    return parse_sort(str(text))


@click.command("list")
@options.folder_options
@options.option(
    "--filter",
    "filters",
    metavar="EXPRESSION",
    multiple=True,
    type=options.Parsed("filter", _filter),
    help="Only entries such as 'size>1GB', 'verified>30d', 'origin=foreign', 'model=sdxl*', 'for=ollama', 'tier=16g'; "
    "repeatable.",
)
@options.option(
    "--sort",
    metavar="KEY[:asc|:desc]",
    type=options.Parsed("sort", _sort),
    default="model",
    show_default=True,
    help="Order: model, size, verified or path.",
)
@options.option("--limit", metavar="N", help="Show at most N rows; the totals cover everything.")
@options.option("--files", is_flag=True, help="Show a row for each file.")
@options.accept_hidden(options.strict_options)
@options.accept_hidden(options.transfer_options)
@options.accept_hidden(options.progress)
@options.accept_hidden(options.verbose)
@options.option("--json", "as_json", is_flag=True, help="Print the entries as JSON on stdout.")
@options.option("-q", "--quiet", is_flag=True, help="Show only the names of models.")
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> int:
    """List everything below the root and in the store, and what could be freed.

    PATHS counts files and links on disk; `status` counts the files of a model. A file's origin is made (by modelfetch),
    adopted (already there, with the right bytes), foreign (not made by modelfetch), blob (only in the store) or partial
    (an unfinished download).
    """

    def work(session: Session) -> tuple[Report, Listing]:
        from modelfetch.care.listing import list_files

        return session.report(), list_files(
            session, filters=values["filters"], sort=values["sort"], limit=values["limit"]
        )

    report, found = common.perform_detailed(
        ctx, lambda _, session: asyncio.to_thread(work, session), may_be_unnamed=True
    )
    if found is None:
        return common.show(report, as_json=values["as_json"])
    if values["as_json"]:
        put(json.dumps(found.as_dict()))
    elif values["quiet"]:
        names = dict.fromkeys(items[0].model for items in found.rows() if items[0].model)
        put("\n".join(list(names)[: values["limit"]]))
    else:
        put(list_table(found, files=values["files"]))
    return 0
