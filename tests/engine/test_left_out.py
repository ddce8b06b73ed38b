"""What deliveries left out: every way in which it ends, alone and against a model of a log with several agents."""

import random

from engine.gaps import Run, StreamState, runs_of
from engine.left_out import MOST_JUMPS, LeftOut
from engine.stream_v1 import Gap

EPOCH = "2026-01-01T00:00:00Z"


def state(first: int = 1, last: int = 100, *deleted: int) -> StreamState:
    """A stream."""
    return StreamState(EPOCH, first, last, len(deleted), deleted, False, False)


def note(left_out: LeftOut, *given: tuple[int, int, int]) -> None:
    """An agent is sent these: number, sequence, how often."""
    left_out.note([one[0] for one in given], [one[1] for one in given], [one[2] for one in given])


def left(left_out: LeftOut) -> list[Run]:
    """All that nothing is known of."""
    return [run for jump in left_out.jumps for run in jump.left]


def judge(left_out: LeftOut, own: list[Run], stream: StreamState, settled: int = 0) -> list[Gap]:
    """Decide with what the log has, and give what is announced."""
    for jump in left_out.to_judge(settled):
        left_out.judge(jump, own, stream)
    return left_out.take(stream)


def test_deliveries_without_a_hole_leave_nothing_out() -> None:
    """One by one, in batches, out of order within a batch, and repeated ones between them."""
    left_out = LeftOut(0, 0)
    note(left_out, *((number, number, 1) for number in range(1, 50)))
    note(left_out, (51, 51, 1), (50, 50, 1))
    note(left_out, (52, 7, 2))
    note(left_out, (53, 52, 1))
    assert (left_out.jumps, left_out.sequence, left_out.number, left_out.counted()) == ([], 52, 53, 53)


def test_what_exists_between_two_neighbours_was_passed_over() -> None:
    """The numbers that were seen: delivery 115 is 158, delivery 116 is 188, and 170 and 173 are there."""
    left_out = LeftOut(157, 114)
    note(left_out, (115, 158, 1), (116, 188, 1))
    assert left(left_out) == [(159, 187)]
    gone = [one for one in range(159, 188) if one not in (170, 173)]
    gaps = judge(left_out, [(170, 170), (173, 173)], state(1, 200, *gone))
    assert [one for one in gaps if one.reason == "skipped"] == [Gap(170, 170, "skipped"), Gap(173, 173, "skipped")]
    assert sum(one.last - one.first + 1 for one in gaps) == 29
    assert left_out.jumps == []


def test_messages_of_other_subjects_are_forgotten() -> None:
    """They lie between two neighbours, and the log has none of the durable's there."""
    left_out = LeftOut(10, 5)
    note(left_out, (6, 15, 1))
    assert judge(left_out, [], state()) == []
    assert left_out.jumps == []
    assert judge(left_out, [], state(20)) == []


def test_what_was_delivered_to_nobody_stays_open_until_it_is_removed() -> None:
    """The log counted it and nobody has it; that it exists is no reason to forget it."""
    left_out = LeftOut(10, 10)
    note(left_out, (12, 12, 1))
    assert left_out.take(state()) == []
    assert judge(left_out, [(11, 11)], state()) == []
    assert left_out.lowest() == 11
    assert left_out.take(state(1, 100, 11)) == [Gap(11, 11, "deleted")]
    assert left_out.take(state(1, 100, 11)) == []


def test_what_was_delivered_to_nobody_is_over_when_it_is_seen_or_settled() -> None:
    """It came again, or somebody else has confirmed it."""
    left_out = LeftOut(10, 10)
    note(left_out, (13, 13, 1))
    note(left_out, (14, 11, 2))
    assert left(left_out) == [(12, 12)]
    assert judge(left_out, [(12, 12)], state(), settled=11) == []
    assert left(left_out) == [(12, 12)]
    assert judge(left_out, [(12, 12)], state(), settled=13) == []
    assert left_out.jumps == []


def test_what_is_removed_while_it_is_about_to_be_sent_is_no_gap() -> None:
    """It is here, and may be sent still."""
    left_out = LeftOut(10, 10)
    note(left_out, (13, 13, 1))
    assert left_out.take(state(20), here=[12]) == [Gap(11, 11, "purged")]
    note(left_out, (12, 12, 1))
    assert left_out.jumps == []


def test_another_agents_delivery_comes_late_and_divides_the_jump() -> None:
    """What was left on its two sides is known to be nobody's, where no number is missing there."""
    left_out = LeftOut(0, 0)
    note(left_out, (4, 10, 1))
    assert left_out.to_judge(0) == []
    note(left_out, (2, 5, 1))
    note(left_out, (1, 3, 1))
    assert judge(left_out, [(1, 2), (4, 4), (6, 9)], state()) == [Gap(1, 2, "skipped"), Gap(4, 4, "skipped")]
    assert left(left_out) == [(6, 9)]
    note(left_out, (3, 6, 1))
    assert judge(left_out, [(7, 9)], state()) == [Gap(7, 9, "skipped")]


def test_more_than_can_be_in_other_hands_was_passed_over() -> None:
    """One number is not known; of three settled messages two at least were given to nobody, and all are named."""
    left_out = LeftOut(0, 0)
    note(left_out, (2, 4, 1))
    assert judge(left_out, [(1, 1)], state(), settled=0) == []
    assert judge(left_out, [(1, 3)], state(), settled=3) == [Gap(1, 3, "skipped")]


def test_a_message_that_comes_again_explains_its_number() -> None:
    """Then nobody else has anything of the jump."""
    left_out = LeftOut(0, 0)
    note(left_out, (2, 4, 1))
    note(left_out, (3, 2, 2))
    assert judge(left_out, [(1, 1), (3, 3)], state()) == [Gap(1, 1, "skipped"), Gap(3, 3, "skipped")]


def test_the_log_passes_over_what_it_purged() -> None:
    """Its position goes on without a delivery."""
    left_out = LeftOut(10, 5)
    left_out.pass_over(30, 5)
    assert judge(left_out, [(11, 20)], state(25)) == [Gap(11, 24, "purged")]
    assert left_out.jumps == []
    left_out.pass_over(40, 6)
    assert left_out.to_judge(0) == []
    assert judge(left_out, [(31, 31)], state(25), settled=40) == []


def test_what_the_log_has_again_before_it_got_there_may_come() -> None:
    """All was purged and nothing pending; some of it is there again, and the log's own position is before it."""
    left_out = LeftOut(10, 5)
    left_out.pass_over(20, 5, is_reached=False)
    assert judge(left_out, [(13, 15)], state(1, 20, 11)) == [Gap(11, 11, "deleted")]
    assert left(left_out) == [(13, 15)]
    note(left_out, (6, 13, 1), (7, 15, 1))
    assert judge(left_out, [(14, 14)], state(1, 20, 11)) == [Gap(14, 14, "skipped")]
    assert left_out.jumps == []


def test_a_jump_that_ended_while_the_log_was_asked_is_left_alone() -> None:
    """Others have made so many since that it went."""
    left_out = LeftOut(10, 5)
    left_out.pass_over(20, 5, is_reached=False)
    (jump,) = left_out.to_judge(0)
    left_out.jumps.clear()
    left_out.judge(jump, [(11, 20)], state())
    assert left_out.jumps == []


def test_what_a_later_mark_covers_is_told_elsewhere() -> None:
    """Another gateway has said it, or sent it."""
    left_out = LeftOut(10, 5)
    note(left_out, (9, 20, 1))
    left_out.forget(15, 7)
    assert left(left_out) == [(16, 19)]
    left_out.forget(30, 12)
    assert (left_out.jumps, left_out.sequence, left_out.number) == ([], 30, 12)


def test_a_log_that_counts_anew_is_not_blamed() -> None:
    """After a crash it may repeat numbers; a delivery without a number proves nothing either."""
    left_out = LeftOut(10, 10)
    note(left_out, (8, 15, 1))
    assert judge(left_out, [(11, 14)], state()) == []
    note(left_out, (0, 20, 1))
    assert judge(left_out, [(11, 14), (16, 19)], state()) == []
    assert left_out.take(state(20)) == [Gap(11, 14, "purged"), Gap(16, 19, "purged")]


def test_a_durable_that_is_found_further_back_keeps_what_is_open_before_that() -> None:
    """Its log has forgotten deliveries: what comes then has numbers that were seen, and nothing is blamed on it."""
    left_out = LeftOut(10, 10)
    note(left_out, (12, 13, 1), (14, 20, 1))
    new = left_out.moved(15, 12)
    assert left(new) == [(11, 12), (14, 15)]
    note(new, (13, 16, 1))
    assert new.sequence == 16
    assert new.to_judge(0) == []
    assert new.take(state(12)) == [Gap(11, 11, "purged")]


def test_only_so_many_jumps_are_kept() -> None:
    """The oldest go."""
    left_out = LeftOut(0, 0)
    for number in range(1, 3 * MOST_JUMPS):
        note(left_out, (2 * number, 2 * number, 1))
    assert len(left_out.jumps) == MOST_JUMPS


def test_seen_and_announced_are_everything(chance: random.Random) -> None:
    """A log that loses deliveries, passes messages over, removes some and has others' subjects, and several agents.

    Of the durable's messages each is sent or announced, never both, none of another subject is named as passed over
    unless numbers are missing, and nothing that an agent still may be sent is.
    """
    for _ in range(400):
        last = chance.randint(10, 60)
        own = set(chance.sample(range(1, last + 1), chance.randint(1, last)))
        others = set(range(1, last + 1)) - own
        removed: set[int] = set()
        seen: set[int] = set()
        named: dict[int, str] = {}
        left_out = LeftOut(0, 0)
        number, lost, waiting, passed = 0, set[int](), list[tuple[int, int, int]](), set[int]()

        def stream() -> StreamState:
            return state(1, last, *sorted(removed))  # noqa: B023  # called in the same turn

        def announce(settled: int) -> None:
            for jump in left_out.to_judge(settled):  # noqa: B023  # called in the same turn
                left_out.judge(jump, runs_of((own | seen) - removed - others), stream())  # noqa: B023
            here = [one[1] for one in waiting]  # noqa: B023
            for gap in left_out.take(stream(), here):  # noqa: B023
                for one in range(gap.first, gap.last + 1):
                    assert one not in named.keys() | seen  # noqa: B023
                    named[one] = gap.reason  # noqa: B023
                    assert one in removed or gap.reason == "skipped"  # noqa: B023
                    assert gap.reason != "skipped" or one in passed | lost, one  # noqa: B023

        for sequence in sorted(own):
            if sequence in removed:
                continue
            fate = chance.random()
            if fate < 0.15:
                passed.add(sequence)
                continue
            number += 1
            if fate < 0.3:
                lost.add(sequence)
            else:
                waiting.append((number, sequence, 1))
            if chance.random() < 0.2:
                here = {one[1] for one in waiting}
                removed |= {one for one in chance.sample(range(1, last + 1), 3) if one not in here}
            if waiting and chance.random() < 0.6:
                batch = chance.sample(waiting, chance.randint(1, len(waiting)))
                waiting = [one for one in waiting if one not in batch]
                assert not {one[1] for one in batch} & named.keys()
                note(left_out, *batch)
                seen |= {one[1] for one in batch}
                announce(0)
        if waiting:
            note(left_out, *waiting)
            seen |= {one[1] for one in waiting}
            waiting = []
        for sequence in sorted(lost - removed):
            number += 1
            note(left_out, (number, sequence, 2))
            seen.add(sequence)
        left_out.pass_over(last, number)
        announce(0)
        announce(last)
        certain = own - passed
        assert certain - removed <= seen
        assert own & removed <= seen | named.keys()
        if not lost & removed:
            assert own <= seen | named.keys(), sorted(own - seen - named.keys())
