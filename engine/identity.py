"""Who asks, and what they may do.

Rules of the file:
- A scope names a capability, once, in `Scope`; a route that names another does not pass the type checker.
- An empty allow list allows everything that the scopes allow; one that is not empty allows nothing else.
- Nothing here holds a secret, so a principal may be logged.

What must change with it: the list of scopes in the README.

Source: X5, S2.36, S2.50; `RELIABILITY.md` 4.5 and 4.7.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, get_args

from engine.errors import Refused
from engine.names import is_covered

Scope = Literal[
    "ingest:write",  # put events on the log, and ask which files are known
    "stream:read",  # be an agent: take events and settle them, over any transport
    "stream:manage",  # list, reset, pause and delete consumers; replay dead letters
    "query:sql",  # ask the catalog
    "agents:run",  # be a remote scanner
    "agents:manage",  # list remote scanners and scans, and start scans
    "jobs:write",  # start, list and cancel jobs
    "filestore:read",
    "filestore:write",
    "filestore:admin",
    "live:read",  # live topics
    "approvals:answer",  # answer questions that wait for a person
    "metrics:read",  # the counters
    "admin",  # everything, and the gateway's inside
]

SCOPES: Final[frozenset[str]] = frozenset(get_args(Scope))
FIELD_SCOPES: Final = frozenset({"ingest:write", "stream:read", "agents:run"})
"""What a scanner or an agent in the field needs, and what a key gets that is made without naming scopes."""
_SEES_ALL_PATHS: Final = frozenset({"query:sql"})
"""What answers from every folder at once is not for whom some are closed."""
_IMPLIED: Final[dict[str, frozenset[str]]] = {
    "admin": SCOPES,
    "filestore:admin": frozenset({"filestore:write", "filestore:read"}),
    "filestore:write": frozenset({"filestore:read"}),
}


class Kind(Enum):
    """How a principal was recognised."""

    OPEN = "open"
    """Not at all: authentication is off."""
    KEY = "key"
    TOKEN = "token"  # noqa: S105  # a word, not a secret
    """A short-lived token that an API key was exchanged for."""
    JWT = "jwt"
    OPAQUE = "opaque"
    """A token that its issuer was asked about."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks.

    Args:
        subject: their name: a key's, or a JWT's `sub`.
        kind: how they were recognised.
        scopes: what they may do, those that follow from others included (`expand_scopes`).
        subjects: subjects of the log they may touch, `snapfs.team.>` for a family; empty for all.
        durables: consumers they may use, `team-*` for a family; empty for all.
        paths: folders they may touch; empty for all.
        key_id: the API key behind them, or what names their opaque token; empty when there is neither.
        expires_at: when the proof of who they are ends, seconds since the epoch; None when it does not.
    """

    subject: str
    kind: Kind
    scopes: frozenset[str]
    subjects: tuple[str, ...] = ()
    durables: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    key_id: str = ""
    expires_at: float | None = None

    def check_scope(self, scope: Scope) -> None:
        """Let them pass if they have the scope, and it shows nothing that their list of folders closes to them.

        Raises:
            Refused: they have not; the fault names it.
        """
        if scope not in self.scopes:
            raise Refused(
                "identity.missing-scope",
                f"{self.subject} has not the scope {scope}; it has {' '.join(sorted(self.scopes)) or 'none'}",
                scope=scope,
            )
        if scope in _SEES_ALL_PATHS and self.paths:
            raise _not_allowed(self, "path", "/", self.paths)

    def check_sees_all(self) -> None:
        """Let them pass where everybody's doings are shown, if nothing is closed to them.

        Raises:
            Refused: they have an allow list of any kind.
        """
        for what, allowed in (("subject", self.subjects), ("durable", self.durables), ("path", self.paths)):
            if allowed:
                raise _not_allowed(self, what, "all of them", allowed)

    def check_subject(self, subject: str) -> None:
        """Let them pass if they may touch this subject, or every subject that this filter takes.

        Raises:
            Refused: they may not.
        """
        if self.subjects and not is_covered(subject, self.subjects):
            raise _not_allowed(self, "subject", subject, self.subjects)

    def check_durable(self, durable: str) -> None:
        """Let them pass if they may use this consumer.

        Raises:
            Refused: they may not.
        """
        if not self.allows_durable(durable):
            raise _not_allowed(self, "durable", durable, self.durables)

    def allows_durable(self, durable: str) -> bool:
        """Say that they may use this consumer."""
        return not self.durables or any(_matches(durable, pattern) for pattern in self.durables)

    def check_path(self, path: str) -> None:
        """Let them pass if they may touch this canonical path.

        Raises:
            Refused: they may not.
        """
        if self.paths and not any(path == one or path.startswith(one.rstrip("/") + "/") for one in self.paths):
            raise _not_allowed(self, "path", path, self.paths)


OPEN: Final = Principal("anybody", Kind.OPEN, SCOPES)
"""Everybody, while authentication is off."""
NOBODY: Final = Principal("nobody", Kind.OPEN, frozenset())
"""Whoever asks for what is public."""


def expand_scopes(names: Iterable[str]) -> frozenset[str]:
    """Give these scopes and all that follow from them.

    Raises:
        ValueError: one is not known.
    """
    found: set[str] = set()
    for name in names:
        if name not in SCOPES:
            raise ValueError(f"expected scopes out of {' '.join(sorted(SCOPES))} (one is {name[:40]!r})")
        found |= {name} | _IMPLIED.get(name, frozenset())
    return frozenset(found)


def known_scopes(names: Iterable[str]) -> frozenset[str]:
    """Give those of these scopes that mean something here, with all that follow from them: for tokens of others."""
    return expand_scopes(name for name in names if name in SCOPES)


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1]))


def _not_allowed(who: Principal, what: str, name: str, allowed: tuple[str, ...]) -> Refused:
    return Refused(
        "identity.not-allowed",
        f"{what}: {who.subject} may use {', '.join(allowed)} (it is {name[:128]!r})",
    )
