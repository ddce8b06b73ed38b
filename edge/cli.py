"""The command line's outermost layer: run a command, and turn whatever comes out of it into an exit code.

Rules of the file:
- No exception leaves `main`, and no traceback is shown unless HEADGATE_LOG_LEVEL is `debug`.
- A foreign error is told in one line; one that nobody foresaw says that it is a bug.
"""

import os
import sys
import traceback
from collections.abc import Sequence

from edge.cli_commands import app
from edge.cli_output import ExitCode, say


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: what stands behind `headgate`, None for those of this process.

    Returns:
        The exit code, see `ExitCode`.
    """
    try:
        code = app(sys.argv[1:] if arguments is None else list(arguments))
    except SystemExit as ending:  # wrong usage, and Ctrl-C, end so in cyclopts
        return ending.code if isinstance(ending.code, int) else ExitCode.FAILED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        _leave_stdout()
        return ExitCode.OK
    except BaseExceptionGroup as group:
        return _explain_group(group)
    except Exception as error:  # noqa: BLE001  # the last line of defence: a person sees one line, not a traceback
        return _explain(error)
    return code if isinstance(code, int) else ExitCode.OK


def _explain_group(group: BaseExceptionGroup[BaseException]) -> int:
    """Several things went wrong at once: an interruption explains the others, else the first speaks."""
    from edge.nursery import leaves

    errors = leaves(group)
    if any(isinstance(error, KeyboardInterrupt) for error in errors):
        return ExitCode.INTERRUPTED
    return _explain(errors[0])


def _explain(error: BaseException) -> int:
    """Say what went wrong, and give the exit code that means it."""
    from edge.client_retry import GatewayError, GatewayRefused, GatewayUnavailable, OutcomeUnknown
    from edge.demo_gateway import GatewayEnded
    from engine.errors import Fault, Refused

    if os.environ.get("HEADGATE_LOG_LEVEL") == "debug":
        traceback.print_exception(error)
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()) if note)
    match error:
        case GatewayEnded():
            code = ExitCode.FOLDER_IN_USE if error.exit_code == ExitCode.FOLDER_IN_USE else ExitCode.FAILED
        case GatewayRefused():
            code = ExitCode.REFUSED
        case GatewayUnavailable() | OutcomeUnknown():
            code = ExitCode.UNREACHABLE
        case GatewayError():
            code = ExitCode.FAILED
        case Fault():
            say(error.detail + notes)
            return ExitCode.WRONG_USAGE if isinstance(error, Refused) else ExitCode.FAILED
        case OSError():
            code = ExitCode.FAILED
        case _:
            say(f"this is a bug: {type(error).__name__}: {error} (HEADGATE_LOG_LEVEL=debug shows where)")
            return ExitCode.FAILED
    say(f"{error}{notes}")
    return code


def _leave_stdout() -> None:
    """Nobody reads stdout any more: let the interpreter's last flush go nowhere instead of failing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
