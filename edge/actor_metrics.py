"""The tree of actors as `/metrics` shows it: who lives, how full the mailboxes are, who falls.

Rules of the file:
- Only the first two levels have names of ours; what is below them is named by clients and counted together.
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from actors.tree import Actor, Mailbox


def actor_metrics(root: Actor) -> Iterator[Metric]:
    """Give them as they are now."""
    actors = GaugeMetricFamily(
        "headgate_actors",
        "Live actors, by their parent: under `stream` one for each agent. Not falling when clients leave: a leak.",
        labels=["parent"],
    )
    restarts = CounterMetricFamily(
        "headgate_actor_restarts",
        "Falls of an actor, those of its own children included. More than five a minute and the gateway is not ready.",
        labels=["actor"],
    )
    depth = GaugeMetricFamily(
        "headgate_mailbox_depth",
        "What waits in an actor's mailbox, or in those of all its children. At its bound the gateway sheds or waits.",
        labels=["actor"],
    )
    bound = GaugeMetricFamily("headgate_mailbox_bound", "How much may wait there.", labels=["actor"])
    for actor in root.children.values():
        children = actor.children.values()
        actors.add_metric([actor.name], len(children))
        restarts.add_metric([actor.name], actor.restarts + sum(one.restarts for one in children))
        boxes: list[Mailbox] = [one.mailbox() for one in (actor, *children) if one.mailbox is not None]
        if boxes:
            depth.add_metric([actor.name], sum(one.depth for one in boxes))
            bound.add_metric([actor.name], sum(one.bound for one in boxes))
    yield from (actors, restarts, depth, bound)
