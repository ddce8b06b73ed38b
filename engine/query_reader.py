"""One query on one connection: described, opened as a cursor, read piece by piece. It runs on the asyncio side.

Rules of the file:
- Everything happens in one read-only transaction, which is rolled back at the end.
- Values go in as text and come out as text; `rendered` is the statement that an error's position belongs to.
- asyncpg's objects stay in here; what comes out is text and names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.query import Column, describing, limited, name_columns
from engine.query_text import QueryText, Rendered
from engine.query_values import ParameterType, parameter_texts


class Reader:
    """Reads one query.

    Args:
        query: the query.
        params: its parameters by name.
        limit: rows at most.
        as_texts: rows are lists of texts, not objects.
    """

    def __init__(self, query: QueryText, params: Mapping[str, object], limit: int, *, as_texts: bool) -> None:
        self.columns: Sequence[Column] = ()
        self.rendered: Rendered = describing(query)
        self._query = query
        self._params = params
        self._limit = limit
        self._as_texts = as_texts
        self._transaction: Any = None
        self._cursor: Any = None

    async def open(self, connection: Any) -> None:
        """Begin, learn the columns, and open the cursor."""
        self._transaction = connection.transaction(readonly=True)
        await self._transaction.start()
        described = await connection.prepare(self.rendered.text)
        self.columns = name_columns([(one.name, one.type.name) for one in described.get_attributes()])
        types = [ParameterType(one.name, one.schema) for one in described.get_parameters()]
        texts = parameter_texts(self._query.names, self._params, types)
        self.rendered = limited(self._query, self.columns, types, self._limit, as_texts=self._as_texts)
        statement = await connection.prepare(self.rendered.text)
        self._cursor = await statement.cursor(*texts)

    async def fetch(self, _: Any, count: int) -> list[str | None]:
        """Give so many rows at most, None for one that is too wide; none at the end."""
        return [row[0] for row in await self._cursor.fetch(count)]

    async def close(self, _: Any) -> None:
        """End the transaction; nothing is kept of it."""
        if self._transaction is not None:
            await self._transaction.rollback()
