"""WebSocket `/agents`: remote scanners introduce themselves, are sent scans, and say how those ended.

Rules of the file:
- Nothing that a client in the field may say ends its session: odd frames are counted and passed over. A session ends
  when there is no usable introduction, when a newer connection takes over, or when the client does not read.
- The close code says whether to come back (`engine/errors.py`), and an `ERROR` frame before it says why.

What must change with it: the wire reference in the README. REST beside it: `edge/agents_rest.py`.
Source: issue of the remote scanners; S0.27, E17 (wire).
"""

from typing import Final

import trio
from trio_websocket import WebSocketConnection

from actors.agents import Attachment
from edge.http import Request
from edge.node import Node
from edge.sockets import Session, close_socket
from engine.agents_wire import (
    PONG,
    Hello,
    Said,
    Word,
    encode_error,
    encode_target,
    read_hello,
    read_report,
    read_said,
)
from engine.errors import Fault, Refused

HELLO_WITHIN_S: Final = 10.0


async def open_agent(node: Node, request: Request) -> Session:
    """Take any agent: who it is, it says after the upgrade."""

    async def session(socket: WebSocketConnection) -> None:
        try:
            hello = await _wait_hello(node, socket)
            node.agents.roster.check_owner(hello.agent_id, request.principal.subject)
        except Fault as fault:
            await _close_for(socket, fault)
            return
        async with node.agents.attach(hello, request.principal.subject) as attachment, trio.open_nursery() as nursery:
            nursery.start_soon(_send_targets, socket, attachment)
            nursery.start_soon(_leave_when_taken_over, socket, attachment, nursery.cancel_scope)
            nursery.start_soon(_leave_when_draining, node, socket, nursery.cancel_scope)
            await _listen(node, socket, attachment)

    return session


async def _wait_hello(node: Node, socket: WebSocketConnection) -> Hello:
    """Wait for the introduction; what comes before it is answered or passed over.

    Raises:
        Refused: there is none in time, or it cannot be used.
    """
    with trio.move_on_after(HELLO_WITHIN_S):
        while True:
            said = read_said(await socket.get_message())
            if said.word is Word.HELLO:
                return read_hello(said.value)
            await _answer_other(node, socket, said)
    raise Refused("agents.no-hello", f'no {{"type":"AGENT_HELLO","agent_id":…}} came within {HELLO_WITHIN_S:g} s')


async def _listen(node: Node, socket: WebSocketConnection, attachment: Attachment) -> None:
    while True:
        said = read_said(await socket.get_message())
        node.agents.heard(attachment)
        if said.word in {Word.COMPLETE, Word.ERROR}:
            report = read_report(said)
            if report is None:
                node.agents.ignore()
            else:
                node.agents.report(attachment, report)
        elif said.word is Word.HELLO:
            try:
                node.agents.update(attachment, read_hello(said.value))
            except Refused:
                node.agents.ignore()  # it has introduced itself well before
        else:
            await _answer_other(node, socket, said)


async def _answer_other(node: Node, socket: WebSocketConnection, said: Said) -> None:
    if said.word is Word.PING:
        await socket.send_message(PONG)
    else:
        node.agents.ignore()


async def _send_targets(socket: WebSocketConnection, attachment: Attachment) -> None:
    while True:
        scan = await attachment.next_scan()
        order = scan.order
        await socket.send_message(
            encode_target(scan.command_id, order.root, order.trigger_type, order.schedule_id, {"force": order.force})
        )


async def _leave_when_taken_over(socket: WebSocketConnection, attachment: Attachment, scope: trio.CancelScope) -> None:
    await attachment.taken_over.wait()
    await _close_for(
        socket, Refused("agents.taken-over", f"a newer connection speaks for agent {attachment.agent_id!r} now")
    )
    scope.cancel()


async def _leave_when_draining(node: Node, socket: WebSocketConnection, scope: trio.CancelScope) -> None:
    await node.draining.wait()
    await close_socket(socket, 1001, "the gateway is shutting down; come back in a moment")
    scope.cancel()


async def _close_for(socket: WebSocketConnection, fault: Fault) -> None:
    await socket.send_message(encode_error(fault.detail))
    await close_socket(socket, fault.kind.close_code, fault.kind.title)
