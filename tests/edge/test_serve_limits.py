"""Which limits hold, and what is said where several processes count alone."""

import pytest

from edge.serve_limits import are_limits_on, warn_of_workers
from engine.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that sets nothing of ours."""
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.alias), raising=False)


@pytest.mark.parametrize(
    ("env", "are_on", "active"),
    [
        ({}, False, {"uploads"}),
        ({"HEADGATE_INGESTS_AT_ONCE": "3"}, True, {"uploads", "ingests"}),
        ({"HEADGATE_QUERIES_AT_ONCE": "3", "HEADGATE_UPLOADS_AT_ONCE": "0"}, True, {"running-queries"}),
        ({"RATE_LIMIT": "0"}, False, {"uploads"}),
        ({"RATE_LIMIT": "7", "HEADGATE_LIMITS": "off"}, False, {"uploads"}),
        ({"HEADGATE_LIMITS": "on"}, True, {"uploads"}),
        ({"AUTH": "on"}, True, {"uploads"}),
    ],
    ids=["nothing", "ingests", "queries alone", "none", "off", "on", "guarded"],
)
def test_limits_hold_where_somebody_means_them(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], are_on: bool, active: set[str]
) -> None:
    """X6: with authentication, or where one is set; several processes that count alone are warned of, once."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert are_limits_on(settings) is are_on
    assert {one.name for one in settings.slots()} == active
    assert warn_of_workers(settings, 1) is False
    assert warn_of_workers(settings, 2) is are_on


def test_with_redis_the_workers_count_windows_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left to be warned of are the slots."""
    monkeypatch.setenv("HEADGATE_LIMITS", "on")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1")
    assert warn_of_workers(load_settings(), 2)
    monkeypatch.setenv("HEADGATE_UPLOADS_AT_ONCE", "0")
    assert not warn_of_workers(load_settings(), 2)
