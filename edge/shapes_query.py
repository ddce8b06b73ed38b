"""What `POST /query/sql` takes and gives.

Rules of the file:
- Its twin under `/api` is the same and is not repeated.
"""

from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from edge.http import JSON
from edge.shapes import Answer, Operation, json_body


class SqlQuery(Struct, forbid_unknown_fields=True):
    """One query."""

    sql: Annotated[str, Meta(description="one SELECT; `:name` stands for a parameter")]
    params: Annotated[dict[str, Any] | None, Meta(description="the parameters by name")] = None


class SqlColumn(Struct):
    """One column of the result."""

    name: str
    type: Annotated[str, Meta(description="as PostgreSQL calls it")]


class SqlRows(Struct):
    """The rows, each an object."""

    rows: list[dict[str, Any]]
    columns: list[SqlColumn]
    rowCount: Annotated[int, Meta(ge=0)]  # noqa: N815  # the wire's name
    truncated: Annotated[bool, Meta(description="a limit cut the answer short")]
    elapsedMs: float  # noqa: N815  # the wire's name


OPERATIONS: Final[dict[str, Operation]] = {
    "POST /query/sql": Operation(
        "query",
        "Reads the catalog's views as a role that may do nothing else. `Accept: application/x-ndjson` and `text/csv` "
        "stream the rows; a stream that cannot be finished is cut, and NDJSON says why in its last line.",
        {
            200: Answer(
                "The rows.",
                {JSON: SqlRows, "application/x-ndjson": {"type": "string"}, "text/csv": {"type": "string"}},
            )
        },
        json_body(SqlQuery, {"sql": "SELECT 1 AS one", "params": {}}),
        errors=(
            "request.bad-json",
            "request.wrong-shape",
            "request.bad-encoding",
            "request.unknown-encoding",
            "request.too-large",
            "query.wrong",
            "query.forbidden",
            "query.too-slow",
            "query.too-large",
            "query.off",
            "query.busy",
            "postgres.refused",
            "postgres.down",
            "postgres.busy",
            "postgres.cancelled",
        ),
    ),
}
