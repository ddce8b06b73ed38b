"""T30: every socket route holds to RFC 6455 and to its bounds, whoever is at the other end.

Rules of the file:
- The routes are those of `/asyncapi.json`: one that is new there and not in `TARGETS` fails here.
- A connection that must live is asked something afterwards, and one that must end is read to its end.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.support.baseline import take_baseline, wait_back_at
from tests.support.gateway import Gateway, open_gateway, running_gateway
from tests.support.hostile_frames import CLOSE, PONG
from tests.support.http import ConnectionLost, ask
from tests.support.socket_cases import Case, all_cases
from tests.support.socket_peer import ENDS_WITHIN_S, TARGETS, WIRES, open_peer
from tests.support.tls import make_pair, open_relay

AT_ONCE = 20


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway for all of it."""
    with running_gateway(tmp_path_factory.mktemp("sockets") / "data") as running:
        yield running


async def try_case(url: str, wire: str, case: Case, piece_bytes: int | None) -> list[str]:
    """Send a case's frames, and say what was not as it must be."""
    complaints: list[str] = []
    async with open_peer(url, wire) as peer:
        assert peer.answer.status == 101, peer.answer
        with trio.move_on_after(ENDS_WITHIN_S) as patience:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.send, case.data, piece_bytes)
                try:
                    for payload in case.pongs:
                        seen = await peer.next_frame(PONG, CLOSE)
                        if seen != (PONG, payload):
                            complaints.append(f"{seen} instead of the pong {payload!r}")
                    if case.closes is None:
                        await peer.prove_alive()
                    elif (code := await peer.close_code()) != case.closes:
                        complaints.append(f"closed with {code} instead of {case.closes}")
                except (ConnectionLost, AssertionError) as error:
                    complaints.append(str(error))
        if patience.cancelled_caught:
            complaints.append(f"not over after {ENDS_WITHIN_S:g} s")
    return [f"{wire}: {case.name}: {complaint}" for complaint in complaints]


async def try_cases(gateway: Gateway, wire: str, cases: list[Case], piece_bytes: int | None) -> None:
    """Try cases side by side; all complaints are shown, and nothing is left over or logged as our fault."""
    before = await take_baseline(gateway)
    faults = count_faults(gateway)
    complaints: list[str] = []

    async def try_some(rest: Iterator[Case]) -> None:
        for case in rest:
            complaints.extend(await try_case(gateway.url, wire, case, piece_bytes))

    async with trio.open_nursery() as nursery:
        rest = iter(cases)
        for _ in range(AT_ONCE):
            nursery.start_soon(try_some, rest)
    assert not complaints, f"{len(complaints)} complaints\n" + "\n".join(sorted(complaints))
    await wait_back_at(gateway, before)
    assert count_faults(gateway) == faults, gateway.tail()


def count_faults(gateway: Gateway) -> int:
    """How many lines about faults of our own the log has."""
    return sum(line.get("level") in ("error", "critical") for line in gateway.log_lines())


async def test_every_socket_route_is_tried(gateway: Gateway) -> None:
    """T30: what `/asyncapi.json` lists is what is tried here."""
    channels = (await ask(gateway.url, "GET", "/asyncapi.json")).json()["channels"]
    tried = {target.partition(b"?")[0].decode() for target, _ in TARGETS.values()}
    assert {channel["address"].partition("?")[0] for channel in channels.values()} == tried


@pytest.mark.parametrize("wire", WIRES)
async def test_frames_are_followed_to_the_letter(gateway: Gateway, wire: str) -> None:
    """T30: Autobahn's sections 1 to 7 and 10: what is right lives, what is wrong is closed with its code."""
    await try_cases(gateway, wire, all_cases(), None)


@pytest.mark.parametrize("wire", [wire for wire in TARGETS if wire not in WIRES])
async def test_a_route_of_another_name_is_the_same(gateway: Gateway, wire: str) -> None:
    """T30: a tenth of the table on the routes that are one of the three under another name."""
    await try_cases(gateway, wire, all_cases()[::10], None)


@pytest.mark.long
@pytest.mark.parametrize("wire", WIRES)
async def test_frames_over_tls_are_followed_to_the_letter(tmp_path: Path, wire: str) -> None:
    """T30: the same inside TLS."""
    pair = make_pair(tmp_path / "pair")
    async with (
        open_gateway(tmp_path / "data", env=pair.env) as gateway,
        open_relay(gateway.url, pair.trusting()) as url,
    ):
        complaints: list[str] = []
        for case in all_cases():
            complaints += await try_case(url, wire, case, None)
        assert not complaints, "\n".join(complaints)
        assert count_faults(gateway) == 0, gateway.tail()


@pytest.mark.long
@pytest.mark.parametrize("piece_bytes", [1, 7, 1013])
@pytest.mark.parametrize("wire", TARGETS)
async def test_frames_in_pieces_are_followed_to_the_letter(gateway: Gateway, wire: str, piece_bytes: int) -> None:
    """T30: the same in pieces of one byte and of others; the largest only in large ones."""
    cases = [case for case in all_cases() if len(case.data) < 3_000 * piece_bytes]
    await try_cases(gateway, wire, cases, piece_bytes)
