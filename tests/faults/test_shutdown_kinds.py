"""T22 for clients of every kind: whoever does not read, drips or is silent, on plain TCP and TLS, the gateway stops.

Rules of the file:
- How long it took is printed, and judged in the long form alone.
"""

import time
from pathlib import Path

import pytest
import trio

from tests.support.gateway import open_gateway
from tests.support.http import ask, post_json
from tests.support.processes import ProcessName, is_alive
from tests.support.slow_clients import KINDS, MORE_KINDS, TLS_KINDS, Kind, stay
from tests.support.tls import make_pair, open_relay
from tests.support.waiting import wait_until

DRAIN_S = 2
EXIT_LIMIT_S = DRAIN_S + 5
PATIENCE_S = 40
EACH_COUNT = 3


@pytest.mark.parametrize("is_judged", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("speaks_tls", [False, True])
async def test_shutdown_ends_whatever_its_clients_do(tmp_path: Path, *, speaks_tls: bool, is_judged: bool) -> None:
    """T22: more than fifty clients of every kind; exit 0 within the drain time and 5 s, children gone, no orphan."""
    pair = make_pair(tmp_path / "pair")
    kinds = [*(TLS_KINDS if speaks_tls else KINDS).values(), *MORE_KINDS.values()]
    env = {"HEADGATE_DRAIN_S": str(DRAIN_S), "HEADGATE_CATALOG": "on"} | (pair.env if speaks_tls else {})
    context = pair.trusting() if speaks_tls else None
    async with (
        open_gateway(tmp_path / "data", env=env) as gateway,
        open_relay(gateway.url, pair.trusting()) as relay,
        trio.open_nursery() as nursery,
    ):
        url = relay if speaks_tls else gateway.url
        events = {"events": [{"type": "note", "data": {"pad": "x" * 4000}} for _ in range(100)]}
        for _ in range(5):
            assert (await post_json(url, "/ingest?subject=snapfs.slow", events)).status == 200
        for number in range(EACH_COUNT):
            for kind in kinds:
                nursery.start_soon(stay, gateway.url, kind, number, context)
        await wait_until(lambda: is_crowded(url, kinds), "the clients are there", timeout_s=PATIENCE_S)
        children = [name for pid in gateway.children() if (name := ProcessName.of(pid)) is not None]
        assert len(children) >= 2, "the log and PostgreSQL"
        began = time.monotonic()
        exit_code = await gateway.terminate(timeout_s=PATIENCE_S)
        took_s = time.monotonic() - began
        nursery.cancel_scope.cancel()
    print(f"exit code {exit_code} after {took_s:.2f} s, {len(kinds) * EACH_COUNT} clients")
    assert exit_code == 0, gateway.tail()
    assert not [child for child in children if is_alive(child)]
    assert "Traceback" not in gateway.log_text(), gateway.tail()
    if is_judged:
        assert took_s < EXIT_LIMIT_S


async def is_crowded(url: str, kinds: list[Kind]) -> bool:
    """Whether most of them are connected: those that asked for too much have been told so already."""
    children = (await ask(url, "GET", "/actors")).json()["actors"]["children"]
    depth = next(int(child["mailbox"]["depth"]) for child in children if child["name"] == "listener")
    return depth > len(kinds) * EACH_COUNT * 2 // 3
