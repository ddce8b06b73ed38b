"""The settings of how much somebody may ask: part of `Settings`, which reads them.

Rules of the file:
- A quota of 0 switches its policy off.
"""

from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


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
        "auto", alias="HEADGATE_LIMITS", description="rate limits; `auto`: on where authentication is on"
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
