"""`headgate audit`: who changed what, from the command line.

Rules of the file:
- What is printed for a person is the gateway's answer, folded; `--json` prints one record a line as it came.
"""

from typing import Annotated, Any, Final

from cyclopts import App, Parameter, validators

from edge.cli_options import DEFAULT_GATEWAY, NO_TRUST, GatewayOption, JsonOption, TokenOption, Trust, examples
from edge.cli_output import ExitCode, print_result, say

PAGE: Final = 500
LOOK_EVERY_S: Final = 1.0
audit = App(
    name="audit",
    help="Who changed what: consumers, dead letters, scans, keys, tokens. Newest first; needs the scope admin.",
    help_epilogue=examples(
        "headgate audit",
        "headgate audit --action consumer.* --since 2026-01-31T00:00:00Z",
        "headgate audit --principal scanner-1 --limit 1000 --json",
        "headgate audit --follow",
    ),
)


@audit.default
async def show(
    *,
    principal: Annotated[str | None, Parameter(help="Those of one name.")] = None,
    action: Annotated[str | None, Parameter(help="Those of one action, or of a family: consumer.*")] = None,
    since: Annotated[str | None, Parameter(help="Then or later, 2026-01-31T12:00:00Z.")] = None,
    until: Annotated[str | None, Parameter(help="Before then.")] = None,
    limit: Annotated[int, Parameter(validator=validators.Number(gte=1), help="At most so many.")] = 50,
    follow: Annotated[
        bool, Parameter(negative="", help="Go on with what comes, oldest first; Ctrl-C ends it.")
    ] = False,
    gateway: GatewayOption = DEFAULT_GATEWAY,
    token: TokenOption = None,
    trust: Trust = NO_TRUST,
    json: JsonOption = False,
) -> int:
    """Show the records of the audit log."""
    from edge.client import Client

    asked = {"principal": principal, "action": action, "since": since, "until": until}
    params = {name: text for name, text in asked.items() if text is not None}
    async with Client(gateway, token, give_up_s=30.0 if follow else 0, tls=trust.context()) as client:
        if follow:
            await _follow(client, params, as_json=json)
        found, following = await _newest(client, params, limit)
    _print(found, as_json=json)
    if following is not None and not json:
        say("there are more: --limit shows them, or --until the oldest of these")
    return ExitCode.OK


async def _newest(client: Any, params: dict[str, str], limit: int) -> tuple[list[dict[str, Any]], int | None]:
    found: list[dict[str, Any]] = []
    following: int | None = None
    while True:
        more = {"limit": str(min(PAGE, limit - len(found)))} | ({} if following is None else {"before": str(following)})
        page = await client.call("GET", "/audit", params=params | more)
        found += page["records"]
        following = page["next"]
        if following is None or len(found) >= limit:
            return found, following


async def _follow(client: Any, params: dict[str, str], *, as_json: bool) -> None:
    """Print what has ended, as it ends; for ever."""
    import trio

    newest = await client.call("GET", "/audit", params={"limit": "1"})
    after = newest["records"][0]["seq"] if newest["records"] and "since" not in params else 0
    while True:
        page = await client.call("GET", "/audit", params=params | {"after": str(after), "limit": str(PAGE)})
        ended = [one for one in page["records"] if one["outcome"] != "unknown"]
        if ended:
            _print(ended, as_json=as_json)
        if page["next"] == after or not page["records"]:
            await trio.sleep(LOOK_EVERY_S)
        after = page["next"]


def _print(records: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        for one in records:
            print_result(one)
    elif records:
        print_result("\n".join(_line(one) for one in records))


def _line(one: dict[str, Any]) -> str:
    facts = " ".join(f"{name}={value}" for name, value in one["facts"].items() if value is not None)
    how = one["outcome"] if one["code"] is None else f"{one['outcome']} ({one['code']})"
    words = (one["began"], one["principal"], one["address"], one["action"], one["target"], how, facts)
    return _plain("  ".join(word for word in words if word))


def _plain(text: str) -> str:
    """Keep what a client chose from moving the terminal's cursor."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
