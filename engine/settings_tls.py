"""The settings of TLS: part of `Settings`, which reads them.

Rules of the file:
- No file is opened here: whether a certificate can be used is found out when the gateway starts, by `edge/tls.py`.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def _nothing_is_none(value: object) -> object:
    return None if value == "" else value  # a variable that is there and empty says nothing


MaybePath = Annotated[Path | None, BeforeValidator(_nothing_is_none)]


class TlsSettings(BaseSettings):
    """Whether the listener speaks TLS, and as whom."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    tls_cert: MaybePath = Field(
        None, alias="HEADGATE_TLS_CERT", description="PEM file of the certificate and its chain; turns TLS on"
    )
    tls_key: MaybePath = Field(None, alias="HEADGATE_TLS_KEY", description="PEM file of its key, without passphrase")
    tls_self_signed: Literal["on", "off"] = Field(
        "off",
        alias="HEADGATE_TLS_SELF_SIGNED",
        description="TLS with a certificate of the gateway's own, made in the data folder",
    )
    http2: Literal["on", "off"] = Field(
        "off",
        alias="HEADGATE_HTTP2",
        validation_alias=AliasChoices("HEADGATE_HTTP2", "HTTP2"),
        description="HTTP/2 beside HTTP/1.1: by ALPN over TLS, to clients that know without; also read from HTTP2",
    )

    @property
    def is_tls(self) -> bool:
        """Whether the listener speaks TLS; half a pair of files means it, and is refused at the start."""
        return self.tls_self_signed == "on" or self.tls_cert is not None or self.tls_key is not None
