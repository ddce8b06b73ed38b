"""The annex that measures: load, scenarios and reports, in other processes than what is measured.

`python -m bench list` names the scenarios and `python -m bench --help` shows how they are run.

Rules of the package:
- It imports nothing of the product: the gateway is a child process and is spoken to over its sockets.
- The load comes from worker processes with bytes built beforehand, so that two cores are spent on what is measured.
- What arrives at a rate arrives open-loop, and its latency counts from the intended send time.
- Runs that take as much as they can get are closed-loop, and are labelled with their number in flight.
- A figure is a median over rounds with its smallest and largest value, beside what it is compared with, and says
  how durable an acknowledged event was.
"""
