"""What `make bench-fit` promises."""

from __future__ import annotations

from tests.bench.fit import FAR, lines, median_error


def test_measured_totals_are_near_and_nothing_that_spilled_is_called_a_fit() -> None:
    found = lines()
    assert len(found) == 80
    assert median_error(found) <= 0.08
    assert not [line.row["model"] for line in found if line.spilled and line.fits]


def test_large_deviations_have_an_explanation() -> None:
    assert not [line.row for line in lines() if line.error and abs(line.error) > FAR and line.reason is None]
