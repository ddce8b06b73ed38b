"""Which requests get a line in the log.

Rules of the file:
- No clock: the caller says what second it is.
- The Quart lane's requests all get one. The express lane's get one by rule, because a line costs more than the request.
- Probes get none: they come every second and say nothing.
- A flood of failures writes at most `LINES_A_SECOND` lines; how many were left out is said with the next one.
"""

from dataclasses import dataclass
from typing import Final

LINES_A_SECOND: Final = 200
PROBES: Final = frozenset({"/healthz", "/readyz", "/health", "/ready", "/api/v1/health", "/metrics", "/api/v1/metrics"})


def check_rule(text: str) -> str:
    """Give back the express lane's rule: `errors`, `all`, `off`, or `1/N` for errors and one of every N others.

    Raises:
        ValueError: it is none of these.
    """
    if text in {"errors", "all", "off"}:
        return text
    share = text.removeprefix("1/")
    if share == text or not share.isascii() or not share.isdigit() or not 1 <= len(share) <= 9 or int(share) < 1:
        raise ValueError("expected `errors`, `all`, `off`, or `1/N`")
    return text


@dataclass(slots=True)
class RequestLog:
    """Decides about one request after the other.

    Args:
        rule: of the express lane, as `check_rule` takes it.
        left_out: lines that the flood's bound has kept back since the last line.
    """

    rule: str = "errors"
    left_out: int = 0
    _every: int = 0
    _seen: int = 0
    _second: int = 0
    _written: int = 0

    def __post_init__(self) -> None:
        """Read the rule."""
        check_rule(self.rule)
        self._every = {"all": 1, "errors": 0, "off": 0}.get(self.rule, 0) or int(self.rule.partition("/")[2] or 0)

    def wants(self, route: str, status: int, *, is_express: bool, second: int) -> bool:
        """Say whether this request gets a line; saying yes counts it.

        Args:
            route: as the table writes it.
            status: of its answer.
            is_express: it was answered on the express lane.
            second: the running second, of any clock that does not go back.
        """
        if is_express and not self._is_chosen(status):
            return False
        if route in PROBES:
            return False
        if second != self._second:
            self._second, self._written = second, 0
        if self._written >= LINES_A_SECOND:
            self.left_out += 1
            return False
        self._written += 1
        return True

    def _is_chosen(self, status: int) -> bool:
        if self.rule == "off":
            return False
        if status >= 500:
            return True
        if not self._every:
            return False
        self._seen += 1
        return self._seen % self._every == 0
