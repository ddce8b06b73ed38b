"""The log lines: JSON on stderr, one a line, whoever writes them.

Rules of the file:
- What a library says through `logging`, and what Python warns of, are lines like ours: a line that is no JSON would be
  lost to whoever collects them.
"""

import logging
import sys

import orjson
import structlog
from structlog.tracebacks import ExceptionDictTransformer


def configure_logs(level: str) -> None:
    """Send structured lines of this level and above to stderr."""
    least = getattr(logging, level.upper())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Forward()], level=max(least, logging.WARNING), force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("trio-websocket").setLevel(logging.ERROR)
    logging.getLogger("nats").setLevel(logging.CRITICAL)


class _Forward(logging.Handler):
    """Writes what libraries say as our own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        try:
            text = record.getMessage()
        except (TypeError, ValueError, KeyError):  # its own arguments do not fit: said all the same
            text = str(record.msg)
        fault = record.exc_info[1] if record.exc_info else None
        more = {} if fault is None else {"exc_info": fault}
        structlog.get_logger("library").log(record.levelno, text, library=record.name, **more)


def _dumps(value: object, **_: object) -> bytes:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
