"""The settings: environment first, the command line above it, every value typed and explained.

Rules of the file:
- A malformed value is refused with the variable's name, what was expected and what came.
- Only this file reads the environment; `engine/settings_identity.py` says what it reads of who may ask.

What must change with it: the configuration table of the README is made from `describe`.
Source: S0.25, X1; names that clients in the field set keep their spelling.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasChoices, Field, PrivateAttr, SecretStr, ValidationError
from pydantic_settings import SettingsConfigDict

from engine.endpoints import endpoints_of
from engine.errors import Refused
from engine.names import check_subject_name, check_token, subjects_of
from engine.request_log import check_rule
from engine.settings_audit import AuditSettings
from engine.settings_identity import IdentitySettings, is_loopback
from engine.settings_limits import LimitSettings
from engine.settings_server import ServerSettings
from engine.settings_spans import SpanSettings
from engine.settings_tls import TlsSettings


def _nats_url(value: str) -> str:
    for one in filter(None, (part.strip() for part in value.split(","))):
        if urlsplit(one).scheme not in {"nats", "tls"}:
            raise ValueError("expected nats://host:port or tls://host:port, several separated by commas")
    if value and not endpoints_of(value):  # which raises where a port is none
        raise ValueError("expected at least one address")
    return value


def _redis_url(value: str) -> str:
    if value and value != "inline" and urlsplit(value).scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("expected redis://, rediss:// or unix://, or `inline`")
    return value


def _http_url(value: str) -> str:
    if value and urlsplit(value).scheme not in {"http", "https"}:
        raise ValueError("expected http://host:port")
    return value.rstrip("/")


def _database_url(value: str) -> str:
    if value and urlsplit(value).scheme not in {"postgres", "postgresql"}:
        raise ValueError("expected postgresql://user:password@host:port/database")
    return value


class Settings(TlsSettings, IdentitySettings, LimitSettings, ServerSettings, SpanSettings, AuditSettings):
    """Everything that can be set; the field's alias is its environment variable."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)  # by name, HOST and DATA would be read too
    _overridden: frozenset[str] = PrivateAttr(frozenset())

    data: Path = Field(Path("headgate-data"), alias="HEADGATE_DATA", description="folder of the embedded engines")
    nats_url: Annotated[str, AfterValidator(_nats_url)] = Field(
        "", alias="NATS_URL", description="the log's servers; empty starts the embedded one"
    )
    nats_monitor_url: Annotated[str, AfterValidator(_http_url)] = Field(
        "", alias="NATS_MONITOR_URL", description="an external log's monitoring, which proves its durability class"
    )
    workers: int = Field(
        1, alias="HEADGATE_WORKERS", ge=1, le=64, description="processes that serve; above 1 a parent runs the engines"
    )
    durability: Literal["fsync", "buffered"] = Field(
        "fsync", alias="HEADGATE_DURABILITY", description="how the embedded log stores: before or after it answers"
    )
    redis_url: Annotated[str, AfterValidator(_redis_url)] = Field(
        "", alias="REDIS_URL", description="second tier of the hash cache; empty or `inline` means none"
    )
    stream: Annotated[str, AfterValidator(check_token)] = Field(
        "SNAPFS_FILES", alias="SNAPFS_STREAM", description="the log's stream"
    )
    subject: Annotated[str, AfterValidator(check_subject_name)] = Field(
        "snapfs.files", alias="SNAPFS_SUBJECT", description="subject of events that name none"
    )
    cache_ttl_s: int = Field(
        86_400, alias="SNAPFS_CACHE_TTL", ge=1, le=31_536_000, description="how long a known hash is a hit, seconds"
    )
    catalog: Literal["on", "off"] = Field(
        "on", alias="HEADGATE_CATALOG", description="keep the files in PostgreSQL, for SQL and as the cache's last tier"
    )
    database_url: Annotated[str, AfterValidator(_database_url)] = Field(
        "", alias="DATABASE_URL", description="the catalog's PostgreSQL; with DB_HOST empty too, an embedded one starts"
    )
    db_host: str = Field("", alias="DB_HOST", description="the same in parts: host, or the folder of its socket")
    db_port: int = Field(5432, alias="DB_PORT", ge=1, le=65535, description="port of DB_HOST")
    db_user: str = Field("headgate", alias="DB_USER", description="user that owns the catalog")
    db_password: str = Field("", alias="DB_PASSWORD", description="password of DB_USER")
    db_name: str = Field("headgate", alias="DB_NAME", description="database of the catalog")
    environment: str = Field(
        "dev",
        alias="SNAPFS_ENV",
        validation_alias=AliasChoices("SNAPFS_ENV", "SERVER_ENV"),
        description="a word for this installation, shown in /version; also read from SERVER_ENV",
    )
    cache_mib: int = Field(
        256, alias="HEADGATE_CACHE_MIB", ge=1, le=1_048_576, description="memory of the hash cache, MiB"
    )
    min_free_mib: int = Field(
        256,
        alias="HEADGATE_MIN_FREE_MIB",
        ge=0,
        le=1_000_000_000,
        description="less free disk than this is not ready, MiB",
    )
    connections: int = Field(
        4096, alias="HEADGATE_CONNECTIONS", ge=16, le=1_000_000, description="most connections at once"
    )
    connections_per_ip: int = Field(
        64, alias="HEADGATE_CONNECTIONS_PER_IP", ge=1, le=1_000_000, description="of one address that is not loopback"
    )
    drain_s: float = Field(
        10.0, alias="HEADGATE_DRAIN_S", ge=0, le=600, description="time for requests to end at shutdown, seconds"
    )
    ack_wait_s: float = Field(
        30.0,
        alias="HEADGATE_ACK_WAIT_S",
        ge=1,
        le=3600,
        description="lease of a delivery, extended while its agent lives",
    )
    max_lease_s: float = Field(
        900.0,
        alias="HEADGATE_MAX_LEASE_S",
        ge=1,
        le=86_400,
        description="longest time an agent may hold a batch, seconds",
    )
    scan_grace_s: float = Field(
        30.0,
        alias="HEADGATE_SCAN_GRACE_S",
        ge=0,
        le=3600,
        description="time for a remote scanner that went away to come back before its scans are lost, seconds",
    )
    scan_timeout_s: float = Field(
        21_600.0,
        alias="HEADGATE_SCAN_TIMEOUT_S",
        ge=1,
        le=2_592_000,
        description="longest time a remote scan may take when its request does not say, seconds",
    )
    max_deliver: int = Field(
        20,
        alias="HEADGATE_MAX_DELIVER",
        ge=0,
        le=1_000_000,
        description="deliveries until a message is a dead letter, 0 for no end; the old wire has none",
    )
    dead_stream: Annotated[str, AfterValidator(check_token)] = Field(
        "SNAPFS_DLQ", alias="HEADGATE_DEAD_STREAM", description="the log's stream of dead letters"
    )
    log_express: Annotated[str, AfterValidator(check_rule)] = Field(
        "errors",
        alias="HEADGATE_LOG_EXPRESS",
        description="express-lane requests with a log line: `errors` (500 and above), `all`, `off`, `1/N`",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", alias="HEADGATE_LOG_LEVEL", description="least level of the log lines on stderr"
    )

    @classmethod
    def given(cls, values: dict[str, object]) -> "Settings":
        """Take these values, by variable, from the command line, and everything else from the environment."""
        settings = cls(**values)  # type: ignore[arg-type]  # validated by pydantic right here
        settings._overridden = frozenset(values)
        return settings

    @property
    def overridden(self) -> frozenset[str]:
        """The variables whose values came from the command line."""
        return self._overridden

    @property
    def from_command_line(self) -> dict[str, object]:
        """The fields whose values came from the command line, as JSON values: for another process to take over."""
        given = {name for name, field in type(self).model_fields.items() if field.alias in self._overridden}
        return self.model_dump(mode="json", include=given)

    @property
    def leases_folder(self) -> Path:
        """Where processes write down what they hold of the log."""
        return self.data.resolve() / "leases"

    @property
    def is_open(self) -> bool:
        """Whether nobody has to say who they are."""
        return self.auth == "off" or (self.auth == "auto" and is_loopback(self.host))

    @property
    def redis_address(self) -> str:
        """The Redis to use, empty when none."""
        return "" if self.redis_url == "inline" else self.redis_url

    @property
    def has_own_database(self) -> bool:
        """Whether the gateway runs a PostgreSQL of its own."""
        return self.catalog == "on" and not self.database_url and not self.db_host

    @property
    def subjects(self) -> list[str]:
        """The subjects that the stream takes."""
        return subjects_of(self.subject)


class SettingLine(NamedTuple):
    """One setting for a person.

    Args:
        name: the field's name.
        env: the environment variable.
        value: as text, secrets masked.
        source: `default`, `environment` or `command line`.
        secret: the value was masked.
        description: what it is for.
    """

    name: str
    env: str
    value: str
    source: str
    secret: bool
    description: str


def load_settings(overrides: dict[str, object] | None = None) -> Settings:
    """Read the settings.

    Args:
        overrides: field names to values from the command line; they win over the environment.

    Raises:
        Refused: a value is malformed; the text names the variable.
    """
    try:
        given = {_variable((name,)): value for name, value in (overrides or {}).items()}
        return Settings.given(given)
    except ValidationError as problem:
        raise Refused("request.bad-parameter", "; ".join(map(_complaint, problem.errors()))) from None


def describe(settings: Settings) -> list[SettingLine]:
    """Say for every setting what it is and where its value came from."""
    lines: list[SettingLine] = []
    for name, field in Settings.model_fields.items():
        env = field.alias or name
        value = getattr(settings, name)
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        masked = mask_url(text) if name.endswith("url") else text
        if text and (name.endswith("password") or isinstance(value, SecretStr)):
            masked = "***"
        source = "default"
        if name in settings.model_fields_set:
            source = "command line" if env in settings.overridden else "environment"
        lines.append(SettingLine(name, env, masked, source, masked != text, field.description or ""))
    return lines


def mask_url(text: str) -> str:
    """Hide the credentials in a URL, or in several separated by commas; what may be one is hidden too."""
    masked = re.sub(r"(^|,\s*|://)[^/]*@", r"\1***@", text)
    return re.sub(r"([?&](?:username|password)=)[^&,]*", r"\1***", masked)


def _complaint(error: Mapping[str, Any]) -> str:
    expected = str(error["msg"]).removeprefix("Value error, ")
    variable = _variable(error["loc"])
    if variable in _SECRETS:
        return f"{variable}: {expected} (what it is, is not shown)"
    variable = _ALSO.get(variable, variable)
    return f"{variable}: {expected} (it is {mask_url(str(error['input']))!r})"


def _variable(location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else "settings"
    field = Settings.model_fields.get(name)
    return field.alias or name if field is not None else name


_SECRETS: Final = frozenset(
    field.alias
    for field in Settings.model_fields.values()
    if field.annotation is SecretStr and isinstance(field.default, SecretStr)
)
_ALSO: Final = {
    str(field.alias): " or ".join(map(str, field.validation_alias.choices))
    for field in Settings.model_fields.values()
    if isinstance(field.validation_alias, AliasChoices)
}
"""Variables that have a second name, as they are named to whom has set one of them."""
