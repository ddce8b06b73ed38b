"""What every command's help has: a text, examples, words for each option, and the options that all of a kind share.

Rules of the file:
- The commands are found by walking the command line itself, so that a new one is asked too.
"""

from collections.abc import Iterator

import pytest
from cyclopts import App

from edge.cli_commands import app


def leaves(one: App, path: tuple[str, ...]) -> Iterator[tuple[str, App]]:
    """Every command that has no commands below it."""
    below = [name for name in one if not name.startswith("-")]
    for name in below:
        yield from leaves(one[name], (*path, name))
    if not below:
        yield " ".join(path), one


COMMANDS = dict(leaves(app, ("headgate",)))


def options(command: App) -> dict[str, str]:
    """Each parameter's first name, with its words."""
    return {
        one.name: one.parameter.help or ""
        for one in command.assemble_argument_collection(parse_docstring=True)
        if one.show
    }


def test_there_are_commands() -> None:
    """The walk finds those of groups too."""
    assert {
        "headgate serve",
        "headgate consumers reset",
        "headgate dead replay",
        "headgate keys create",
    } <= COMMANDS.keys()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_help_teaches(name: str) -> None:
    """What it does, how it is called, and what each option is for."""
    command = COMMANDS[name]
    assert command.help.strip().endswith("."), "what it does, in sentences"
    assert name in (command.help_epilogue or ""), "an example that begins with the command itself"
    assert [option for option, words in options(command).items() if not words] == []


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_who_talks_to_a_gateway_can_do_so_over_tls(name: str) -> None:
    """`--gateway` comes with `--ca` and `--insecure`."""
    found = options(COMMANDS[name])
    if "--gateway" in found:
        assert {"--ca", "--insecure"} <= found.keys()
