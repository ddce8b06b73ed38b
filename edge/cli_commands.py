"""The commands of headgate and their options: `serve`, `scan`, `tail`, `query`, `demo`, `doctor`, `config show`.

Rules of the file:
- A command turns options into one call and the result into output; what it does is elsewhere.
- A command imports what it needs when it runs, so that `--help` answers at once.
- The docstrings are the help: a short paragraph, examples, one line an option.
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter, validators

from edge.cli_agent import EXAMPLES as AGENT_EXAMPLES
from edge.cli_agent import agent
from edge.cli_agents import AgentIdOption, ApiKeyOption, ConcurrencyOption, agents, scans
from edge.cli_audit import audit
from edge.cli_consumers import consumers, dead
from edge.cli_keys import keys
from edge.cli_options import (
    DEFAULT_GATEWAY,
    NO_TRUST,
    GatewayOption,
    JsonOption,
    SubjectOption,
    TokenOption,
    Trust,
    check_gateway,
    examples,
)
from edge.cli_output import ERROR_CONSOLE, ExitCode, print_result, say, say_usage_error
from edge.cli_top import top


def say_version() -> str:
    """Say which headgate this is."""
    try:
        return f"headgate {version('headgate')}"
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "headgate (not installed)"


app = App(
    name="headgate",
    help="""The front door of a file-event platform: events in, durable on a log, out to agents that acknowledge.

    New here? `headgate demo` shows everything on this machine in a minute.

    Exit codes: 0 well, 1 failed, 2 wrong usage, 3 no gateway answers, 4 the gateway refused, 5 the data folder is in
    use, 130 interrupted.
    """,
    version=say_version,
    backend="trio",
    result_action="return_value",
    error_console=ERROR_CONSOLE,
    error_formatter=say_usage_error,
)
config = App(name="config", help="Show the settings.")
app.command(config)
app.command(agent, help_epilogue=AGENT_EXAMPLES)
app.command(keys)
app.command(agents)
app.command(scans)
app.command(top, help_epilogue=examples("headgate top", "headgate top --once", "headgate top --interval 5 --json"))
app.command(consumers)
app.command(audit)
app.command(dead)


@app.command(
    help_epilogue=examples(
        "headgate serve",
        "headgate serve --port 9000 --data /var/lib/headgate",
        "NATS_URL=nats://log.example:4222 headgate serve --host 0.0.0.0",
        "headgate serve --workers 4",
        "headgate serve --tls-cert /etc/headgate/cert.pem --tls-key /etc/headgate/key.pem",
    )
)
def serve(
    *,
    host: Annotated[str | None, Parameter(show_default=False)] = None,
    port: Annotated[int | None, Parameter(validator=validators.Number(gte=0, lte=65535))] = None,
    data: Path | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    tls_self_signed: Annotated[bool, Parameter(negative="")] = False,
    http2: Annotated[bool, Parameter(negative="")] = False,
    workers: Annotated[int | None, Parameter(validator=validators.Number(gte=1, lte=64))] = None,
) -> int:
    """Run a gateway, with its own log unless NATS_URL names one.

    Prints one line when it is ready, `headgate ready http://…`; logs go to stderr as JSON. SIGTERM and Ctrl-C drain and
    end with 0, a second one ends at once. `headgate config show` lists every setting.

    Args:
        host: Address to listen on; HEADGATE_HOST, or 127.0.0.1.
        port: Port to listen on, 0 for a free one; PORT, or 8000.
        data: Folder of the log; HEADGATE_DATA, or ./headgate-data.
        tls_cert: PEM file of the certificate and its chain: TLS is spoken; HEADGATE_TLS_CERT.
        tls_key: PEM file of its key; HEADGATE_TLS_KEY.
        tls_self_signed: TLS with a certificate of its own, DATA/tls/cert.pem, which clients take as --ca.
        http2: Speak HTTP/2 beside HTTP/1.1: by ALPN with TLS, without it to clients that know; HEADGATE_HTTP2.
        workers: Processes that serve, on one port, with one set of engines; HEADGATE_WORKERS, or 1.
    """
    from edge.serve_start import run
    from engine.settings import load_settings

    given: dict[str, object] = {"host": host, "port": port, "data": data, "tls_cert": tls_cert, "tls_key": tls_key}
    given["workers"] = workers
    if tls_self_signed:
        given["tls_self_signed"] = "on"
    if http2:
        given["http2"] = "on"
    settings = load_settings({name: value for name, value in given.items() if value is not None})
    if settings.workers > 1:
        from edge.serve_workers import run_workers

        return run_workers(settings)
    return run(settings)


@app.command(
    help_epilogue=examples(
        "headgate scan /projects/show",
        "headgate scan . --gateway https://gateway.example --json",
        "headgate scan /projects --agent --max-concurrency 2",
    )
)
async def scan(
    directory: Annotated[Path, Parameter(validator=validators.Path(exists=True, file_okay=False))],
    /,
    *,
    gateway: GatewayOption = DEFAULT_GATEWAY,
    subject: SubjectOption = None,
    give_up: Annotated[float, Parameter(validator=validators.Number(gte=0))] = 60.0,
    threads: Annotated[int | None, Parameter(validator=validators.Number(gte=1, lte=256))] = None,
    force: Annotated[bool, Parameter(negative="")] = False,
    agent: Annotated[bool, Parameter(negative="")] = False,
    agent_id: AgentIdOption = None,
    max_concurrency: ConcurrencyOption = 1,
    api_key: ApiKeyOption = None,
    token: TokenOption = None,
    trust: Trust = NO_TRUST,
    json: JsonOption = False,
) -> int:
    """Tell a gateway about every file below a folder, and hash only what it does not know.

    With --agent this machine waits for the gateway's orders instead and scans what it is asked to, in this folder and
    nowhere else, until SIGTERM (exit code 0) or Ctrl-C (130).

    Run it again and nothing is hashed twice. A gateway that restarts meanwhile is waited for. Files that cannot be read
    are named and counted, the scan goes on, and the exit code is 1. Symbolic links are not followed.

    Args:
        directory: The folder.
        give_up: Seconds to go on trying while nothing succeeds.
        threads: Files read at once; as many as there are processors when not given.
        force: Hash everything, whatever the gateway knows.
        agent: Become a remote scanner; `headgate agents scan` starts its scans.
    """
    if agent:
        from edge.cli_agents import run_scan_agent

        return await run_scan_agent(
            gateway,
            token,
            trust=trust,
            give_up_s=give_up,
            folder=directory,
            agent_id=agent_id,
            max_concurrency=max_concurrency,
            subject=subject,
            threads=threads,
            api_key=api_key,
            as_json=json,
        )
    from edge.client import Client, GatewayError
    from edge.progress import shown_progress
    from edge.scan import Scan

    async with Client(gateway, token, give_up_s=give_up, tls=trust.context()) as client:
        running = Scan(client, str(directory), subject=subject, hash_threads=threads, force=force)
        try:
            async with shown_progress("scanning", running.report, client.statistics, is_wanted=not json):
                report = await running.run_scan()
        except GatewayError as error:
            done = running.report.files
            error.add_note(f"{done:,} files were published; run it again, nothing of them is hashed twice" * bool(done))
            raise
    print_result(report.to_json() if json else report.to_text())
    return ExitCode.OK if report.is_complete else ExitCode.FAILED


@app.command(
    help_epilogue=examples(
        "headgate tail",
        "headgate tail --from new --filter file.* --json",
        "headgate tail --durable audit --json >> events.ndjson",
    )
)
async def tail(
    *,
    gateway: GatewayOption = DEFAULT_GATEWAY,
    subject: SubjectOption = None,
    durable: str | None = None,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    filter_: Annotated[str | None, Parameter(name="--filter")] = None,
    batch: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 100,
    count: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    token: TokenOption = None,
    trust: Trust = NO_TRUST,
    json: JsonOption = False,
) -> int:
    """Print events as they come, as an agent that acknowledges what it has printed.

    Comes back by itself when the gateway was away. Under the same --durable it goes on where it stopped, and several at
    once share the events. An event may come twice, never not at all. Without a name it shows the log from its beginning
    and leaves nothing behind.

    Args:
        durable: The name that remembers the position; not given, nothing is remembered.
        from_: Where to begin, with a new name or none: all, new, last, seq:N or time:2026-01-31T12:00:00Z.
        filter_: Event types, with commas; a * at the end stands for anything.
        batch: The most messages of the log to ask for at once.
        count: Stop after so many events.
    """
    from edge.cli_agent import say_notice
    from edge.client import DEFAULT_SUBJECT, Attached, Client, Notice
    from edge.nursery import open_plain_nursery
    from edge.tail import run_tail, wait_stdout_unread, write_stdout

    def on_notice(notice: Notice) -> None:
        if durable is None and isinstance(notice, Attached):
            say(f"listening to {notice.hello.subject}, remembering nothing")
        say_notice(notice)

    async with Client(gateway, token, tls=trust.context()) as client, open_plain_nursery() as nursery:

        async def stop_when_unread() -> None:
            await wait_stdout_unread()
            nursery.cancel_scope.cancel()

        nursery.start_soon(stop_when_unread)
        await run_tail(
            client,
            durable=durable,
            subject=subject or DEFAULT_SUBJECT,
            from_=from_ or (None if durable else "all"),
            filter_=filter_.split(",") if filter_ else (),
            batch=batch,
            as_json=json,
            count=count,
            write=write_stdout,
            on_notice=on_notice,
        )
        nursery.cancel_scope.cancel()
    return ExitCode.OK


@app.command(
    help_epilogue=examples(
        'headgate query "select directory, total_bytes from directories order by 2 desc limit 10"',
        'headgate query "select path from files where ext = :ext" --param ext=exr --csv > files.csv',
        "headgate query",
    )
)
def query(
    sql: str | None = None,
    /,
    *,
    param: Annotated[list[str] | None, Parameter(negative="")] = None,
    gateway: GatewayOption = DEFAULT_GATEWAY,
    token: TokenOption = None,
    trust: Trust = NO_TRUST,
    json: JsonOption = False,
    csv: Annotated[bool, Parameter(negative="")] = False,
    ndjson: Annotated[bool, Parameter(negative="")] = False,
    give_up: Annotated[float, Parameter(validator=validators.Number(gte=0))] = 10.0,
) -> int:
    """Ask the catalog in SQL (PostgreSQL's): files, contents, duplicates, directories, scans, deleted.

    Without a query: a prompt with line editing and history, or the query that is piped in. At most 10,000 rows are
    shown as a table or as --json; --csv and --ndjson print as many as there are, while they come.

    Args:
        sql: The query, one SELECT.
        param: A value for `:name` in the query, as name=value; JSON where it is that, else text. May be repeated.
        csv: Print CSV, with a line of names.
        ndjson: Print one JSON object a line.
        give_up: Seconds to go on trying while too many queries run, or the catalog is away.
    """
    import sys

    import trio

    from edge.cli_query import read_parameters, read_stdin, run_prompt, run_query
    from edge.client import Client
    from engine.errors import Refused

    wanted = [name for name, is_wanted in (("json", json), ("csv", csv), ("ndjson", ndjson)) if is_wanted]
    if len(wanted) > 1:
        raise Refused("request.bad-parameter", f"--{wanted[0]} and --{wanted[1]}: expected one of them")
    output = wanted[0] if wanted else "table"
    params = read_parameters(param or [])
    if sql is None and sys.stdin.isatty():
        return run_prompt(gateway, token, trust, params, output, give_up)
    text = read_stdin() if sql is None else sql

    async def ask() -> None:
        async with Client(gateway, token, give_up_s=give_up, tls=trust.context()) as client:
            await run_query(client, text, params, output)

    trio.run(ask)
    return ExitCode.OK


@app.command(help_epilogue=examples("headgate demo", "headgate demo ~/pictures --once", "headgate demo --once --json"))
async def demo(
    directory: Annotated[Path | None, Parameter(validator=validators.Path(exists=True, file_okay=False))] = None,
    /,
    *,
    data: Path | None = None,
    port: Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65535))] = 0,
    once: Annotated[bool, Parameter(negative="")] = False,
    json: JsonOption = False,
) -> int:
    """Show the whole product on this machine: a gateway, two agents, a scan, the same scan again, and the figures.

    Fails when an agent did not acknowledge every event. Then it keeps serving until Ctrl-C, and says what to try.

    Args:
        directory: What to scan; the running Python's own library when not given.
        data: Keep the data in this folder; a temporary one is removed at the end.
        port: The gateway's port, 0 for a free one.
        once: End after the figures.
    """
    import sysconfig

    from edge.demo import DemoOptions, run_demo

    where = str(directory or sysconfig.get_path("stdlib"))
    return await run_demo(DemoOptions(where, data=data, port=port, once=once, as_json=json))


@app.command(
    help_epilogue=examples(
        "headgate doctor", "headgate doctor --data /var/lib/headgate --gateway http://127.0.0.1:8000 --json"
    )
)
async def doctor(
    *,
    gateway: Annotated[str | None, Parameter(env_var="HEADGATE_GATEWAY", validator=check_gateway)] = None,
    trust: Trust = NO_TRUST,
    data: Path | None = None,
    json: JsonOption = False,
) -> int:
    """Look at this installation: versions, data folder, what an fsync takes, what durability follows, the gateway.

    Exit code 1 when something will not work like this; each such line says what to do.

    Args:
        gateway: A gateway that must answer; not given, its absence is a note.
        data: The data folder to look at; HEADGATE_DATA, or ./headgate-data.
    """
    from edge.doctor import examine, is_well, to_json, to_table
    from engine.settings import load_settings

    findings = await examine(load_settings({} if data is None else {"data": data}), gateway, trust.context())
    print_result(to_json(findings) if json else to_table(findings))
    return ExitCode.OK if is_well(findings) else ExitCode.FAILED


@config.command(name="show", help_epilogue=examples("headgate config show", "PORT=9000 headgate config show --json"))
def config_show(*, json: JsonOption = False) -> int:
    """Show each setting, its value, and where it came from; secrets are masked."""
    from edge.config_show import to_json, to_table
    from engine.settings import describe, load_settings

    lines = describe(load_settings({}))
    print_result(to_json(lines) if json else to_table(lines))
    return ExitCode.OK


@app.command(help_epilogue=examples("headgate openapi > openapi.json", "headgate openapi --asyncapi"))
def openapi(
    *, asyncapi: Annotated[bool, Parameter(negative="")] = False, json: Annotated[bool, Parameter(show=False)] = True
) -> int:
    """Print the OpenAPI document of this release, as a gateway serves it at /openapi.json; no gateway is needed.

    Args:
        asyncapi: Print the AsyncAPI document of its WebSockets instead, as at /asyncapi.json.
        json: It is JSON in any case.
    """
    from edge.docs_offline import offline_documents

    print_result(offline_documents()[1 if asyncapi else 0])
    return ExitCode.OK
