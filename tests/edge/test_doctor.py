"""`headgate doctor`: what it finds, and that it leaves no trace."""

import os
from pathlib import Path

import orjson
import pytest

from edge.config_show import to_json as settings_to_json
from edge.config_show import to_table as settings_to_table
from edge.doctor import PARTS, Finding, examine, is_well, to_json, to_table
from engine.settings import SettingLine, Settings, load_settings
from tests.support.gateway import open_gateway

NOBODY = "http://127.0.0.1:1"


def settings(**values: object) -> Settings:
    """Give settings as the command line would."""
    return load_settings(values)


async def look(given: Settings, gateway_url: str | None = None) -> dict[str, Finding]:
    """Examine, by name."""
    return {finding.name: finding for finding in await examine(given, gateway_url)}


async def test_a_good_installation_is_well(tmp_path: Path) -> None:
    """Versions, folder, free space, fsync, binary and durability are all there, and nothing is wrong."""
    found = await look(settings(data=tmp_path / "data", port=1))
    assert set(found) >= {
        *PARTS,
        "python",
        "data folder",
        "free space",
        "fsync",
        "nats-server",
        "durability",
        "gateway",
    }
    assert is_well(list(found.values()))
    assert "median of 50" in found["fsync"].value
    assert found["durability"].value.startswith("fsync (embedded log)")
    assert found["nats-server"].value.startswith("nats-server")
    assert found["gateway"].state == "note"
    assert "(not there yet)" in found["data folder"].value


async def test_the_doctor_leaves_nothing_behind(tmp_path: Path) -> None:
    """It measures the disk without making the data folder or a file."""
    await look(settings(data=tmp_path / "a" / "b", port=1))
    assert os.listdir(tmp_path) == []


async def test_a_data_folder_that_is_none_is_wrong(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "file").touch()
    found = await look(settings(data=tmp_path / "file" / "data", port=1))
    assert found["data folder"].state == "wrong"
    assert "--data" in found["data folder"].advice


async def test_a_data_folder_that_cannot_be_written_is_wrong() -> None:
    """Not even root writes there."""
    found = await look(settings(data=Path("/proc/self"), port=1))
    assert found["data folder"].state == "wrong"
    assert "cannot write there" in found["data folder"].advice


async def test_a_gateway_that_must_answer_and_does_not_is_wrong(tmp_path: Path) -> None:
    """Named by the user, its absence is a failure."""
    found = await look(settings(data=tmp_path), NOBODY)
    assert found["gateway"].state == "wrong"
    assert "headgate serve" in found["gateway"].advice


async def test_a_gateway_that_answers_is_well(tmp_path: Path) -> None:
    """Its state and durability class are told."""
    async with open_gateway(tmp_path / "data") as gateway:
        found = await look(settings(data=tmp_path / "data"), gateway.url)
    assert found["gateway"] == Finding("gateway", "ok", f"{gateway.url} is ready, durability fsync")


@pytest.mark.parametrize(
    ("values", "state", "said"),
    [
        ({"durability": "buffered"}, "note", "buffered (embedded log)"),
        ({"nats_url": "nats://u:geheim@127.0.0.1:1"}, "note", "nothing proves more"),
        ({"nats_url": "nats://127.0.0.1:1", "nats_monitor_url": NOBODY}, "note", "its monitoring does not answer"),
    ],
)
async def test_durability_is_what_can_be_proved(
    values: dict[str, object], state: str, said: str, tmp_path: Path
) -> None:
    """An external log is buffered until its monitoring proves more, and no password is shown."""
    finding = (await look(settings(data=tmp_path, port=1, **values)))["durability"]
    assert finding.state == state
    assert said in finding.value
    assert "geheim" not in finding.value


async def test_a_missing_binary_is_wrong_only_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `nats-server` an external log still works."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    assert (await look(settings(data=tmp_path, port=1)))["nats-server"].state == "wrong"
    external = settings(data=tmp_path, port=1, nats_url="nats://127.0.0.1:1")
    assert (await look(external))["nats-server"].state == "note"


def test_findings_have_both_forms() -> None:
    """One JSON object that says whether all is well, and a row a finding."""
    findings = [Finding("a", "ok", "fine"), Finding("b", "wrong", "bad", "mend it")]
    assert to_json(findings)["ok"] is False
    assert orjson.dumps(to_json(findings))
    assert to_table(findings).row_count == 2
    assert is_well(findings[:1])


def test_a_secret_setting_is_masked_twice() -> None:
    """Whatever the settings say of a secret value, it does not leave unmasked."""
    lines = [
        SettingLine("a", "A", "plain", "default", False, ""),
        SettingLine("b", "B", "geheim", "environment", True, ""),
        SettingLine("c", "C", "nats://***@host", "environment", True, ""),
    ]
    assert [line["value"] for line in settings_to_json(lines)] == ["plain", "***", "nats://***@host"]
    assert settings_to_table(lines).row_count == 3
