"""The settings: every value is typed, every refusal names its variable, no secret leaves (S0.25, T33)."""

from pathlib import Path

import pytest

from engine.deadlines import Deadlines
from engine.errors import Refused
from engine.settings import Settings, describe, load_settings, mask_url
from engine.spans import Sampling

OURS = [field.alias for field in Settings.model_fields.values()]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that sets nothing of ours."""
    for name in [*OURS, *Settings.model_fields, "SERVER_PORT", "SERVER_ENV"]:
        assert name is not None
        for spelling in (name, name.lower(), name.upper()):
            monkeypatch.delenv(spelling, raising=False)


def refusal(overrides: dict[str, object] | None = None) -> str:
    """What is said of settings that are refused."""
    with pytest.raises(Refused) as caught:
        load_settings(overrides)
    assert caught.value.kind.code == "request.bad-parameter"
    return caught.value.detail


def test_without_anything_the_defaults_hold() -> None:
    """The defaults are those of the README: loopback, port 8000, embedded log that syncs always."""
    settings = load_settings()
    assert (settings.host, settings.port, settings.data) == ("127.0.0.1", 8000, Path("headgate-data"))
    assert (settings.nats_url, settings.durability, settings.redis_address) == ("", "fsync", "")
    assert (settings.stream, settings.subject, settings.subjects) == ("SNAPFS_FILES", "snapfs.files", ["snapfs.>"])
    assert settings.cache_ttl_s == 24 * 3600
    assert {line.source for line in describe(settings)} == {"default"}


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("HEADGATE_HOST", "0.0.0.0", "host", "0.0.0.0"),
        ("PORT", "0", "port", 0),
        ("API_GATEWAY_PORT", "8095", "ports", [8000, 8095]),
        ("API_GATEWAY_PORT", "8000", "ports", [8000]),
        ("SERVER_READ_TIMEOUT", "3", "deadlines", Deadlines(3.0, 3.0, 10.0, 10.0)),
        ("SERVER_READ_TIMEOUT", "60", "deadlines", Deadlines(5.0, 60.0, 10.0, 10.0)),
        ("SERVER_WRITE_TIMEOUT", "7.5", "deadlines", Deadlines(5.0, 10.0, 7.5, 10.0)),
        ("SERVER_IDLE_TIMEOUT", "15", "deadlines", Deadlines(5.0, 10.0, 10.0, 15.0)),
        ("HEADGATE_DATA", "/var/lib/x", "data", Path("/var/lib/x")),
        ("NATS_URL", "nats://a:1,tls://b", "nats_url", "nats://a:1,tls://b"),
        ("NATS_MONITOR_URL", "http://a:8222/", "nats_monitor_url", "http://a:8222"),
        ("HEADGATE_DURABILITY", "buffered", "durability", "buffered"),
        ("REDIS_URL", "inline", "redis_address", ""),
        ("REDIS_URL", "redis://a", "redis_address", "redis://a"),
        ("REDIS_URL", "unix:///run/redis.sock", "redis_address", "unix:///run/redis.sock"),
        ("SNAPFS_STREAM", "OTHER", "stream", "OTHER"),
        ("SNAPFS_SUBJECT", "other.files", "subjects", ["snapfs.>", "other.>"]),
        ("SNAPFS_SUBJECT", "snapfs.deep.files", "subjects", ["snapfs.>"]),
        ("SNAPFS_CACHE_TTL", "60", "cache_ttl_s", 60),
        ("HEADGATE_CATALOG", "off", "catalog", "off"),
        ("DATABASE_URL", "postgresql://a/b", "has_own_database", False),
        ("DB_HOST", "a", "has_own_database", False),
        ("DB_NAME", "files", "has_own_database", True),
        ("SNAPFS_ENV", "prod", "environment", "prod"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318/", "spans_url", "http://a:4318/v1/traces"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://a:4318/x", "spans_url", "http://a:4318/x"),
        ("OTEL_TRACES_SAMPLER", "always_off", "sampling", Sampling(0.0, follows_parent=False)),
        ("HEADGATE_DRAIN_S", "0.5", "drain_s", 0.5),
        ("HEADGATE_LOG_LEVEL", "debug", "log_level", "debug"),
    ],
)
def test_the_environment_sets_a_value(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, field: str, value: object
) -> None:
    """Each variable has its field and type, and `describe` says where the value came from."""
    monkeypatch.setenv(name, text)
    settings = load_settings()
    assert getattr(settings, field) == value
    [line] = [line for line in describe(settings) if line.source != "default"]
    assert (line.env, line.source) == (name, "environment")


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An override by field name replaces the variable; what it does not name stays."""
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("HEADGATE_HOST", "::1")
    settings = load_settings({"port": 2})
    assert (settings.port, settings.host) == (2, "::1")
    sources = {line.name: line.source for line in describe(load_settings({"port": 2, "connections": 99}))}
    assert (sources["port"], sources["connections"]) == ("command line", "command line"), (
        "also where both say something"
    )
    assert (sources["host"], sources["stream"]) == ("environment", "default")


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if name.upper() not in [*OURS, "HTTP2"]])
def test_a_variable_by_another_name_is_not_ours(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """HOST and DATA are set on many machines and mean something else there."""
    before = load_settings()
    for spelling in (name, name.upper()):
        monkeypatch.setenv(spelling, "12345")
    assert load_settings() == before
    assert {line.source for line in describe(load_settings())} == {"default"}


@pytest.mark.parametrize(
    ("also", "ours", "field", "text", "value"),
    [
        ("SERVER_PORT", "PORT", "port", "81", 81),
        ("SERVER_ENV", "SNAPFS_ENV", "environment", "prod", "prod"),
    ],
)
def test_another_gateways_name_of_a_variable_is_known(
    monkeypatch: pytest.MonkeyPatch, also: str, ours: str, field: str, text: str, value: object
) -> None:
    """S4.32: it is read, ours wins over it, the command line over both, and what is wrong is said."""
    monkeypatch.setenv(also, text)
    assert getattr(load_settings(), field) == value
    assert getattr(load_settings({field: "7"}), field) in {7, "7"}
    monkeypatch.setenv(ours, "9")
    assert getattr(load_settings(), field) in {9, "9"}
    if isinstance(value, int):
        monkeypatch.delenv(ours)
        monkeypatch.setenv(also, "x")
        assert refusal().startswith(f"{ours} or {also}: ")


def test_http2_is_off_and_has_a_short_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP2=on says what everybody would guess; our own name wins over it."""
    assert load_settings().http2 == "off"
    monkeypatch.setenv("HTTP2", "on")
    assert load_settings().http2 == "on"
    monkeypatch.setenv("HEADGATE_HTTP2", "off")
    assert load_settings().http2 == "off"


def test_an_empty_second_port_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files set it to nothing where nobody wants it."""
    monkeypatch.setenv("API_GATEWAY_PORT", "")
    assert load_settings().ports == [8000]


MALFORMED: dict[str, list[str]] = {
    "PORT": ["x", "", "-1", "65536", "8000.5", "0x10"],
    "API_GATEWAY_PORT": ["x", "0", "-1", "65536"],
    "SERVER_READ_TIMEOUT": ["", "0", "10s", "nan", "3601"],
    "SERVER_WRITE_TIMEOUT": ["x", "-1", "inf"],
    "SERVER_IDLE_TIMEOUT": ["x", "0.5"],
    "OTEL_EXPORTER_OTLP_ENDPOINT": ["collector:4318", "grpc://a", "http://"],
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ["collector:4318/v1/traces"],
    "OTEL_TRACES_EXPORTER": ["jaeger", ""],
    "OTEL_SDK_DISABLED": ["yes", ""],
    "OTEL_TRACES_SAMPLER": ["jaeger_remote", ""],
    "OTEL_TRACES_SAMPLER_ARG": ["x", "-0.1", "1.1", "nan"],
    "OTEL_BSP_SCHEDULE_DELAY": ["0", "5s"],
    "OTEL_BSP_MAX_QUEUE_SIZE": ["0", "x"],
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": ["0", "x"],
    "NATS_URL": [
        "http://a",
        "a:4222",
        "redis://a",
        "nats://a, http://b",
        ",",
        "nats://a:99999",
        "nats://a:x",
        "nats://[::1",
    ],
    "NATS_MONITOR_URL": ["a:8222", "nats://a", "ftp://a"],
    "HEADGATE_DURABILITY": ["always", "", "FSYNC"],
    "REDIS_URL": ["http://a", "a:6379", "Inline"],
    "SNAPFS_STREAM": ["", "a.b", "a b", "*", "x" * 129],
    "SNAPFS_SUBJECT": ["", "a.>", "a..b", "a b", "*.x"],
    "SNAPFS_CACHE_TTL": ["0", "-1", "1.5", "31536001", "1d"],
    "HEADGATE_CATALOG": ["yes", "", "ON"],
    "HEADGATE_TLS_SELF_SIGNED": ["yes", "", "ON"],
    "HEADGATE_HTTP2": ["yes", "", "h2c"],
    "DATABASE_URL": ["mysql://a/b", "a:5432", "http://a"],
    "DB_PORT": ["0", "65536", "x"],
    "HEADGATE_CACHE_MIB": ["0", "-5", "x"],
    "HEADGATE_MIN_FREE_MIB": ["-1", "x", "1000000001"],
    "HEADGATE_CONNECTIONS": ["0", "15", "x"],
    "HEADGATE_WORKERS": ["0", "65", "two"],
    "HEADGATE_CONNECTIONS_PER_IP": ["0", "x"],
    "HEADGATE_DRAIN_S": ["-1", "nan", "inf", "601", "ten"],
    "HEADGATE_ACK_WAIT_S": ["0", "nan", "3601"],
    "HEADGATE_MAX_LEASE_S": ["0", "nan", "86401"],
    "HEADGATE_MAX_DELIVER": ["-1", "x", "1.5", "1000001"],
    "HEADGATE_DEAD_STREAM": ["", "a.b", "a b", "*"],
    "HEADGATE_SCAN_GRACE_S": ["-1", "nan", "3601", "soon"],
    "HEADGATE_SCAN_TIMEOUT_S": ["0", "nan", "2592001", "6h"],
    "AUTH": ["", "yes", "ON", "none"],
    "HEADGATE_API_KEYS": [
        "no-equals-sign-here",
        "short=tooshort",
        "a=long-enough-but bad",
        "a b=long-enough-secret",
        "a=long-enough-secret;scopes=bogus",
        "a=long-enough-secret;colour=red",
        "a=long-enough-secret;scopes=",
        "a=long-enough-secret,a=long-enough-secret",
        "=long-enough-secret",
    ],
    "API_GATEWAY_KEY": ["short", "sixteen characters", "x" * 513],
    "HEADGATE_TOKEN_SECRET": ["x" * 31],
    "HEADGATE_TOKEN_TTL_S": ["9", "86401", "x", ""],
    "HEADGATE_RECHECK_S": ["0", "0.01", "3601", "nan", "often"],
    "HEADGATE_LIMITS": ["", "yes", "ON"],
    "RATE_LIMIT": ["-1", "x", "1.5", "1000001"],
    "HEADGATE_QUERY_LIMIT": ["-1", "x", "1000001"],
    "HEADGATE_INGESTS_AT_ONCE": ["-1", "x"],
    "HEADGATE_QUERIES_AT_ONCE": ["-1", "x"],
    "HEADGATE_UPLOADS_AT_ONCE": ["-1", "x", "1000001"],
    "HEADGATE_LIMITS_FALLBACK": ["", "shut"],
    "HEADGATE_JOB_LIMIT": ["-1", "x", "1000001"],
    "HEADGATE_REQUEST_LIMIT": ["-1", "x", "10000001"],
    "TRUSTED_PROXIES": ["proxy.example", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.1;10.0.0.2"],
    "JWT_SECRET": ["x" * 31],
    "JWT_PUBLIC_KEY": ["x", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"],
    "JWKS_URL": ["http://keys.example/", "keys.example", "https://", "file:///etc/passwd"],
    "JWT_LEEWAY_S": ["-1", "61", "nan"],
    "CORS_ORIGINS": ["app.example", "https://a/", "https://a/b", "ftp://a", "https://a;https://b/"],
    "HEADGATE_LOG_EXPRESS": ["", "some", "1/0", "1/", "2/3", "1/x", "1/-1"],
    "HEADGATE_LOG_LEVEL": ["trace", "INFO", ""],
    "HEADGATE_SIGNATURE_WINDOW_S": ["0", "301", "nan"],
    "AUTH_INTROSPECTION_URL": ["x", "ftp://a", "http://issuer.example/introspect", "https://"],
    "AUTH_INTROSPECTION_CACHE_S": ["0", "3601", "nan"],
    "HEADGATE_AUDIT": ["maybe", "ON", ""],
    "HEADGATE_AUDIT_STREAM": ["", "a.b", "a b", "a>"],
    "HEADGATE_AUDIT_DAYS": ["0", "-1", "nan", "36501"],
    "HEADGATE_AUDIT_MIB": ["0", "1.5", "1048577"],
}
SECRET = {
    "HEADGATE_API_KEYS",
    "API_GATEWAY_KEY",
    "HEADGATE_TOKEN_SECRET",
    "JWT_SECRET",
    "AUTH_INTROSPECTION_CLIENT_SECRET",
}
ANY_TEXT = {
    "AUTH_INTROSPECTION_CLIENT_ID",
    "AUTH_INTROSPECTION_CLIENT_SECRET",
    "JWT_ISSUER",
    "JWT_AUDIENCE",
    "HEADGATE_HOST",
    "HEADGATE_DATA",
    "HEADGATE_TLS_CERT",  # what the files hold is looked at when the gateway starts: test_tls.py
    "HEADGATE_TLS_KEY",
    "SNAPFS_ENV",
    "OTEL_SERVICE_NAME",
    "DB_HOST",
    "DB_USER",
    "DB_PASSWORD",
    "DB_NAME",
}


def test_every_variable_is_tried() -> None:
    """A new setting brings its malformed values here."""
    assert MALFORMED.keys() | ANY_TEXT == set(OURS)


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in MALFORMED.items() for text in texts])
def test_a_malformed_value_is_refused_by_its_variables_name(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    """The text says which variable, what came, and what was expected."""
    monkeypatch.setenv(name, text)
    said = refusal()
    assert said.startswith((f"{name}: ", f"{name} or "))
    assert (repr(text) in said) is (name not in SECRET)
    assert name not in SECRET or not text or text not in said


def test_every_malformed_value_is_named_at_once() -> None:
    """Nobody wants to learn of his mistakes one by one; the command line's are named by their variables too."""
    said = refusal({"port": "x", "durability": "y"})
    assert "PORT or SERVER_PORT: " in said
    assert "HEADGATE_DURABILITY: " in said
    assert "bogus" in refusal({"bogus": 1})


SECRETS = {
    "nats://user:hunter2@log:4222": "nats://***@log:4222",
    "nats://hunter2@log": "nats://***@log",
    "nats://a:hunter2@x,nats://b:hunter2@y": "nats://***@x,nats://***@y",
    "nats://a:hunter2@x, tls://y": "nats://***@x, tls://y",
    "redis://:hunter2@r:6379/0": "redis://***@r:6379/0",
    "redis://:p,hunter2@r/0": "redis://***@r/0",
    "redis://u:p@hunter2@r/0": "redis://***@r/0",
    "user:hunter2@log:4222": "***@log:4222",
    "nats://x,u:hunter2@y": "***@y",
    "redis://r/0?password=hunter2&db=1": "redis://r/0?password=***&db=1",
    "nats://log:4222": "nats://log:4222",
    "nats://a,nats://b": "nats://a,nats://b",
    "inline": "inline",
    "": "",
}


@pytest.mark.parametrize(("text", "shown"), SECRETS.items())
def test_no_secret_of_an_address_is_shown(text: str, shown: str) -> None:
    """Credentials are hidden in every spelling, whether or not the address is one."""
    masked = mask_url(text)
    assert "hunter2" not in masked
    if not text.startswith("nats://x,u"):
        assert masked == shown


@pytest.mark.parametrize("text", [text for text in SECRETS if "hunter2" in text])
@pytest.mark.parametrize("name", ["NATS_URL", "NATS_MONITOR_URL", "REDIS_URL", "DATABASE_URL", "DB_PASSWORD"])
def test_neither_settings_nor_refusals_give_a_secret_away(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    """What is described and what is refused hide it; what is used has it."""
    monkeypatch.setenv(name, text)
    try:
        settings = load_settings()
    except Refused as caught:
        assert "hunter2" not in caught.detail  # noqa: PT017  # refusing is as good as hiding
        return
    lines = describe(settings)
    assert "hunter2" not in repr(lines)
    [line] = [line for line in lines if line.env == name]
    assert line.secret
    assert "hunter2" in str(getattr(settings, line.name))


def test_every_setting_is_explained() -> None:
    """The README's table is made of these: each has its variable and a few words."""
    for line in describe(load_settings()):
        assert line.env
        assert len(line.description) > 10
        assert not line.secret


def test_what_is_a_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """T33: keys and secrets are used, and described as `***` in any form; an empty one is shown to be empty."""
    monkeypatch.setenv("HEADGATE_API_KEYS", "a=geheim-0123456789")
    monkeypatch.setenv("API_GATEWAY_KEY", "geheim-abcdefghij")
    settings = load_settings()
    assert "geheim" not in repr(describe(settings)) + repr(settings)
    shown = {line.env: line.value for line in describe(settings) if line.env in SECRET}
    assert shown == {
        "HEADGATE_API_KEYS": "***",
        "API_GATEWAY_KEY": "***",
        "HEADGATE_TOKEN_SECRET": "",
        "JWT_SECRET": "",
        "AUTH_INTROSPECTION_CLIENT_SECRET": "",
    }
    assert settings.gateway_key.get_secret_value() == "geheim-abcdefghij"


@pytest.mark.parametrize(
    ("auth", "host", "is_open"),
    [
        ("auto", "127.0.0.1", True),
        ("auto", "127.8.9.1", True),
        ("auto", "::1", True),
        ("auto", "localhost", True),
        ("auto", "0.0.0.0", False),
        ("auto", "::", False),
        ("auto", "", False),
        ("auto", "10.0.0.1", False),
        ("auto", "localhost.example", False),
        ("on", "127.0.0.1", False),
        ("off", "127.0.0.1", True),
    ],
)
def test_the_gateway_is_open_on_loopback_alone(auth: str, host: str, is_open: bool) -> None:
    """What is not certainly loopback is not."""
    assert load_settings({"auth": auth, "host": host}).is_open is is_open
