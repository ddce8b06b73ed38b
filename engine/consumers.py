"""The log's consumers as people manage them: what one is, and how it is made again at another place.

Rules of the file:
- JetStream's JSON in, values out; a member that a newer server leaves out is a nothing, not an error.
- Making a consumer again changes where it begins, and nothing else of its configuration.

What must change with it: the wire reference of `GET /consumers` in the README.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from engine.positions import Position

CONSUMER_NOT_FOUND: Final = 10014
STREAM_NOT_FOUND: Final = 10059
INVALID_RESET: Final = 10204
PROBE_LIVES_NS: Final = 5_000_000_000
FILTER_MEMBER: Final = "headgate.filter"
"""In a consumer's metadata: the event types that its agents asked for, separated by commas."""
_BEGINNING: Final = ("deliver_policy", "opt_start_seq", "opt_start_time")


class ConsumerFacts(NamedTuple):
    """One consumer of the stream.

    Args:
        name: its name, of a durable the durable's.
        is_durable: it stays when nobody is attached.
        subjects: what it is for; empty when it takes the whole stream.
        config: as the log keeps it.
        created: when it was made, RFC 3339.
        delivered_seq: the last sequence of the stream that was handed to it.
        deliveries: how many deliveries there were, repeated ones included.
        floor_seq: everything up to here is settled.
        ack_pending: handed out and not settled.
        redelivered: of these, how many more than once.
        pending: not handed out yet.
        waiting: pulls that wait for messages, on every gateway.
        pause_s: how long nothing will be delivered, 0 when it is not paused.
    """

    name: str
    is_durable: bool
    subjects: tuple[str, ...]
    config: dict[str, Any]
    created: str
    delivered_seq: int
    deliveries: int
    floor_seq: int
    ack_pending: int
    redelivered: int
    pending: int
    waiting: int
    pause_s: float


def read_consumer(info: Mapping[str, Any]) -> ConsumerFacts:
    """Read a consumer from JetStream's description of it."""
    config = dict(info.get("config") or {})
    delivered, floor = info.get("delivered") or {}, info.get("ack_floor") or {}
    one = config.get("filter_subject")
    return ConsumerFacts(
        str(info.get("name", "")),
        bool(config.get("durable_name")),
        (str(one),) if one else tuple(map(str, config.get("filter_subjects") or ())),
        config,
        str(info.get("created", "")),
        int(delivered.get("stream_seq", 0)),
        int(delivered.get("consumer_seq", 0)),
        int(floor.get("stream_seq", 0)),
        int(info.get("num_ack_pending", 0)),
        int(info.get("num_redelivered", 0)),
        int(info.get("num_pending", 0)),
        int(info.get("num_waiting", 0)),
        int(info.get("pause_remaining", 0)) / 1e9 if info.get("paused") else 0.0,
    )


def describe_consumer(facts: ConsumerFacts, lag_s: float | None, attached_count: int) -> dict[str, object]:
    """Give a consumer as the wire has it.

    Args:
        facts: what the log says.
        lag_s: age of the oldest message that was not handed out; None when it is not known.
        attached_count: sockets of this gateway.
    """
    kinds = (facts.config.get("metadata") or {}).get(FILTER_MEMBER)
    return {
        "durable": facts.name,
        "ephemeral": not facts.is_durable,
        "subject": facts.subjects[0] if len(facts.subjects) == 1 else ",".join(facts.subjects) or ">",
        "filter": kinds or None,
        "created": facts.created,
        "pending": facts.pending,
        "ack_pending": facts.ack_pending,
        "redelivered": facts.redelivered,
        "waiting": facts.waiting,
        "ack_floor": {"seq": facts.floor_seq},
        "delivered": {"seq": facts.delivered_seq, "deliveries": facts.deliveries},
        "lag_s": lag_s,
        "paused_until": facts.config.get("pause_until") if facts.pause_s else None,
        "attached": attached_count,
    }


def probe_config(facts: ConsumerFacts, position: Position) -> dict[str, object]:
    """Give the configuration of a consumer that asks the log which sequence a position is, and is forgotten."""
    config: dict[str, object] = {
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": PROBE_LIVES_NS,
        **position.config(),
    }
    for member in ("filter_subject", "filter_subjects"):
        if facts.config.get(member):
            config[member] = facts.config[member]
    return config


def first_sequence(probe: Mapping[str, Any]) -> int:
    """Give the sequence at which a consumer that was just made will begin."""
    return read_consumer(probe).delivered_seq + 1


def moved_config(facts: ConsumerFacts, sequence: int) -> dict[str, object]:
    """Give a consumer's own configuration with another beginning."""
    config = {name: value for name, value in facts.config.items() if name not in _BEGINNING}
    config["metadata"] = {
        name: text for name, text in (config.get("metadata") or {}).items() if not name.startswith("_nats.")
    }
    return {**config, "deliver_policy": "by_start_sequence", "opt_start_seq": sequence}


def age_s(timestamp: str, now: datetime) -> float | None:
    """Give how long ago an instant of the log was, in seconds; None when it is none."""
    try:
        return max(0.0, (now - datetime.fromisoformat(timestamp)).total_seconds())
    except (ValueError, TypeError):
        return None
