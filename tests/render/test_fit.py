"""The table of `fit`."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from modelfetch.errors import FitError
from modelfetch.fitting.types import Estimate, FitReport, ServiceFit
from modelfetch.formats.range_reader import GIB
from modelfetch.render.fit import render_table, subject


def one(name: str, needed: float, budget: float | None = None, **kwargs: object) -> ServiceFit:
    size = int(needed * GIB)
    model = Estimate(name=f"{name}-model", uri="u", weights=size, method="header")
    limit = None if budget is None else int(budget * GIB)
    return ServiceFit(service=name, budget=limit, needed=size, models=(model,), **kwargs)  # type: ignore[arg-type]


def report(*services: ServiceFit, usable: float | None = 10, errors: tuple[FitError, ...] = ()) -> FitReport:
    return FitReport(
        tier="16g",
        usable=None if usable is None else int(usable * GIB),
        needed=sum(fit.needed for fit in services),
        services=services,
        errors=errors,
    )


def lines(*args: object, **kwargs: object) -> list[str]:
    return render_table(report(*args, **kwargs), ascii_only=True).splitlines()  # type: ignore[arg-type]


def test_a_bar_shows_needs_and_budget_relative_to_the_card() -> None:
    shown = lines(one("ollama", 4, 5), one("comfyui", 2, 2))
    assert shown[0] == "tier 16g, 10.00 GiB usable: fits"
    assert shown[2] == "ollama    " + "#" * 16 + "-" * 4 + "." * 20 + "  4.00 GiB of 5.00 GiB  fits".rjust(30)[2:]
    assert "#" * 8 + "." * 32 in shown[4]
    assert shown[-1] == "together  " + "#" * 24 + "-" * 16 + "  6.00 GiB of 10.00 GiB"


def test_needs_over_the_budget_are_highlighted() -> None:
    shown = lines(one("ollama", 5, 4))
    assert "#" * 16 + "!" * 4 + "." * 20 in shown[2]
    assert shown[2].endswith("too much")


def test_the_smallest_excess_and_the_smallest_need_are_visible() -> None:
    shown = lines(one("ollama", 5.01, 5), one("whisper", 0.01, 1))
    assert "!" in shown[2]
    assert shown[4].split()[1].startswith("#-")


def test_every_bar_is_as_wide_as_the_others() -> None:
    shown = render_table(report(one("a", 40, 3), one("b", 1, 30), one("c", 0))).splitlines()
    bars = [bar for line in shown for bar in re.findall(r"[█▓░·]+", line)]
    assert [len(bar) for bar in bars] == [40] * 4


def test_methods_parts_and_the_margin_are_shown_below_the_bar() -> None:
    model = Estimate(
        name="llama3.1:8b",
        uri="u",
        weights=4 * GIB,
        kv=GIB,
        compute=None,
        overhead=GIB // 2,
        method="size",
        margin=7 * GIB,
        assumptions={"context": 4096, "parallel": 2, "kv_type": "q8_0", "flash_attention": True, "notes": ["a note"]},
        unknown=("x",),
    )
    fit = ServiceFit(service="ollama", budget=None, needed=model.needed, models=(model,), sure=False)
    text = render_table(report(fit, errors=(FitError("unknown", code="unknown-model", hint="look"),)))
    assert "llama3.1:8b: weights 4.00 GiB + KV cache 1.00 GiB + compute unknown + driver 512.0 MiB" in text
    assert "weights bounded by the file's size; 4096 tokens x 2, q8_0, flash attention" in text
    assert "7.00 GiB more must be free while it loads" in text
    assert "note: a note" in text
    assert "at least 12.50 GiB" in text
    assert text.startswith("tier 16g, 10.00 GiB usable: unknown whether it fits")
    assert text.endswith("problem: unknown\nhint: look\n")


def test_the_heading_gives_the_verdict() -> None:
    wrong = (FitError("too much"),)
    assert lines(one("a", 1), errors=wrong)[0].endswith(": does not fit")
    assert lines(one("a", 9.9))[0].endswith(": fits, but only 102.4 MiB are left")
    assert lines(one("a", 1), usable=None)[0] == "tier 16g: needs 1.00 GiB"


def test_a_manifest_without_a_tier_is_not_called_a_model() -> None:
    model = Estimate(name="m", uri="u", weights=GIB, kv=0, compute=0, overhead=0, method="header")
    service = ServiceFit(service="ollama", budget=None, needed=GIB, models=(model,))
    assert subject(replace(report(service), tier=None)) == "this model"
    assert subject(replace(report(replace(service, models=())), tier=None)) == "this manifest"
    assert subject(replace(report(service, service), tier=None)) == "this manifest"


def test_exclusive_groups_and_services_on_the_cpu_are_marked() -> None:
    shown = lines(one("a", 1, 2, exclusive="image"), one("b", 0, on_cpu=True))
    assert shown[2].endswith("fits (in turn: image)")
    assert "on the CPU" in shown[4]


@pytest.mark.parametrize("columns", [50, 80])
def test_on_a_narrow_terminal_nothing_is_wider_than_that(columns: int) -> None:
    group = one("stable-diffusion", 6.42, 6.5, exclusive="image")
    model = Estimate(name="m" * 20, uri="u", weights=GIB, kv=GIB, compute=GIB, overhead=GIB, method="header")
    chat = ServiceFit(service="ollama", budget=4 * GIB, needed=model.needed, models=(model,))
    text = render_table(report(chat, group, usable=15), width=columns)
    assert max(map(len, text.splitlines())) <= columns
    assert "m" * 20 in text
