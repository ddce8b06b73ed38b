"""What is counted of answers."""

from engine.metrics import AGE_BOUNDS_S, BOUNDS_S, COUNT_BOUNDS, Histogram, Metrics


def test_a_histogram_counts_up_to_each_bound() -> None:
    """A bound itself belongs below it; what is longer than all is in the last; the sum is theirs."""
    histogram = Histogram()
    for took_s in (0.0, BOUNDS_S[0], BOUNDS_S[0] * 1.01, 10.0, 11.0):
        histogram.observe(took_s)
    cumulated = dict(histogram.cumulated())
    assert (cumulated["0.0005"], cumulated["0.001"], cumulated["10.0"], cumulated["+Inf"]) == (2, 3, 4, 5)
    assert histogram.total == sum((0.0, BOUNDS_S[0], BOUNDS_S[0] * 1.01, 10.0, 11.0))
    counts = [count for _, count in histogram.cumulated()]
    assert counts == sorted(counts)


def test_a_histogram_may_be_of_anything() -> None:
    """Its bounds are its own; whole numbers stay whole in their labels."""
    histogram = Histogram(COUNT_BOUNDS)
    for count in (1, 3, 2000):
        histogram.observe(count)
    assert histogram.cumulated()[:3] == [("1", 1), ("2", 1), ("5", 2)]
    assert histogram.cumulated()[-1] == ("+Inf", 3)
    assert list(AGE_BOUNDS_S) == sorted(AGE_BOUNDS_S)


def test_labels_are_of_closed_sets() -> None:
    """A method that nobody knows is `other`."""
    metrics = Metrics()
    metrics.count_request("/ingest", "BREW", 405, 0.1)
    metrics.count_request("/stream", "GET", 400)
    assert dict(metrics.requests) == {("/ingest", "other", 405): 1, ("/stream", "GET", 400): 1}
    assert list(metrics.durations) == ["/ingest"]
