"""A process of many `headgate.stream.v1` agents that take what they are granted and never settle, to be killed.

`python -m tests.support.agents_v1_script URL DURABLE SUBJECT SOCKETS EACH`
"""

import subprocess
import sys
from pathlib import Path

import trio

from tests.support.agent_v1 import open_agent_v1
from tests.support.processes import spawn

__all__ = ["spawn_agents"]


def spawn_agents(
    url: str, durable: str, subject: str, sockets: int, each: int, folder: Path
) -> subprocess.Popen[bytes]:
    """Start the process; whoever starts it kills it and waits for it."""
    words = [url, durable, subject, str(sockets), str(each)]
    return spawn([sys.executable, "-m", "tests.support.agents_v1_script", *words], folder / "agents.log")


async def hold(url: str, durable: str, subject: str, each: int) -> None:
    """Take so many messages, and hold them."""
    async with open_agent_v1(url, durable, subject=subject, batch=each) as agent:
        await agent.credit(each)
        while True:
            await agent.receive(3600)


async def main(url: str, durable: str, subject: str, sockets: int, each: int) -> None:
    """Run the agents until killed."""
    async with trio.open_nursery() as nursery:
        for _ in range(sockets):
            nursery.start_soon(hold, url, durable, subject, each)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
