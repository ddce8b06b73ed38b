"""The settings of who may ask: part of `Settings`, which reads them.

Rules of the file:
- What is a secret is a `SecretStr`, so that neither a refusal nor `config show` can say it.
"""

from ipaddress import ip_address
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from engine.keys import check_secret, keys_of_setting

LEAST_TOKEN_SECRET_CHARS: Final = 32


def _keys(value: SecretStr) -> SecretStr:
    keys_of_setting(value.get_secret_value())  # which says what is wrong and quotes no secret
    return value


def _key(value: SecretStr) -> SecretStr:
    if value.get_secret_value():
        check_secret(value.get_secret_value(), "the key")
    return value


def _token_secret(value: SecretStr) -> SecretStr:
    if 0 < len(value.get_secret_value()) < LEAST_TOKEN_SECRET_CHARS:
        raise ValueError(f"expected at least {LEAST_TOKEN_SECRET_CHARS} characters")
    return value


def _origins(value: str) -> str:
    for one in filter(None, (part.strip() for part in value.split(","))):
        parts = urlsplit(one)
        if one != "*" and (parts.scheme not in {"http", "https"} or not parts.netloc or one.count("/") != 2):
            raise ValueError("expected origins such as https://app.example, several separated by commas, or `*`")
    return value


class IdentitySettings(BaseSettings):
    """Who may ask, and how they prove it."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    auth: Literal["auto", "off", "on"] = Field(
        "auto", alias="AUTH", description="`auto`: off on a loopback address, on elsewhere, where off is refused"
    )
    api_keys: Annotated[SecretStr, AfterValidator(_keys)] = Field(
        SecretStr(""), alias="HEADGATE_API_KEYS", description="API keys beside those of `headgate keys`: name=key,…"
    )
    gateway_key: Annotated[SecretStr, AfterValidator(_key)] = Field(
        SecretStr(""), alias="API_GATEWAY_KEY", description="one API key for everything, of a client that has but one"
    )
    token_secret: Annotated[SecretStr, AfterValidator(_token_secret)] = Field(
        SecretStr(""),
        alias="HEADGATE_TOKEN_SECRET",
        description="signs tokens of /auth/token; empty keeps one in the data folder",
    )
    token_ttl_s: int = Field(
        900,
        alias="HEADGATE_TOKEN_TTL_S",
        ge=10,
        le=86_400,
        description="how long a token of /auth/token lives, seconds",
    )
    cors_origins: Annotated[str, AfterValidator(_origins)] = Field(
        "", alias="CORS_ORIGINS", description="origins whose pages may talk to the gateway, by commas"
    )

    @property
    def origins(self) -> frozenset[str]:
        """The origins whose pages may talk to the gateway."""
        return frozenset(one.strip().lower() for one in self.cors_origins.split(",") if one.strip())


def is_loopback(host: str) -> bool:
    """Say that nobody outside this machine reaches a listener on this address."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
