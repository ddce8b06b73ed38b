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
LEAST_JWT_SECRET_CHARS: Final = 32


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


def _jwt_secret(value: SecretStr) -> SecretStr:
    if 0 < len(value.get_secret_value()) < LEAST_JWT_SECRET_CHARS:
        raise ValueError(f"expected at least {LEAST_JWT_SECRET_CHARS} characters")
    return value


def _public_key(value: str) -> str:
    if value:
        from engine.jwts import key_of_pem  # noqa: PLC0415  # with the libraries of those who take such tokens

        key_of_pem(value)  # which says what was expected
    return value


def _jwks_url(value: str) -> str:
    parts = urlsplit(value)
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    if value and (not is_safe or not parts.hostname):
        raise ValueError("expected https://…, or http:// on a loopback address")
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
    recheck_s: float = Field(
        60.0,
        alias="HEADGATE_RECHECK_S",
        ge=0.1,
        le=3600,
        description="how often whoever opened a WebSocket is looked at again, seconds",
    )
    signature_window_s: float = Field(
        60.0,
        alias="HEADGATE_SIGNATURE_WINDOW_S",
        ge=1,
        le=300,
        description="how old a request's signature may be, seconds",
    )
    jwt_secret: Annotated[SecretStr, AfterValidator(_jwt_secret)] = Field(
        SecretStr(""), alias="JWT_SECRET", description="checks JSON Web Tokens signed with HS256"
    )
    jwt_public_key: Annotated[str, AfterValidator(_public_key)] = Field(
        "", alias="JWT_PUBLIC_KEY", description="checks those signed with RS256, ES256 or EdDSA: a public key in PEM"
    )
    jwks_url: Annotated[str, AfterValidator(_jwks_url)] = Field(
        "", alias="JWKS_URL", description="where the keys are that sign them, https unless on loopback; may rotate"
    )
    jwt_issuer: str = Field("", alias="JWT_ISSUER", description="the `iss` that they must have")
    jwt_audience: str = Field("", alias="JWT_AUDIENCE", description="the `aud` that they must have: this gateway")
    jwt_leeway_s: float = Field(
        30.0, alias="JWT_LEEWAY_S", ge=0, le=60, description="how much clocks may differ, seconds"
    )
    introspection_url: Annotated[str, AfterValidator(_jwks_url)] = Field(
        "", alias="AUTH_INTROSPECTION_URL", description="who is asked about opaque tokens (RFC 7662), https as above"
    )
    introspection_client_id: str = Field(
        "", alias="AUTH_INTROSPECTION_CLIENT_ID", description="who asks, by HTTP Basic; empty for nobody"
    )
    introspection_client_secret: SecretStr = Field(
        SecretStr(""), alias="AUTH_INTROSPECTION_CLIENT_SECRET", description="what proves that"
    )
    introspection_cache_s: float = Field(
        60.0,
        alias="AUTH_INTROSPECTION_CACHE_S",
        ge=1,
        le=3600,
        description="an active token is not asked about again for so long, within its life, seconds",
    )
    cors_origins: Annotated[str, AfterValidator(_origins)] = Field(
        "", alias="CORS_ORIGINS", description="origins whose pages may talk to the gateway, by commas"
    )

    @property
    def takes_jwts(self) -> bool:
        """Whether JSON Web Tokens are taken."""
        return bool(self.jwt_secret.get_secret_value() or self.jwt_public_key or self.jwks_url)

    @property
    def takes_others(self) -> bool:
        """Whether tokens that others issue are taken."""
        return self.takes_jwts or bool(self.introspection_url)

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
