"""What a gateway holds when nobody is there: its actors and its file descriptors.

Rules of the file:
- It is taken after everything that is made once was made: both lanes were asked, an agent came and went.
- The question itself is part of every answer: `/actors` counts the connection that asks.
"""

from dataclasses import dataclass
from typing import Any

from tests.support.agent import open_agent
from tests.support.gateway import Gateway
from tests.support.http import Answer, ask, open_connection
from tests.support.processes import count_fds
from tests.support.waiting import wait_until

__all__ = ["Baseline", "take_baseline", "wait_back_at"]

# Longer than the keep-alive, the header deadline and the body's grace of RELIABILITY.md 4.1.
RETURN_TIMEOUT_S = 20.0
QUIET_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Baseline:
    """The tree of actors, one line each (path, state, restarts, mailbox depth), and the number of descriptors."""

    actors: tuple[str, ...]
    fd_count: int


async def take_baseline(gateway: Gateway) -> Baseline:
    """Use everything once, wait until it is quiet, and take what is there then."""
    for target in ("/healthz", "/readyz", "/version", "/actors"):
        assert (await ask(gateway.url, "GET", target)).status == 200, target
    async with open_agent(gateway.url, "baseline"):
        pass
    seen: list[Baseline] = []
    async with open_connection(gateway.url) as connection:  # one: those that are being closed are counted for a while

        async def is_quiet() -> bool:
            seen.append(_read(gateway, await connection.request("GET", "/actors")))
            return len(seen) >= 20 and len(set(seen[-20:])) == 1

        await wait_until(is_quiet, "the gateway is quiet", timeout_s=QUIET_TIMEOUT_S, interval_s=0.02)
    return seen[-1]


async def wait_back_at(gateway: Gateway, baseline: Baseline) -> None:
    """Wait until the gateway holds no more than it did then.

    Raises:
        AssertionError: it does not come back; the message has what is left over.
    """
    now = baseline

    async def is_back() -> bool:
        nonlocal now
        now = await _look(gateway)
        return now.actors == baseline.actors and now.fd_count <= baseline.fd_count

    try:
        await wait_until(is_back, "back at the baseline", timeout_s=RETURN_TIMEOUT_S, interval_s=0.05)
    except AssertionError:
        more, less = set(now.actors) - set(baseline.actors), set(baseline.actors) - set(now.actors)
        raise AssertionError(
            f"not back at the baseline: {now.fd_count - baseline.fd_count} descriptors more; "
            f"actors there and not before: {sorted(more)}; before and not now: {sorted(less)}"
        ) from None


async def _look(gateway: Gateway) -> Baseline:
    return _read(gateway, await ask(gateway.url, "GET", "/actors"))


def _read(gateway: Gateway, answer: Answer) -> Baseline:
    assert answer.status == 200, answer
    return Baseline(tuple(_lines(answer.json()["actors"], "")), count_fds(gateway.pid))


def _lines(actor: dict[str, Any], above: str) -> list[str]:
    path = f"{above}/{actor['name']}"
    depth = "" if actor["mailbox"] is None else f" depth={actor['mailbox']['depth']}"
    line = f"{path} {actor['state']} restarts={actor['restarts']}{depth}"
    return [
        line,
        *(
            line
            for child in sorted(actor["children"], key=lambda each: str(each["name"]))
            for line in _lines(child, path)
        ),
    ]
