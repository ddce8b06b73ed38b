"""The settings of the listener: part of `Settings`, which reads them.

Rules of the file:
- `SERVER_*` is what services of this kind are usually told; where we have a name of our own, ours wins over it.

Source: X1, S4.32.
"""

from typing import Annotated

from pydantic import AliasChoices, BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from engine.deadlines import Deadlines, deadlines_of


def _nothing_is_none(value: object) -> object:
    return None if value == "" else value  # a variable that is there and empty says nothing


MaybePort = Annotated[Annotated[int, Field(ge=1, le=65535)] | None, BeforeValidator(_nothing_is_none)]
Seconds = Annotated[float, Field(ge=1, le=3600)]


class ServerSettings(BaseSettings):
    """Where requests come in, and how long they may take."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", alias="HEADGATE_HOST", description="address to listen on")
    port: int = Field(
        8000,
        alias="PORT",
        validation_alias=AliasChoices("PORT", "SERVER_PORT"),
        ge=0,
        le=65535,
        description="port to listen on, also read from SERVER_PORT; 0 takes a free one",
    )
    api_port: MaybePort = Field(
        None, alias="API_GATEWAY_PORT", description="a second port to listen on, for clients that know another"
    )
    read_timeout_s: Seconds = Field(
        10.0,
        alias="SERVER_READ_TIMEOUT",
        description="time for a body to come, then 1 KiB/s; a head has this or 5 seconds",
    )
    write_timeout_s: Seconds = Field(
        10.0, alias="SERVER_WRITE_TIMEOUT", description="time for a client to take a piece of its answer, seconds"
    )
    idle_timeout_s: Seconds = Field(
        10.0, alias="SERVER_IDLE_TIMEOUT", description="time between two requests of a connection, seconds"
    )

    @property
    def ports(self) -> list[int]:
        """The ports to listen on, the main one first."""
        return [self.port] if self.api_port in {None, self.port} else [self.port, self.api_port or 0]

    @property
    def deadlines(self) -> Deadlines:
        """How long a client may take."""
        return deadlines_of(self.read_timeout_s, self.write_timeout_s, self.idle_timeout_s)
