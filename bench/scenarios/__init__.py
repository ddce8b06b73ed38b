"""What can be measured: one module a question, each with `run(options, say)` that gives its report."""

from collections.abc import Callable
from typing import Final

from bench.figures import Report
from bench.options import Options, Say
from bench.scenarios import catalog, express, guard, hashes, http2, ingest, memory, overload, query, stream, workers

SCENARIOS: Final[dict[str, Callable[[Options, Say], Report]]] = {
    "ingest": ingest.run,
    "hashes": hashes.run,
    "stream": stream.run,
    "express": express.run,
    "guard": guard.run,
    "http2": http2.run,
    "memory": memory.run,
    "catalog": catalog.run,
    "query": query.run,
    "workers": workers.run,
    "overload": overload.run,
}

STATEMENTS: Final[dict[str, str]] = {
    "ingest": ingest.__doc__ or "",
    "hashes": hashes.__doc__ or "",
    "stream": stream.__doc__ or "",
    "express": express.__doc__ or "",
    "guard": guard.__doc__ or "",
    "http2": http2.__doc__ or "",
    "memory": memory.__doc__ or "",
    "catalog": catalog.__doc__ or "",
    "query": query.__doc__ or "",
    "workers": workers.__doc__ or "",
    "overload": overload.__doc__ or "",
}
