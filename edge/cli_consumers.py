"""`headgate consumers` and `headgate dead`: what reads the stream, and what it gave up on, from the command line.

Rules of the file:
- What is printed for a person is the gateway's answer, folded; `--json` prints it as it came.
- Nothing that changes something is tried a second time by itself.
"""

from typing import Annotated, Any, Final
from urllib.parse import quote

from cyclopts import App, Parameter, validators

from edge.cli_options import DEFAULT_GATEWAY, NO_TRUST, GatewayOption, JsonOption, TokenOption, Trust, examples
from edge.cli_output import ExitCode, print_result, say

_FACTS: Final = ("durable", "subject", "pending", "ack_pending", "redelivered", "lag_s", "attached", "paused_until")
_LETTERS: Final = ("id", "time", "durable", "subject", "seq", "delivered", "reason")
_HELP: Final = "What reads the stream: list (also without a command), show, reset, pause, resume, delete."

DurableArgument = Annotated[str, Parameter(help="Its name; `headgate consumers` lists them.")]

consumers = App(name="consumers", help=_HELP)
dead = App(name="dead", help="Dead letters: list them (also without a command), or replay them.")


@consumers.default
@consumers.command(name="list", help_epilogue=examples("headgate consumers list", "headgate consumers list --json"))
async def list_consumers(
    *,
    gateway: GatewayOption = DEFAULT_GATEWAY,
    token: TokenOption = None,
    trust: Trust = NO_TRUST,
    json: JsonOption = False,
) -> int:
    """List every consumer: how much waits for it, how old the oldest of that is, and how many sockets it has here."""
    found: list[dict[str, Any]] = []
    offset: int | None = 0
    while offset is not None:
        page = await _call(gateway, token, trust, "GET", "/consumers", params={"offset": str(offset)})
        found += page["consumers"]
        offset = page["next"]
    print_result({"consumers": found} if json else _table(_FACTS, found))
    return ExitCode.OK


@consumers.command(help_epilogue=examples("headgate consumers show mysql", "headgate consumers show mysql --json"))
async def show(
    durable: DurableArgument,
    /,
    *,
    gateway: GatewayOption = DEFAULT_GATEWAY,
    token: TokenOption = None,
    trust: Trust = NO_TRUST,
    json: JsonOption = False,
) -> int:
    """Show one consumer."""
    _print_one(await _call(gateway, token, trust, "GET", _path(durable)), as_json=json)
    return ExitCode.OK


@consumers.command(
    help_epilogue=examples(
        "headgate consumers reset mysql --to all",
        "headgate consumers reset mysql --to time:2026-01-31T12:00:00Z",
        "headgate consumers reset mysql --to seq:4711 --json",
    )
)
async def reset(
    durable: DurableArgument,
    /,
    *,
    to: str,
    gateway: GatewayOption = DEFAULT_GATEWAY,
    token: TokenOption = None,
    trust: Trust = NO_TRUST,
    json: JsonOption = False,
) -> int:
    """Move a consumer to another place in the stream.

    Attached agents stay attached; what they hold is taken from them, and what they still say of it is void.

    Args:
        to: Where it goes on: all, new, last, seq:N or time:ISO.
    """
    moved = await _call(gateway, token, trust, "POST", _path(durable, "reset"), body={"to": to})
    _print_one(moved, as_json=json)
    return ExitCode.OK


@consumers.command(help_epilogue=examples("headgate consumers pause mysql --for 600"))
async def pause(
    durable: DurableArgument,
    /,
    *,
    for_s: Annotated[float, Parameter(name="--for", validator=validators.Number(gt=0))],
    gateway: GatewayOption = DEFAULT_GATEWAY,
    token: TokenOption = None,
    trust: Trust = NO_TRUST,
    json: JsonOption = False,
) -> int:
    """Deliver nothing to a consumer for a while; what was published meanwhile waits.

    Args:
        for_s: Seconds.
    """
    paused = await _call(gateway, token, trust, "POST", _path(durable, "pause"), body={"for_s": for_s})
    _print_one(paused, as_json=json)
    return ExitCode.OK


@consumers.command(help_epilogue=examples("headgate consumers resume mysql"))
async def resume(
    durable: DurableArgument,
    /,
    *,
    gateway: GatewayOption = DEFAULT_GATEWAY,
    token: TokenOption = None,
    trust: Trust = NO_TRUST,
    json: JsonOption = False,
) -> int:
    """Deliver again to a consumer that was paused."""
    _print_one(await _call(gateway, token, trust, "POST", _path(durable, "resume")), as_json=json)
    return ExitCode.OK


@consumers.command(help_epilogue=examples("headgate consumers delete mysql", "headgate consumers delete mysql --force"))
async def delete(
    durable: DurableArgument,
    /,
    *,
    force: Annotated[bool, Parameter(negative="")] = False,
    gateway: GatewayOption = DEFAULT_GATEWAY,
    token: TokenOption = None,
    trust: Trust = NO_TRUST,
    json: JsonOption = False,
) -> int:
    """Remove a consumer, and its place in the stream with it.

    Args:
        force: Also when sockets are attached, which are told; they would make it again, from the beginning.
    """
    params = {"force": "1"} if force else None
    removed = await _call(gateway, token, trust, "DELETE", _path(durable), params=params)
    print_result(removed if json else f"{durable} is removed")
    return ExitCode.OK


@dead.default
@dead.command(name="list", help_epilogue=examples("headgate dead list --durable mysql", "headgate dead list --json"))
async def list_dead(
    *,
    durable: Annotated[str | None, Parameter(help="Those of one consumer.")] = None,
    after: Annotated[int, Parameter(validator=validators.Number(gte=0), help="Those above this id.")] = 0,
    limit: Annotated[int, Parameter(validator=validators.Number(gte=1), help="At most so many.")] = 100,
    gateway: GatewayOption = DEFAULT_GATEWAY,
    token: TokenOption = None,
    trust: Trust = NO_TRUST,
    json: JsonOption = False,
) -> int:
    """List what agents gave up on: delivered too often, or terminated; with the reason."""
    found: list[dict[str, Any]] = []
    following: int | None = after
    while following is not None and len(found) < limit:
        params = {"after": str(following), "limit": str(min(100, limit - len(found)))}
        page = await _call(
            gateway, token, trust, "GET", "/stream/dead", params=params | ({"durable": durable} if durable else {})
        )
        found += page["dead"]
        following = page["next"]
    print_result({"dead": found, "next": following} if json else _table(_LETTERS, found))
    if following is not None and not json:
        say(f"there are more: --after {following}")
    return ExitCode.OK


@dead.command(help_epilogue=examples("headgate dead replay 17", "headgate dead replay 17 18 19 --json"))
async def replay(
    letter_id: Annotated[int, Parameter(validator=validators.Number(gte=1))],
    /,
    *more: Annotated[int, Parameter(validator=validators.Number(gte=1))],
    gateway: GatewayOption = DEFAULT_GATEWAY,
    token: TokenOption = None,
    trust: Trust = NO_TRUST,
    json: JsonOption = False,
) -> int:
    """Publish dead letters again on their subject, where every consumer gets them, and remove the letters.

    Args:
        letter_id: Which, as `headgate dead list` has them.
        more: And these; the first that cannot be replayed ends the command.
    """
    done = [await _call(gateway, token, trust, "POST", f"/stream/dead/{one}/replay") for one in (letter_id, *more)]
    if json:
        print_result({"replayed": done})
    else:
        print_result("\n".join(f"letter {one['id']} is message {one['seq']} of {one['stream']} now" for one in done))
    return ExitCode.OK


async def _call(
    gateway: str,
    token: str | None,
    trust: Trust,
    method: str,
    path: str,
    *,
    body: object = None,
    params: dict[str, str] | None = None,
) -> Any:
    from edge.client import Client

    async with Client(gateway, token, give_up_s=0, tls=trust.context()) as client:
        return await client.call(method, path, body=body, params=params)


def _path(durable: str, verb: str = "") -> str:
    return f"/consumers/{quote(durable, safe='')}" + (f"/{verb}" if verb else "")


def _print_one(facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_result(facts)
    else:
        print_result("\n".join(f"{name:<13}{_say(value)}" for name, value in facts.items()))


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
    if isinstance(value, float):
        return f"{value:.1f}"
    return "" if value is None else str(value)
