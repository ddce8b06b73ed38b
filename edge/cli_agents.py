"""`headgate agents`, `headgate scans`, and `headgate scan --agent`: remote scanners from the command line.

Rules of the file:
- A scan is asked for under an idempotency key, so that trying again never starts a second one.
- What a person reads while something runs goes to stderr; the result alone to stdout.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, Parameter, validators

from edge.cli_options import DEFAULT_GATEWAY, NO_TRUST, GatewayOption, JsonOption, TokenOption, Trust, examples
from edge.cli_output import ExitCode, print_result, say

if TYPE_CHECKING:
    from edge.client import Client

ASK_EVERY_S: Final = 0.5
LIVE_STATES: Final = frozenset({"queued", "running"})

AgentIdOption = Annotated[
    str | None, Parameter(help="Its name at the gateway; made of the host's name and the folder when not given.")
]
ConcurrencyOption = Annotated[
    int, Parameter(validator=validators.Number(gte=1, lte=256), help="Scans at once, as an agent.")
]
ApiKeyOption = Annotated[
    str | None,
    Parameter(
        env_var="HEADGATE_API_KEY", help="As an agent: exchanged for short-lived tokens; better set as a variable."
    ),
]
WaitOption = Annotated[bool, Parameter(negative="", help="Wait until it is over; exit code 1 unless it is complete.")]

agents = App(name="agents", help="Remote scanners: who is there (no command), and have one scan.")
scans = App(name="scans", help="Scans of remote scanners: list them (no command), or show one.")


@agents.default
async def list_agents(
    *,
    gateway: GatewayOption = DEFAULT_GATEWAY,
    token: TokenOption = None,
    trust: Trust = NO_TRUST,
    json: JsonOption = False,
) -> int:
    """List the remote scanners that are connected, and those that were."""
    from edge.client import Client

    async with Client(gateway, token, give_up_s=0, tls=trust.context()) as client:
        found = await client.call("GET", "/agents")
    names = ("agent_id", "state", "running", "queued", "max_concurrency", "root_path", "version", "last_seen")
    print_result(found if json else _table(names, found["agents"]))
    return ExitCode.OK


@agents.command(
    help_epilogue=examples(
        "headgate agents scan nas-1 /projects/show", "headgate agents scan nas-1 /projects --force --wait --json"
    )
)
async def scan(
    agent_id: str,
    root: str,
    /,
    *,
    force: Annotated[bool, Parameter(negative="")] = False,
    wait: WaitOption = False,
    timeout_s: Annotated[float | None, Parameter(name="--timeout", validator=validators.Number(gte=1))] = None,
    gateway: GatewayOption = DEFAULT_GATEWAY,
    token: TokenOption = None,
    trust: Trust = NO_TRUST,
    json: JsonOption = False,
) -> int:
    """Have a remote scanner scan a folder; prints the scan's id.

    Args:
        agent_id: Which one; `headgate agents` lists them.
        root: The folder, as that machine names it.
        force: Hash everything, whatever is known.
        timeout_s: Seconds it may take; HEADGATE_SCAN_TIMEOUT_S of the gateway when not given.
    """
    import uuid
    from urllib.parse import quote

    from edge.client import Client

    body: dict[str, Any] = {"root": root, "options": {"force": force}, "trigger_type": "cli"}
    if timeout_s is not None:
        body["timeout_s"] = timeout_s
    async with Client(gateway, token, give_up_s=10, tls=trust.context()) as client:
        path = f"/agents/{quote(agent_id, safe='')}/scan"
        started = await client.call("POST", path, body=body, key=str(uuid.uuid4()))
        if wait:
            return await _show(client, started["command_id"], wait=True, json=json)
    print_result(started if json else started["command_id"])
    return ExitCode.OK


@scans.default
async def list_scans(
    *,
    agent: str | None = None,
    state: str | None = None,
    limit: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=500))] = 20,
    gateway: GatewayOption = DEFAULT_GATEWAY,
    token: TokenOption = None,
    trust: Trust = NO_TRUST,
    json: JsonOption = False,
) -> int:
    """List scans, newest first.

    Args:
        agent: Only this agent's.
        state: Only these: queued, running, complete, failed or lost.
        limit: How many.
    """
    from edge.client import Client

    given = {"agent": agent, "state": state, "limit": str(limit)}
    async with Client(gateway, token, give_up_s=0, tls=trust.context()) as client:
        found = await client.call("GET", "/scans", params={name: text for name, text in given.items() if text})
    names = ("command_id", "agent_id", "state", "root", "took_s", "created_at", "error")
    print_result(found if json else _table(names, found["scans"]))
    return ExitCode.OK


@scans.command(help_epilogue=examples("headgate scans show 4f0c… --wait"))
async def show(
    command_id: str,
    /,
    *,
    wait: WaitOption = False,
    gateway: GatewayOption = DEFAULT_GATEWAY,
    token: TokenOption = None,
    trust: Trust = NO_TRUST,
    json: JsonOption = False,
) -> int:
    """Show one scan, with what its agent said of it.

    Args:
        command_id: Which one; `headgate scans` lists them.
    """
    from edge.client import Client

    async with Client(gateway, token, give_up_s=10, tls=trust.context()) as client:
        return await _show(client, command_id, wait=wait, json=json)


async def run_scan_agent(
    gateway: str,
    token: str | None,
    *,
    trust: Trust,
    give_up_s: float,
    folder: Path,
    agent_id: str | None,
    max_concurrency: int,
    subject: str | None,
    threads: int | None,
    api_key: str | None,
    as_json: bool,
) -> int:
    """Be a remote scanner until a signal; the exit code says which."""
    import os
    import signal
    from importlib.metadata import PackageNotFoundError, version

    import trio

    from edge.client import Client
    from edge.nursery import open_plain_nursery
    from edge.scan_agent import AgentOptions, ScanAgent

    root = _spell(folder)
    try:
        release = version("headgate")
    except PackageNotFoundError:  # run from a source tree that was never installed
        release = ""
    name = agent_id or _own_name(root)
    options = AgentOptions(name, root, max_concurrency, release, subject, threads, api_key)
    code = ExitCode.OK

    def on_end(frame: dict[str, Any]) -> None:
        if as_json:
            print_result(frame)

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with (
            Client(gateway, token, give_up_s=give_up_s, tls=trust.context()) as client,
            open_plain_nursery() as nursery,
        ):
            agent = ScanAgent(client, options, say, on_end)

            async def watch() -> None:
                nonlocal code
                is_stopping = False
                async for number in signals:
                    if is_stopping:
                        os._exit(ExitCode.INTERRUPTED)  # told twice: now
                    is_stopping = True
                    code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.OK
                    agent.stop()

            nursery.start_soon(watch)
            await agent.run_agent()
            nursery.cancel_scope.cancel()
    return code


async def _show(client: "Client", command_id: str, *, wait: bool, json: bool) -> int:
    from urllib.parse import quote

    import trio

    while True:
        found = await client.call("GET", f"/scans/{quote(command_id, safe='')}")
        if not wait or found["state"] not in LIVE_STATES:
            break
        await trio.sleep(ASK_EVERY_S)
    if json:
        print_result(found)
    else:
        print_result("\n".join(f"{name:<14}{_say(value)}" for name, value in found.items() if value is not None))
    return ExitCode.OK if not wait or found["state"] == "complete" else ExitCode.FAILED


def _spell(folder: Path) -> str:
    return str(folder.absolute())


def _own_name(root: str) -> str:
    """Make a name that is the same after a restart, and another for another folder of this machine."""
    import os
    import socket

    import xxhash

    return f"{socket.gethostname()[:100]}-{xxhash.xxh3_64_hexdigest(os.fsencode(root))[:8]}"


def _table(names: tuple[str, ...], rows: list[dict[str, Any]]) -> object:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_say(row.get(name))) for name in names))
    return table


def _say(value: object) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name}={_say(one)}" for name, one in value.items())
    return "" if value is None else str(value)
