"""The targets of `make bench-fit`."""

from __future__ import annotations

from modelfetch.fitting.llm.estimate import LlmOptions, llm_estimate
from modelfetch.formats.range_reader import GIB
from modelfetch.manifest.budget import default_usable
from tests.bench.fit import FAR, header, lines, median_error


def test_measured_totals_are_near_the_estimates_and_no_spilled_model_is_reported_as_fitting() -> None:
    found = lines()
    assert len(found) == 80
    assert median_error(found) <= 0.08
    assert not [line.row["model"] for line in found if line.spilled and line.fits]


def test_large_deviations_have_an_explanation() -> None:
    assert not [line.row for line in lines() if line.error and abs(line.error) > FAR and line.reason is None]


def test_a_context_that_made_a_model_spill_is_not_reported_as_fitting() -> None:
    found = header("qwen3.6:27b")  # the first row's note: 262144 tokens spill on a card of 32 GB
    assert found is not None
    usable = default_usable(32 * GIB)
    assert llm_estimate("m", "u", found, LlmOptions(context=131072)).needed <= usable
    assert llm_estimate("m", "u", found, LlmOptions(context=262144)).needed > usable
