"""The settings of the audit log: part of `Settings`, which reads them."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from engine.names import check_token


class AuditSettings(BaseSettings):
    """Whether changes are recorded, where, and for how long."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    audit: Literal["on", "off"] = Field(
        "on", alias="HEADGATE_AUDIT", description="record every change made by a principal, and refuse it otherwise"
    )
    audit_stream: Annotated[str, AfterValidator(check_token)] = Field(
        "HEADGATE_AUDIT", alias="HEADGATE_AUDIT_STREAM", description="the log's stream of these records"
    )
    audit_days: float = Field(
        365.0, alias="HEADGATE_AUDIT_DAYS", ge=0.01, le=36_500, description="how long a record is kept, days"
    )
    audit_mib: int = Field(
        64,
        alias="HEADGATE_AUDIT_MIB",
        ge=1,
        le=1_048_576,
        description="beyond this the oldest records go, MiB; the log takes about as much memory",
    )
