"""A worker of a gateway with several: `python -m edge.worker PLACEMENT`, started by `edge/serve_workers.py` alone."""

import sys

from structlog.contextvars import bind_contextvars

from edge.serve_start import run
from engine.placement import Placement
from engine.settings import load_settings


def main() -> int:
    """Run the worker that the only argument describes; gives the exit code."""
    placement = Placement.model_validate_json(sys.argv[1])
    bind_contextvars(worker=placement.index)  # in every line of its log
    return run(load_settings(placement.given), placement)


if __name__ == "__main__":
    sys.exit(main())
