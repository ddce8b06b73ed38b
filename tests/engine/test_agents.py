"""The roster: who is there, which scan goes where, and that none is live for ever."""

import random
from contextlib import nullcontext

import pytest

from engine.agents import AWAY_COUNT, QUEUE_COUNT, Roster
from engine.agents_wire import Hello, Report, Working
from engine.errors import Refused, Unavailable
from engine.scans import Order, Scan, ScanState

GRACE_S = 30.0


def start(roster: Roster, agent_id: str, command_id: str, now: float = 0.0, *, timeout_s: float = 1000.0) -> Scan:
    """Ask for a scan."""
    return roster.start(agent_id, Order("/x", timeout_s=timeout_s), command_id, "", now)[0]


def done(command_id: str) -> Report:
    """Say that a scan is complete."""
    return Report(command_id, True)


def test_an_agent_is_sent_what_it_has_hands_for() -> None:
    """At most `max_concurrency` at once, in order; the next when one is over."""
    roster = Roster(GRACE_S)
    number = roster.attach(Hello("a", max_concurrency=2), 0.0)
    scans = [start(roster, "a", f"c{index}") for index in range(4)]
    assert [roster.next_to_send("a", number, 1.0) for _ in range(3)] == [scans[0], scans[1], None]
    assert [scan.state for scan in scans] == [ScanState.RUNNING] * 2 + [ScanState.QUEUED] * 2
    assert roster.report("a", done("c1"), 2.0) is scans[1]
    assert roster.next_to_send("a", number, 2.0) is scans[2]
    assert roster.next_to_send("a", number, 2.0) is None


def test_more_than_may_wait_is_refused_at_once() -> None:
    """The queue's bound, said with its limit; what is refused leaves nothing behind."""
    roster = Roster(GRACE_S)
    number = roster.attach(Hello("a"), 0.0)
    start(roster, "a", "running")
    assert roster.next_to_send("a", number, 0.0) is not None
    for index in range(QUEUE_COUNT):
        start(roster, "a", f"c{index}")
    with pytest.raises(Unavailable, match=str(QUEUE_COUNT)) as shed:
        start(roster, "a", "one-more")
    assert (shed.value.kind.code, shed.value.kind.status) == ("agents.busy", 429)
    assert roster.history.get("one-more") is None
    assert roster.history.live_count() == QUEUE_COUNT + 1


def test_unknown_and_away_agents_are_refused_differently() -> None:
    """404 for whoever was never seen, 409 for whoever is not connected."""
    roster = Roster(GRACE_S)
    with pytest.raises(Refused) as unknown:
        start(roster, "a", "c")
    roster.detach("a", roster.attach(Hello("a"), 0.0), 1.0)
    with pytest.raises(Refused) as away:
        start(roster, "a", "c", 2.0)
    assert (unknown.value.kind.status, away.value.kind.status) == (404, 409)


def test_an_agent_that_comes_back_within_the_grace_ends_its_scan() -> None:
    """The scans are the agent's, not the connection's."""
    roster = Roster(GRACE_S)
    number = roster.attach(Hello("a"), 0.0)
    scan = start(roster, "a", "c")
    roster.next_to_send("a", number, 0.0)
    roster.detach("a", number, 5.0)
    assert roster.next_deadline() == 35.0
    assert roster.expire(34.9) == []
    roster.attach(Hello("a"), 34.9)
    assert roster.expire(36.0) == []
    assert roster.report("a", done("c"), 40.0) is scan
    assert scan.state is ScanState.COMPLETE
    assert roster.next_deadline() is None


def test_an_agent_that_stays_away_loses_its_scans() -> None:
    """Running and waiting ones alike; a late report still says the truth about what ran."""
    roster = Roster(GRACE_S)
    number = roster.attach(Hello("a"), 0.0)
    ran, waited = start(roster, "a", "c1"), start(roster, "a", "c2")
    roster.next_to_send("a", number, 0.0)
    roster.detach("a", number, 5.0)
    assert roster.expire(35.0) == [ran, waited]
    assert ran.state is waited.state is ScanState.LOST
    assert "never sent" in waited.error
    assert "never sent" not in ran.error
    assert roster.next_deadline() is None
    roster.attach(Hello("a"), 99.0)
    assert roster.report("a", done("c1"), 100.0) is ran
    assert (ran.state, ran.error) == (ScanState.COMPLETE, "")
    assert dict(roster.ended) == {ScanState.LOST: 2, ScanState.COMPLETE: 1}


def test_a_scan_has_a_time() -> None:
    """A connected agent that never answers does not hold a scan, and its hand, for ever."""
    roster = Roster(GRACE_S)
    number = roster.attach(Hello("a"), 0.0)
    first, second = start(roster, "a", "c1", timeout_s=10.0), start(roster, "a", "c2")
    roster.next_to_send("a", number, 1.0)
    assert roster.next_deadline() == 11.0
    assert roster.expire(10.9) == []
    assert roster.expire(11.0) == [first]
    assert roster.next_to_send("a", number, 11.0) is second


def test_a_newer_connection_takes_over() -> None:
    """The older one speaks for nobody: it is sent nothing, and its end changes nothing."""
    roster = Roster(GRACE_S)
    old = roster.attach(Hello("a"), 0.0)
    scan = start(roster, "a", "c")
    new = roster.attach(Hello("a"), 1.0)
    assert roster.takeovers == 1
    assert roster.next_to_send("a", old, 1.0) is None
    assert roster.next_to_send("a", new, 1.0) is scan
    roster.detach("a", old, 2.0)
    assert roster.find("a").is_connected
    roster.heard("a", old, 50.0)
    assert roster.find("a").last_seen == 1.0
    assert not roster.update(Hello("a", version="old"), old, 3.0)
    assert roster.update(Hello("a", version="new"), new, 3.0)
    assert roster.find("a").hello.version == "new"


def test_nobody_takes_over_another_principals_agent() -> None:
    """A name belongs to whoever used it, for as long as it is remembered."""
    roster = Roster(GRACE_S)
    number = roster.attach(Hello("a"), 0.0, "team-a")
    roster.check_owner("a", "team-a")
    roster.check_owner("b", "team-b")
    roster.detach("a", number, 1.0)
    with pytest.raises(Refused) as refusal:
        roster.check_owner("a", "team-b")
    assert (refusal.value.kind.code, refusal.value.kind.close_code) == ("agents.not-yours", 4503)


def test_what_an_agent_came_back_without_is_lost_and_what_it_brings_is_known_again() -> None:
    """An agent that lists its scans decides which of them live, also after the gateway was started anew."""
    roster = Roster(GRACE_S)
    number = roster.attach(Hello("a", max_concurrency=2), 0.0)
    start(roster, "a", "c1"), start(roster, "a", "c2")
    roster.next_to_send("a", number, 0.0), roster.next_to_send("a", number, 0.0)
    roster.attach(Hello("a", running=(Working("c2", "/x"), Working("before", "/y"))), 1.0)
    assert {scan.command_id: scan.state.value for scan in roster.history.newest(9, None, None, None)[0]} == {
        "c1": "lost",
        "c2": "running",
        "before": "running",
    }
    adopted = roster.report("a", done("before"), 2.0)
    assert adopted is not None
    assert (adopted.state, adopted.order.root, adopted.order.trigger_type) == (ScanState.COMPLETE, "/y", "adopted")


def test_reports_about_scans_of_others_change_nothing() -> None:
    """Unknown, another agent's, not sent yet, over already: counted and passed over."""
    roster = Roster(GRACE_S)
    number = roster.attach(Hello("a"), 0.0)
    roster.attach(Hello("b"), 0.0)
    scan, waits = start(roster, "a", "c1"), start(roster, "a", "c2")
    roster.next_to_send("a", number, 0.0)
    for agent_id, command_id in (("a", "unknown"), ("b", "c1"), ("a", "c2")):
        assert roster.report(agent_id, done(command_id), 1.0) is None
    assert (scan.state, waits.state) == (ScanState.RUNNING, ScanState.QUEUED)
    assert roster.report("a", done("c1"), 1.0) is scan
    assert roster.report("a", Report("c1", False, error="no, it failed"), 2.0) is None
    assert (scan.state, roster.ignored) == (ScanState.COMPLETE, 4)


def test_one_key_is_one_scan() -> None:
    """The same again gives the same scan, also when it is over; another body is refused; keys are an agent's own."""
    roster = Roster(GRACE_S)
    number = roster.attach(Hello("a"), 0.0)
    roster.attach(Hello("b"), 0.0)
    scan, is_new = roster.start("a", Order("/x"), "c1", "k", 0.0)
    assert is_new
    assert roster.start("a", Order("/x"), "c2", "k", 0.0) == (scan, False)
    with pytest.raises(Refused) as conflict:
        roster.start("a", Order("/y"), "c3", "k", 0.0)
    assert (conflict.value.kind.code, conflict.value.members) == ("scans.key-conflict", {"command_id": "c1"})
    assert roster.start("b", Order("/y"), "c4", "k", 0.0)[1]
    roster.next_to_send("a", number, 0.0)
    roster.report("a", done("c1"), 1.0)
    roster.detach("a", number, 2.0)
    assert roster.start("a", Order("/x"), "c5", "k", 3.0) == (scan, False)


def test_giving_up_takes_back_what_waits_and_loses_what_runs() -> None:
    """What was never sent never runs; what was sent is out of our hands."""
    roster = Roster(GRACE_S)
    number = roster.attach(Hello("a"), 0.0)
    start(roster, "a", "c1"), start(roster, "a", "c2"), start(roster, "a", "c3")
    roster.next_to_send("a", number, 0.0)
    assert roster.give_up("c2", 1.0).state is ScanState.FAILED
    assert roster.give_up("c1", 1.0).state is ScanState.LOST
    third = roster.next_to_send("a", number, 1.0)
    assert third is not None
    assert third.command_id == "c3"
    for command_id, code in (("c1", "scans.over"), ("nobody", "scans.unknown")):
        with pytest.raises(Refused) as refusal:
            roster.give_up(command_id, 2.0)
        assert refusal.value.kind.code == code


def test_agents_that_went_are_remembered_up_to_a_bound() -> None:
    """Those longest away are forgotten first, and none that has a scan that is not over."""
    roster = Roster(GRACE_S)
    number = roster.attach(Hello("busy"), 0.0)
    start(roster, "busy", "c")
    roster.next_to_send("busy", number, 0.0)
    roster.detach("busy", number, 0.0)
    for index in range(AWAY_COUNT + 10):
        roster.detach(f"a{index}", roster.attach(Hello(f"a{index}"), 1.0), 1.0)
    assert len(roster.agents) == AWAY_COUNT
    assert "busy" in roster.agents
    assert "a10" not in roster.agents
    assert f"a{AWAY_COUNT + 9}" in roster.agents


def test_whatever_happens_no_scan_is_live_for_ever_and_no_agent_has_too_much(chance: random.Random) -> None:
    """Random agents, connections, orders, reports and times: the bounds hold at each step, and the end is quiet."""
    roster = Roster(GRACE_S, history_count=50)
    connections: list[tuple[str, int]] = []
    now, commands = 0.0, 0
    for _ in range(4000):
        now += chance.choice((0.0, 0.1, 3.0, 20.0))
        agent_id = chance.choice("abcd")
        match chance.randrange(7):
            case 0:
                names = [f"c{chance.randrange(commands + 1)}", f"x{chance.randrange(50)}"]
                listed = None if chance.random() < 0.7 else tuple(Working(name, "/") for name in names)
                hello = Hello(agent_id, max_concurrency=chance.randrange(1, 4), running=listed)
                connections.append((agent_id, roster.attach(hello, now)))
            case 1 if connections:
                roster.detach(*connections.pop(chance.randrange(len(connections))), now)
            case 2 | 3 if agent_id in roster.agents and roster.agents[agent_id].is_connected:
                commands += 1
                timeout_s = chance.choice((5.0, 500.0))
                record = roster.agents[agent_id]
                is_full = len(record.queue) >= QUEUE_COUNT and not record.has_hand_free
                with pytest.raises(Unavailable) if is_full else nullcontext():
                    start(roster, agent_id, f"c{commands}", now, timeout_s=timeout_s)
            case 4 | 5 if connections:
                roster.next_to_send(*chance.choice(connections), now)
            case 6:
                roster.report(agent_id, Report(f"c{chance.randrange(commands + 2)}", chance.random() < 0.5), now)
            case _:
                pass
        deadline = roster.next_deadline()
        lost = roster.expire(now)
        assert bool(lost) == (deadline is not None and deadline <= now)
        live = list(roster.history.live())
        assert sorted(scan.command_id for scan in live) == sorted(
            scan.command_id for record in roster.agents.values() for scan in record.live()
        )
        assert all(scan.is_live for scan in live)
        assert len(roster.history) <= max(50, len(live))
    for agent_id, number in connections:
        roster.detach(agent_id, number, now)
    while (deadline := roster.next_deadline()) is not None:
        assert roster.expire(deadline)
    assert roster.history.live_count() == 0
