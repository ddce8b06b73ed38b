"""The settings of spans: part of `Settings`, which reads them.

Rules of the file:
- OpenTelemetry's own names, and what they mean there. The exporter reads those that only it needs by itself:
  OTEL_EXPORTER_OTLP_HEADERS, _TIMEOUT, _COMPRESSION, _CERTIFICATE and their likes, OTEL_RESOURCE_ATTRIBUTES.
"""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from engine.spans import Sampling, sampling_of


def _collector_url(value: str) -> str:
    parts = urlsplit(value)
    if value and (parts.scheme not in {"http", "https"} or not parts.hostname):
        raise ValueError("expected http://host:port or https://…")
    return value


class SpanSettings(BaseSettings):
    """Where spans go, and which."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    otlp_url: Annotated[str, AfterValidator(_collector_url)] = Field(
        "",
        alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="a collector that takes spans as OTLP over HTTP; empty sends none",
    )
    otlp_traces_url: Annotated[str, AfterValidator(_collector_url)] = Field(
        "", alias="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", description="the same, as the whole URL for spans"
    )
    spans_exporter: Literal["otlp", "none"] = Field(
        "otlp", alias="OTEL_TRACES_EXPORTER", description="`none` sends none, whatever the others say"
    )
    spans_disabled: Literal["true", "false"] = Field(
        "false", alias="OTEL_SDK_DISABLED", description="`true` sends none, whatever the others say"
    )
    service_name: str = Field("", alias="OTEL_SERVICE_NAME", description="who sends the spans; empty means headgate")
    sampler: Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ] = Field("parentbased_always_on", alias="OTEL_TRACES_SAMPLER", description="which traces are told")
    sampler_ratio: float = Field(
        1.0, alias="OTEL_TRACES_SAMPLER_ARG", ge=0, le=1, description="share of the traces that begin here, 0 to 1"
    )
    spans_every_ms: int = Field(
        5000,
        alias="OTEL_BSP_SCHEDULE_DELAY",
        ge=10,
        le=600_000,
        description="how long a span waits for others, milliseconds",
    )
    spans_queue: int = Field(
        2048,
        alias="OTEL_BSP_MAX_QUEUE_SIZE",
        ge=1,
        le=1_000_000,
        description="spans that may wait; more are dropped and counted",
    )
    spans_batch: int = Field(
        512,
        alias="OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        ge=1,
        le=100_000,
        description="most spans in one request to the collector",
    )

    @property
    def spans_url(self) -> str:
        """Where spans go, empty when nowhere."""
        if self.spans_exporter == "none" or self.spans_disabled == "true":
            return ""
        return self.otlp_traces_url or (self.otlp_url and f"{self.otlp_url.rstrip('/')}/v1/traces")

    @property
    def sampling(self) -> Sampling:
        """Which traces are told."""
        return sampling_of(self.sampler, self.sampler_ratio)
