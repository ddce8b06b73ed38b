"""The systemd unit: well-formed, and true to how the gateway stops."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from edge.cli_output import ExitCode
from edge.serve_start import EXIT_IN_USE
from engine.settings import Settings, load_settings
from tests.support.compose_file import ROOT, longest_stop_s

UNIT = ROOT / "edge" / "deploy" / "systemd" / "headgate.service"


def service() -> dict[str, str]:
    """What stands under [Service]; of what stands there twice, the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # the names' case is kept
    parser.read_string(UNIT.read_text())
    return dict(parser["Service"])


def test_its_engines_are_not_told_to_stop_before_it_has_drained() -> None:
    """SIGTERM goes to the gateway alone, which has time for everything."""
    unit = service()
    assert unit["KillMode"] == "mixed"
    longest_s = longest_stop_s(load_settings().drain_s)
    assert float(unit["TimeoutStopSec"]) > longest_s
    assert unit["OOMPolicy"] == "continue"


def test_it_is_not_started_again_where_that_does_not_help() -> None:
    """Wrong usage, and a folder that is in use."""
    assert service()["RestartPreventExitStatus"].split() == [str(int(ExitCode.WRONG_USAGE)), str(EXIT_IN_USE)]


def test_there_is_room_for_every_connection() -> None:
    """And the folder is the one that systemd makes."""
    unit = service()
    assert int(unit["LimitNOFILE"]) >= load_settings().connections + 500
    variable, _, folder = unit["Environment"].partition("=")
    assert variable in {field.alias for field in Settings.model_fields.values()}
    assert folder == f"/var/lib/{unit['StateDirectory']}" == unit["WorkingDirectory"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on PATH")
def test_systemd_s_own_tool_takes_it(tmp_path: Path) -> None:
    """Every word is one that systemd knows."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/headgate/bin/headgate", "/bin/true"))
    answer = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "headgate.service" not in answer.stderr, answer.stderr
    assert answer.returncode == 0, answer.stderr
