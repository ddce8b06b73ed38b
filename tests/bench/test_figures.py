"""Percentiles, medians and ratios are what they are called."""

import math

from bench.figures import Report, Row, Target, percentile


def test_percentile_is_a_value_that_was_measured() -> None:
    """The nearest rank: the smallest value that the share of all are not above."""
    values = [float(value) for value in range(1, 101)]
    assert percentile(values, 0.5) == 50.0
    assert percentile(values, 0.99) == 99.0
    assert percentile(values, 1.0) == 100.0
    assert percentile([7.0], 0.001) == 7.0
    assert math.isnan(percentile([], 0.5))


def test_row_gives_median_and_spread_over_its_rounds() -> None:
    """A figure keeps every round."""
    row = Row("case", "headgate", "fsync", "closed loop")
    for value in (3.0, 1.0, 2.0):
        row.add(latency_p50_ms=value)
    figure = row.as_json()["figures"]["latency_p50_ms"]
    assert figure == {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": [3.0, 1.0, 2.0]}
    assert math.isnan(row.median("never_measured"))


def test_ratio_is_ours_over_theirs() -> None:
    """A ratio says which side stands above the line, and survives a zero below it."""
    ours, theirs = (Row("case", side, "fsync", "load") for side in ("headgate", "raw"))
    ours.add(events_per_s=50.0, refused=0.0)
    theirs.add(events_per_s=100.0, refused=0.0)
    report = Report("ingest", "", "")
    report.compare("events_per_s", ours, theirs)
    report.compare("refused", ours, theirs)
    assert [ratio["ratio"] for ratio in report.as_json()["ratios"]] == [0.5, None]
    assert report.ratios[0].of == "headgate / raw"


def test_promise_is_kept_on_its_own_side() -> None:
    """More is better for some figures and worse for others; what was not measured is not kept."""
    assert Target("events/s", "fsync", 100.0, 100.0, at_least=True).is_reached
    assert not Target("events/s", "fsync", 100.0, 99.0, at_least=True).is_reached
    assert Target("µs", "fsync", 4.0, 3.9).is_reached
    assert not Target("µs", "fsync", 4.0, math.nan).is_reached
