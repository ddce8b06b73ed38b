"""`headgate top`: a screen of what a gateway does.

Rules of the file:
- A terminal gets a screen that changes; anything else gets one look and the end.
"""

from typing import Annotated

from cyclopts import Parameter, validators

from edge.cli_options import DEFAULT_GATEWAY, NO_TRUST, GatewayOption, JsonOption, TokenOption, Trust
from edge.cli_output import ExitCode, print_result


async def top(
    *,
    gateway: GatewayOption = DEFAULT_GATEWAY,
    interval: Annotated[float, Parameter(validator=validators.Number(gte=0.1, lte=3600))] = 1.0,
    once: Annotated[bool, Parameter(negative="")] = False,
    token: TokenOption = None,
    trust: Trust = NO_TRUST,
    json: JsonOption = False,
) -> int:
    """Watch a gateway: rates, routes, lags of consumers, and the tree of actors with their mailboxes.

    Ends with Ctrl-C. With --once, --json, or where stdout is no terminal, it looks twice and prints what happened in
    between. With authentication on, the token needs `metrics:read`, and `admin` to see the tree.

    Args:
        interval: Seconds between two looks.
        once: Print one screen and end.
    """
    import sys

    import trio
    from rich.console import Console
    from rich.live import Live

    from edge.client import Client, GatewayRefused
    from edge.client_retry import GatewayError
    from edge.top import summarise, take_look, to_view

    async with Client(gateway, token, give_up_s=0, tls=trust.context()) as client:
        before = await take_look(client)
        console = Console()
        if json or once or not sys.stdout.isatty():
            await trio.sleep(interval)
            summary = summarise(before, await take_look(client))
            print_result(summary if json else to_view(summary, 1000, gateway))
            return ExitCode.OK
        summary, now = summarise(before, before), before  # what is, at once; rates need a second look
        with Live(to_view(summary, console.height, gateway), console=console, screen=True, auto_refresh=False) as live:
            while True:
                await trio.sleep(interval)
                try:
                    before, now = now, await take_look(client)
                except GatewayRefused:
                    raise
                except GatewayError as error:
                    live.update(to_view(summary, console.height, f"{gateway}: {error}"), refresh=True)
                    continue
                summary = summarise(before, now)
                live.update(to_view(summary, console.height, gateway), refresh=True)
