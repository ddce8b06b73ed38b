"""The command `headgate agent`: its options, and how it ends.

Rules of the file:
- SIGTERM and Ctrl-C end it alike: handlers are stopped, what is held goes back, and the exit code says which it was.
  A second Ctrl-C ends it at once.

What must change with it: `edge/cli_commands.py` has the other commands and the rules for all of them.
"""

import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter, validators

from edge.cli_options import (
    DEFAULT_GATEWAY,
    NO_TRUST,
    GatewayOption,
    JsonOption,
    SubjectOption,
    TokenOption,
    Trust,
    examples,
)
from edge.cli_output import ExitCode, print_result, say

if TYPE_CHECKING:
    from edge.agent import BatchReport, Handler
    from edge.client import Credit, Notice

EXAMPLES: Final = examples(
    "headgate agent --durable thumbs -- ./make-thumbs --quiet",
    "headgate agent --durable mysql --python store:handle --parallel 4",
    "headgate agent --durable nightly --once --json -- ./nightly.sh",
    "headgate agent --durable old --builtin discard --until-idle 5",
    "DATABASE_URL=postgresql://db/files headgate agent --durable catalog --builtin catalog",
)
Seconds = Annotated[float, Parameter(validator=validators.Number(gte=0))]


async def agent(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    durable: str,
    python: str | None = None,
    builtin: str | None = None,
    gateway: GatewayOption = DEFAULT_GATEWAY,
    subject: SubjectOption = None,
    parallel: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=256))] = 1,
    credit: str = "auto",
    batch: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    filter_: Annotated[str | None, Parameter(name="--filter")] = None,
    confirm: Annotated[bool, Parameter(negative="")] = False,
    timeout_s: Annotated[Seconds | None, Parameter(name="--timeout")] = None,
    retry_delay: Seconds = 1.0,
    once: Annotated[bool, Parameter(negative="")] = False,
    until_idle: Seconds | None = None,
    give_up: Seconds = 60.0,
    token: TokenOption = None,
    trust: Trust = NO_TRUST,
    json: JsonOption = False,
) -> int:
    """Run a command, or call a Python function, for each batch of events, and acknowledge what it has done.

    A command reads the batch on its standard input, one line of JSON a message. Exit code 0 acknowledges it, 65 sends
    it to the dead letters, any other gives it back for later. For mixed verdicts it prints lines like {"nak": [3, 4],
    "delay_s": 60} or {"term": [5], "reason": "no such codec"}; its exit code stands for the rest. When the agent ends,
    the command and what it started end too.

    Exit codes: 0 ended well, also by SIGTERM; 1 with --once or --until-idle, when something was given back or ended; 3
    no gateway answers; 4 the gateway refused; 130 Ctrl-C.

    Args:
        command: What to run, behind `--`.
        durable: The name that remembers the position; agents of one name share the work.
        python: Call module:function instead; it returns None or verdicts, and raises to give back.
        builtin: Use a handler that comes with headgate instead: discard, catalog.
        parallel: Batches worked on at once.
        credit: The most messages and bytes to hold, as in 100,1000000; auto leaves it to the gateway.
        batch: The most messages in one batch.
        from_: Where a new durable begins: all, new, last, seq:N or time:2026-01-31T12:00:00Z.
        filter_: Event types, with commas; a * at the end stands for anything.
        confirm: Wait for the log's word on every answer.
        timeout_s: Seconds that one batch may take; then it is given back.
        retry_delay: Seconds until a batch that failed comes again; twice as long each time.
        once: End when nothing is left.
        until_idle: End when nothing came for so many seconds.
        give_up: With one of these two, seconds to wait for a gateway that is away.
    """
    import trio

    from edge.agent import AgentOptions, AgentRun
    from edge.client import DEFAULT_SUBJECT, Client, Stream
    from edge.nursery import open_plain_nursery
    from edge.progress import shown_line

    about = {"HEADGATE_GATEWAY": gateway, "HEADGATE_SUBJECT": subject or DEFAULT_SUBJECT, "HEADGATE_DURABLE": durable}
    try:
        amount = read_credit(credit)
        opener = _choose_handler(
            command, python, builtin, about=about, parallel=parallel, timeout_s=timeout_s, confirm=confirm
        )
    except ValueError as error:
        say(str(error))
        return ExitCode.WRONG_USAGE
    options = AgentOptions(
        parallel, confirm, retry_s=retry_delay, once=once, until_idle_s=until_idle, give_up_s=give_up
    )
    ended_by: list[int] = []
    async with opener as handler, Client(gateway, token, tls=trust.context()) as client:
        run = AgentRun(handler, options, on_batch=_say_batch(as_json=json))

        def note(notice: "Notice") -> None:
            run.note(notice)
            say_notice(notice)

        def attach() -> AbstractAsyncContextManager[Stream]:
            return client.stream(
                subject or DEFAULT_SUBJECT,
                durable=durable,
                credit=amount,
                from_=from_,
                filter=filter_.split(",") if filter_ else (),
                batch=batch,
                on_notice=note,
            )

        async with open_plain_nursery() as nursery:

            async def end_on_signal() -> None:
                with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    async for number in signals:
                        ended_by.append(number)
                        break
                nursery.cancel_scope.cancel()

            nursery.start_soon(end_on_signal)
            async with shown_line(lambda: f"agent {durable}: {run.report.to_text()}", is_wanted=not json):
                await run.run_agent(attach)
            nursery.cancel_scope.cancel()
    print_result(run.report.to_json() if json else run.report.to_text())
    if ended_by:
        return ExitCode.INTERRUPTED if ended_by[0] == signal.SIGINT else ExitCode.OK
    return ExitCode.OK if run.report.is_well else ExitCode.FAILED


def read_credit(text: str) -> "Credit | None":
    """Read `auto` or `messages,bytes`.

    Raises:
        ValueError: it is neither.
    """
    from edge.client import Credit

    if text == "auto":
        return None
    messages, _, size = text.partition(",")
    if not (messages.isascii() and messages.isdigit() and size.isascii() and size.isdigit() and len(text) < 24):
        raise ValueError(f"--credit is {text!r}; expected auto, or messages,bytes as in 100,1000000")
    if not int(messages) or not int(size):
        raise ValueError(f"--credit is {text!r}; with nothing to hold, nothing would ever come")
    return Credit(int(messages), int(size))


def _choose_handler(
    command: tuple[str, ...],
    python: str | None,
    builtin: str | None,
    *,
    about: dict[str, str],
    parallel: int,
    timeout_s: float | None,
    confirm: bool,
) -> "AbstractAsyncContextManager[Handler]":
    """Give what works on the batches; opened, and closed, around the whole run.

    Raises:
        ValueError: none or more than one is named, or it cannot be loaded.
    """
    import shutil
    from contextlib import nullcontext

    from edge.agent_callable import CallableHandler, load_builtin, load_callable
    from edge.agent_command import CommandHandler

    if (bool(command), python is not None, builtin is not None).count(True) != 1:
        raise ValueError("expected one of: a command behind --, --python module:function, --builtin NAME")
    if python is not None:
        return CallableHandler(load_callable(python), parallel=parallel, timeout_s=timeout_s)
    if builtin is not None:
        return CallableHandler(None, parallel=parallel, timeout_s=timeout_s, opener=load_builtin(builtin))
    if shutil.which(command[0]) is None:
        raise ValueError(f"there is no program {command[0]!r}, or it cannot be run")
    return nullcontext(CommandHandler(command, about, timeout_s=timeout_s, confirm=confirm))


def _say_batch(*, as_json: bool) -> "Callable[[BatchReport], None]":
    def say_batch(report: "BatchReport") -> None:
        if as_json:
            print_result(report.to_json())
        elif report.error:
            say(f"batch of {report.messages} from seq {report.first_seq} on: {report.error}")

    return say_batch


def say_notice(notice: "Notice") -> None:
    """Say what a person should know of what happens beside batches."""
    from edge.client import Complaint, EpochChanged, Gap, LeasesLost, Trouble

    match notice:
        case Trouble():
            say(f"{notice.error}; coming back in {notice.delay_s:.1f} s")
        case Gap():
            say(f"seq {notice.first} to {notice.last} are gone from the log: {notice.reason}")
        case EpochChanged():
            say("the log was made anew since the last connection")
        case LeasesLost():
            say(f"{len(notice.indexes)} messages were held too long and given to others: {notice.reason}")
        case Complaint():
            say(f"the gateway says: {notice.message}")
        case _:
            pass
