"""The options that several commands share, and how a command's help ends.

Rules of the file:
- An option that two commands have is here, once, with its variable and its words.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

if TYPE_CHECKING:
    import ssl


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
    str | None,
    Parameter(
        env_var="HEADGATE_TOKEN",
        help="Sent as Authorization: Bearer; better set as a variable. `sign:KEY` signs each request instead.",
    ),
]
JsonOption = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON, for programs.")]
SubjectOption = Annotated[str | None, Parameter(help="The subject; the gateway's default when not given.")]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Trust:
    """Whom to take for the gateway, where its address has https.

    Args:
        ca: PEM file of the authorities to trust, in place of this machine's.
        insecure: trust anybody.
    """

    ca: Annotated[
        Path | None,
        Parameter(
            env_var="HEADGATE_CA", help="PEM file of the authorities to trust for https; this machine's if none."
        ),
    ] = None
    insecure: Annotated[
        bool,
        Parameter(env_var="HEADGATE_INSECURE", negative="", help="Take anybody for the gateway: for trying out only."),
    ] = False

    def context(self) -> "ssl.SSLContext | None":
        """Give what a client trusts, None for what this machine trusts.

        Raises:
            Refused: the file cannot be used.
        """
        import ssl

        from engine.errors import Refused

        if self.insecure:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return context
        if self.ca is None:
            return None
        try:
            return ssl.create_default_context(cafile=self.ca)
        except ssl.SSLError:
            raise Refused("request.bad-parameter", f"--ca: expected PEM certificates in {self.ca}") from None
        except OSError as problem:
            raise Refused("request.bad-parameter", f"--ca: {self.ca} cannot be read: {problem.strerror}") from None


NO_TRUST: Final = Trust()
"""What is meant where nothing is said."""
