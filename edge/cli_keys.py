"""`headgate keys`: make, list, replace and withdraw API keys in a data folder.

Rules of the file:
- A key is printed once, when it is made, on stdout and nowhere else.
- A running gateway takes a change over within a second; nothing has to be restarted.
"""

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, Parameter, validators

from edge.cli_output import ExitCode, print_result, say

if TYPE_CHECKING:
    from engine.audit import Record
    from engine.keys import KeyRecord, KeyRing
    from engine.keys_file import KeysFile

SECONDS_A_DAY: Final = 86_400
keys = App(
    name="keys",
    help="Make, list, replace and withdraw the API keys of a data folder. A running gateway follows within a second.",
)
DataOption = Annotated[Path | None, Parameter(help="The gateway's data folder; HEADGATE_DATA, or ./headgate-data.")]
JsonOption = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON, for programs.")]
ListOption = Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=True)]


def _examples(*lines: str) -> str:
    return "\n".join(["**Examples**", "", *(f"- `{line}`" for line in lines)])


@keys.command(
    help_epilogue=_examples(
        "headgate keys create scanner-1",
        "headgate keys create team-a --scope stream:read --subject snapfs.team-a.> --durable team-a-*",
        "headgate keys create robot --signed",
        "headgate keys create prometheus --scope metrics:read --expires-days 90 --json",
    )
)
def create(
    name: str,
    /,
    *,
    scope: ListOption = (),
    subject: ListOption = (),
    durable: ListOption = (),
    path: ListOption = (),
    expires_days: Annotated[float | None, Parameter(validator=validators.Number(gt=0, lte=36_500))] = None,
    signed: Annotated[bool, Parameter(negative="")] = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> int:
    """Make a key and print it: once, now. What is kept of it cannot be turned back into it.

    Args:
        name: Whose key it is; several keys of one name are one principal.
        scope: What it may do; ingest:write, stream:read and agents:run when not given; `admin` is everything.
        subject: Subjects of the log it may touch, `snapfs.team.>` for a family; all when not given.
        durable: Consumers it may use, `team-*` for a family; all when not given.
        path: Folders of the file store it may touch; all when not given.
        expires_days: Days it is good for; for ever when not given.
        signed: It signs requests (RFC 9421) and is never sent: shown as a bearer, it opens nothing.
    """
    from engine.identity import FIELD_SCOPES, expand_scopes
    from engine.keys import KeyRecord, digest_of, make_key
    from engine.names import check_token

    scopes = scope or tuple(sorted(FIELD_SCOPES))
    key_id, key = make_key(secrets.token_bytes(40))
    now = time.time()
    try:
        check_token(name)
        expand_scopes(scopes)
    except ValueError as problem:
        raise _wrong(str(problem)) from None
    expires_at = now + expires_days * SECONDS_A_DAY if expires_days else None
    record = KeyRecord(
        key_id, name, digest_of(key), scopes, subject, durable, path, now, expires_at, _signing(key, signed=signed)
    )

    def add(ring: "KeyRing") -> "KeyRing":
        return ring.with_key(record)

    _change(data, add, lambda: _record_of("key.create", record, now))
    _show_new(record, key, as_json=json)
    return ExitCode.OK


@keys.command(name="list", help_epilogue=_examples("headgate keys list", "headgate keys list --json"))
def list_(*, data: DataOption = None, json: JsonOption = False) -> int:
    """List the keys: who, since when, until when, what for. The keys themselves are not kept anywhere."""
    from rich.table import Table
    from rich.text import Text

    ring = _file(data).read()
    now = time.time()
    if json:
        print_result([_public(record, now) for record in ring.records])
        return ExitCode.OK
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("id", "name", "scopes", "only", "shown as", "made", "until"):
        table.add_column(title, overflow="fold")
    for record in ring.records:
        shown = _public(record, now)
        only = " ".join((*record.subjects, *record.durables, *record.paths))
        until = "expired" if not shown["live"] else shown["expires"] or "for ever"
        how = "signature" if record.signing else "bearer"
        words = (record.id, record.name, " ".join(record.scopes), only, how, shown["created"], until)
        table.add_row(*(Text(str(word)) for word in words), style="" if shown["live"] else "dim")
    print_result(table)
    return ExitCode.OK


@keys.command(
    help_epilogue=_examples("headgate keys rotate 5f3c9a1e7b2d4c68", "headgate keys rotate scanner-1 --overlap-s 3600")
)
def rotate(
    key: str,
    /,
    *,
    overlap_s: Annotated[float, Parameter(validator=validators.Number(gte=0, lte=31_536_000))] = 86_400.0,
    data: DataOption = None,
    json: JsonOption = False,
) -> int:
    """Make a second key like the first, and let the first expire after a while; until then both are good.

    Args:
        key: The id of a key, or a name that has one key.
        overlap_s: Seconds for which the old key stays good.
    """
    from msgspec.structs import replace

    from engine.keys import digest_of, make_key

    key_id, secret = make_key(secrets.token_bytes(40))
    now = time.time()
    made: list[KeyRecord] = []
    replaced = ""

    def turn(ring: "KeyRing") -> "KeyRing":
        nonlocal replaced
        old = _one_of(ring, key, now)
        replaced = old.id
        signing = _signing(secret, signed=bool(old.signing))
        new = replace(old, id=key_id, digest=digest_of(secret), created_at=now, signing=signing)
        made[:] = [new]
        return ring.with_key(new).ending(old.id, now + overlap_s)

    _change(data, turn, lambda: _record_of("key.rotate", made[0], now, replaces=replaced, overlap_s=overlap_s))
    _show_new(made[0], secret, as_json=json)
    return ExitCode.OK


@keys.command(help_epilogue=_examples("headgate keys revoke 5f3c9a1e7b2d4c68", "headgate keys revoke scanner-1 --json"))
def revoke(key: str, /, *, data: DataOption = None, json: JsonOption = False) -> int:
    """Withdraw a key. Its tokens end with it, and connections that were opened with it within a minute.

    Args:
        key: The id of a key, or a name that has one key.
    """
    now = time.time()
    gone: list[KeyRecord] = []

    def withdraw(ring: "KeyRing") -> "KeyRing":
        gone[:] = [_one_of(ring, key, now)]
        return ring.without(gone[0].id)

    _change(data, withdraw, lambda: _record_of("key.revoke", gone[0], now))
    if json:
        print_result({"revoked": gone[0].id, "name": gone[0].name})
    else:
        say(f"revoked {gone[0].id} of {gone[0].name}")
    return ExitCode.OK


def _file(data: Path | None) -> "KeysFile":
    from engine.keys_file import KeysFile
    from engine.settings import load_settings

    return KeysFile(load_settings({} if data is None else {"data": data}).data.resolve())


def _change(data: Path | None, change: "Callable[[KeyRing], KeyRing]", record: "Callable[[], Record]") -> None:
    """Change the keys, and leave a record of it in the same write; the gateway puts it into the audit log."""
    from engine.keys import MOST_CHANGES

    file = _file(data)
    try:
        file.change(change, record)
        if len(file.waiting()) >= MOST_CHANGES:
            say(f"{MOST_CHANGES} changes wait for the audit log; older ones are forgotten until a gateway runs here")
    except ValueError as problem:
        raise _wrong(str(problem)) from None


def _record_of(action: str, key: "KeyRecord", now: float, **facts: object) -> "Record":
    """Say who changed which key, for the audit log: on this machine a user is who they are."""
    import getpass
    import os
    import socket
    from contextlib import suppress

    from engine.audit import Record, cut, time_of

    user = str(os.getuid())
    with suppress(KeyError, OSError, ImportError):  # a user without a name has a number
        user = getpass.getuser()
    told: dict[str, str | int | float | bool | None] = {"name": key.name, "scopes": cut(" ".join(key.scopes))}
    told |= {name: value if isinstance(value, int | float) else cut(str(value)) for name, value in facts.items()}
    if key.expires_at is not None:
        told["expires"] = _time(key.expires_at)
    return Record(
        secrets.token_hex(16),
        time_of(now),
        action,
        key.id,
        cut(user),
        "local",
        address=cut(socket.gethostname()),
        route=f"headgate keys {action.partition('.')[2]}",
        outcome="done",
        facts=told,
    )


def _signing(key: str, *, signed: bool) -> str:
    if not signed:
        return ""
    from engine.signing import secret_of

    return secret_of(key)


def _one_of(ring: "KeyRing", text: str, now: float) -> "KeyRecord":
    """Find the key that is meant.

    Raises:
        Refused: there is none, or the name has several that are good.
    """
    record = ring.find(text)
    if record is not None:
        return record
    found = [one for one in ring.named(text) if one.is_live(now)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise _wrong(f"there is no key with the id or the name {text!r}; `headgate keys list` shows them")
    raise _wrong(f"{text} has {len(found)} keys; expected the id of one: {', '.join(one.id for one in found)}")


def _wrong(text: str) -> Exception:
    from engine.errors import Refused

    return Refused("request.bad-parameter", text)


def _public(record: "KeyRecord", now: float) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "scopes": list(record.scopes),
        "subjects": list(record.subjects),
        "durables": list(record.durables),
        "paths": list(record.paths),
        "created": _time(record.created_at),
        "expires": None if record.expires_at is None else _time(record.expires_at),
        "signed": bool(record.signing),
        "live": record.is_live(now),
    }


def _show_new(record: "KeyRecord", key: str, *, as_json: bool) -> None:
    if as_json:
        print_result({"key": key, **_public(record, record.created_at)})
        return
    how = "; it signs: HEADGATE_TOKEN=sign:KEY" if record.signing else ""
    say(f"the key of {record.name}, shown this once; its scopes: {' '.join(record.scopes)}{how}")
    print_result(key)


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
