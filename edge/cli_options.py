"""The options that several commands share, and how a command's help ends.

Rules of the file:
- An option that two commands have is here, once, with its variable and its words.
"""

from typing import Annotated, Final

from cyclopts import Parameter


def check_gateway(_: object, text: str | None) -> None:
    """Refuse what is no gateway's address, before the command runs."""
    from edge.client_values import check_base_url

    if text is not None:
        check_base_url(text)


def examples(*lines: str) -> str:
    """Show how a command is called; the end of its help."""
    return "\n".join(["**Examples**", "", *(f"- `{line}`" for line in lines)])


DEFAULT_GATEWAY: Final = "http://127.0.0.1:8000"
GatewayOption = Annotated[
    str,
    Parameter(
        env_var="HEADGATE_GATEWAY",
        validator=check_gateway,
        help="The gateway's address.",
    ),
]
TokenOption = Annotated[
    str | None, Parameter(env_var="HEADGATE_TOKEN", help="Sent as Authorization: Bearer; better set as a variable.")
]
JsonOption = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON, for programs.")]
SubjectOption = Annotated[str | None, Parameter(help="The subject; the gateway's default when not given.")]
