"""What a route changes, and having it recorded: before it begins, and when it has ended.

Rules of the file:
- A change whose beginning cannot be recorded is not made.
- Only who was let pass is recorded: strangers cannot fill the audit log.
- Of the request nothing is recorded but its path's own words, and what the handler put into `request.facts`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import trio

from actors.audit import AuditLog
from edge.http import Handler, Request, Response
from engine.errors import Fault
from engine.identity import Principal


@dataclass(frozen=True, slots=True)
class Change:
    """What a request changes.

    Args:
        action: `<noun>.<verb>`, a promise to whoever asks for it.
        target: the path parameter that names which; empty where the handler's fact `target` does.
        who: says who asks, where the route is public and its handler looks at the credential; raises to refuse.
    """

    action: str
    target: str = ""
    who: Callable[[Request], Principal] | None = None


async def make_change(
    log: AuditLog, change: Change, request: Request, address: str, path: str, handler: Handler
) -> Response:
    """Have a handler make a change that is recorded.

    Args:
        log: where.
        change: what.
        request: who asks; the guard let it pass.
        address: where it comes from.
        path: as the route table has it.
        handler: makes the change.

    Raises:
        Unavailable: it could not be recorded, and was not made.
        Fault: the handler's own, recorded.

    Cancellation: the record says that nobody knows.
    """
    record = await log.begin(
        change.action,
        request.path_parameters.get(change.target, ""),
        change.who(request) if change.who is not None else request.principal,
        address=address,
        request_id=request.request_id,
        trace_id=request.trace.trace_id if request.trace is not None else None,
        route=f"{request.method} {path}",
    )
    try:
        response = await handler(request)
    except Fault as fault:
        await log.end(record, fault.kind.status, fault.kind.code, request.facts)
        raise
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        raise  # the client left while its body was read: there is no answer to record
    except Exception:
        await log.end(record, 500, "server.broken", request.facts)
        raise
    await log.end(record, response.status, None, request.facts)
    return response
