"""What is counted of answers."""

from engine.metrics import BOUNDS_S, Histogram, Metrics


def test_a_histogram_counts_up_to_each_bound() -> None:
    """A bound itself belongs below it; what is longer than all is in the last; the sum is theirs."""
    histogram = Histogram()
    for took_s in (0.0, BOUNDS_S[0], BOUNDS_S[0] * 1.01, 10.0, 11.0):
        histogram.observe(took_s)
    cumulated = dict(histogram.cumulated())
    assert (cumulated["0.0005"], cumulated["0.001"], cumulated["10.0"], cumulated["+Inf"]) == (2, 3, 4, 5)
    assert histogram.sum_s == sum((0.0, BOUNDS_S[0], BOUNDS_S[0] * 1.01, 10.0, 11.0))
    counts = [count for _, count in histogram.cumulated()]
    assert counts == sorted(counts)


def test_labels_are_of_closed_sets() -> None:
    """A method that nobody knows is `other`."""
    metrics = Metrics()
    metrics.count_request("/ingest", "BREW", 405, 0.1)
    metrics.count_request("/stream", "GET", 400)
    assert dict(metrics.requests) == {("/ingest", "other", 405): 1, ("/stream", "GET", 400): 1}
    assert list(metrics.durations) == ["/ingest"]
