"""The settings of how much somebody may ask: part of `Settings`, which reads them.

Rules of the file:
- A quota of 0 switches its policy off.
"""

from ipaddress import ip_network
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from engine.slots import SlotPolicy

_LIMITS: Final = frozenset(
    {
        "rate_limit",
        "query_limit",
        "job_limit",
        "request_limit",
        "uploads_at_once",
        "ingests_at_once",
        "queries_at_once",
    }
)


def _networks(value: str) -> str:
    for one in filter(None, (part.strip() for part in value.split(","))):
        try:
            ip_network(one)
        except ValueError:
            raise ValueError("expected addresses or networks such as 10.0.0.0/8, several by commas") from None
    return value


class LimitSettings(BaseSettings):
    """How much somebody may ask."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    limits: Literal["auto", "off", "on"] = Field(
        "auto",
        alias="HEADGATE_LIMITS",
        description="limits of requests; `auto`: on where authentication is on or a limit below is set",
    )
    rate_limit: int = Field(
        1000,
        alias="RATE_LIMIT",
        ge=0,
        le=1_000_000,
        description="refused credentials, and tokens, a minute and address",
    )
    query_limit: int = Field(
        1000, alias="HEADGATE_QUERY_LIMIT", ge=0, le=1_000_000, description="SQL queries a minute and principal"
    )
    job_limit: int = Field(
        10, alias="HEADGATE_JOB_LIMIT", ge=0, le=1_000_000, description="changes of jobs a minute and principal"
    )
    request_limit: int = Field(
        0,
        alias="HEADGATE_REQUEST_LIMIT",
        ge=0,
        le=10_000_000,
        description="requests of any kind a minute and principal",
    )
    uploads_at_once: int = Field(
        100,
        alias="HEADGATE_UPLOADS_AT_ONCE",
        ge=0,
        le=1_000_000,
        description="uploads at once, of all together; nothing here takes uploads yet",
    )
    ingests_at_once: int = Field(
        0, alias="HEADGATE_INGESTS_AT_ONCE", ge=0, le=1_000_000, description="requests of /ingest at once, a principal"
    )
    queries_at_once: int = Field(
        0, alias="HEADGATE_QUERIES_AT_ONCE", ge=0, le=1_000_000, description="SQL queries at once, a principal"
    )
    limits_fallback: Literal["local", "open", "closed"] = Field(
        "local",
        alias="HEADGATE_LIMITS_FALLBACK",
        description="while Redis is away: count alone, let pass, or refuse with 503",
    )
    trusted_proxies: Annotated[str, AfterValidator(_networks)] = Field(
        "", alias="TRUSTED_PROXIES", description="proxies whose X-Forwarded-For is believed: networks, by commas"
    )

    @property
    def trusted_networks(self) -> tuple[str, ...]:
        """The networks of proxies that are believed."""
        return tuple(one.strip() for one in self.trusted_proxies.split(",") if one.strip())

    def quotas(self) -> dict[str, int]:
        """Give the quota a minute of each policy that is active."""
        found = {
            "ip": self.rate_limit,
            "queries": self.query_limit,
            "cache-jobs": self.job_limit,
            "requests": self.request_limit,
        }
        return {name: quota for name, quota in found.items() if quota}

    def slots(self) -> list[SlotPolicy]:
        """Give the active policies of requests at once."""
        found = (
            SlotPolicy("uploads", self.uploads_at_once),
            SlotPolicy("ingests", self.ingests_at_once, is_each=True),
            SlotPolicy("running-queries", self.queries_at_once, is_each=True),
        )
        return [one for one in found if one.most]

    @property
    def sets_limits(self) -> bool:
        """Whether somebody set a limit, so that it is meant also where everybody may ask."""
        return any(name in self.model_fields_set and getattr(self, name) for name in _LIMITS)
