"""Where a PostgreSQL is and how to be let in.

Rules of the file:
- Values only; nobody is asked. A password never stands in a `repr`.
"""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Address:
    """One database and one account.

    Args:
        host: name, address, or the folder of the Unix socket.
        port: TCP port, or the number in the socket's name.
        user: whom to be.
        password: empty when none is needed.
        database: its name.
        url: everything as a URL instead; what is set above and not empty wins over it.
    """

    host: str = ""
    port: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    database: str = ""
    url: str = field(default="", repr=False)

    def arguments(self) -> dict[str, object]:
        """Give what is known, as the driver's arguments."""
        known = {
            "dsn": self.url,
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "database": self.database,
        }
        return {name: value for name, value in known.items() if value}


class LocateDatabase(Protocol):
    """Gives the database; raises OSError when none is known yet."""

    def __call__(self) -> Address:
        """Give the database."""
        ...
