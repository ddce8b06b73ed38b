"""What the gateway stands on, as `/metrics` shows it: dependencies, the disk, the certificate, the process.

Rules of the file:
- What is not there has no metric: no disk without engines of its own, no certificate without TLS.

What must change with it: the dashboard and the alerts in `edge/deploy/`; a test holds them to these names.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client import ProcessCollector
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from actors.health import MIB
from edge.health import VERSION

if TYPE_CHECKING:
    from edge.node import Node

_PROCESS: Final = ProcessCollector(registry=None)


def health_metrics(node: "Node") -> Iterator[Metric]:
    """Give them as they are now."""
    up = GaugeMetricFamily("headgate_dependency_up", "1 while a dependency answers.", labels=["dependency"])
    dependencies = node.health.dependencies()
    for name, one in dependencies.items():
        up.add_metric([name], int(one.state == "up"))
    yield up
    if "disk" in dependencies:
        facts = dependencies["disk"].facts
        for name, text, value in (
            ("free", "Room for the embedded engines.", facts["free_mib"]),
            ("limit", "With less room than this the gateway is not ready.", facts["limit_mib"]),
        ):
            if isinstance(value, int):
                yield GaugeMetricFamily(f"headgate_disk_{name}_bytes", text, value=value * MIB)
    if node.metrics.certificate_expires_at is not None:
        yield GaugeMetricFamily(
            "headgate_tls_certificate_expires_timestamp_seconds",
            "End of the life of the certificate in use.",
            value=node.metrics.certificate_expires_at(),
        )
    build = InfoMetricFamily("headgate_build", "The release that runs.")
    build.add_metric([], {"version": VERSION})
    yield build
    yield from _PROCESS.collect()
