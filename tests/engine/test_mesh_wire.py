"""What processes say to each other: whole, or not at all."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.mesh_wire import HEAD_BYTES_MOST, MOST_BYTES, PACKET_BYTES, Assembler, Kind, Message, encode

topics = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=60)
bodies = st.one_of(
    st.binary(max_size=50),
    st.integers(0, 3 * PACKET_BYTES + 1).map(lambda size: (b"%07d" % size * (size // 7 + 1))[:size]),
)
messages = st.tuples(st.sampled_from(Kind), st.integers(0, 64), st.integers(0, 2**32 - 1), topics, bodies)


def feed_all(assembler: Assembler, packets: list[bytes]) -> list[Message]:
    """What these packets complete."""
    return [message for packet in packets if (message := assembler.feed(packet)) is not None]


@given(messages)
def test_a_message_arrives_as_it_was_sent(message: tuple[Kind, int, int, str, bytes]) -> None:
    """Whatever it is, in as many packets as it takes, none of which the receiver has no room for."""
    packets = list(encode(*message))
    assert len(packets) == max(1, -(-len(message[4]) // PACKET_BYTES))
    assert max(map(len, packets)) <= PACKET_BYTES + HEAD_BYTES_MOST
    assert feed_all(Assembler(), packets) == [Message(*message)]


@given(st.lists(messages, max_size=6), st.randoms(use_true_random=False))
def test_packets_of_several_senders_may_be_mixed(
    sent: list[tuple[Kind, int, int, str, bytes]], chance: random.Random
) -> None:
    """Each sender's are in order, as its socket keeps them."""
    queues: dict[int, list[bytes]] = {}
    for message in sent:
        queues.setdefault(message[1], []).extend(encode(*message))
    mixed: list[bytes] = []
    while any(queues.values()):
        mixed.append(queues[chance.choice([sender for sender, queue in queues.items() if queue])].pop(0))
    found = feed_all(Assembler(), mixed)
    for sender in queues:
        assert [one for one in found if one.sender == sender] == [Message(*one) for one in sent if one[1] == sender]


@pytest.mark.parametrize("size", [0, 1, PACKET_BYTES - 1, PACKET_BYTES, PACKET_BYTES + 1, 2 * PACKET_BYTES])
def test_sizes_at_the_bound_of_a_packet(size: int) -> None:
    """No packet too many, none too few, nothing lost."""
    packets = list(encode(Kind.TELL, 1, 1, "t", b"x" * size))
    assert len(packets) == max(1, -(-size // PACKET_BYTES))
    assert feed_all(Assembler(), packets) == [Message(Kind.TELL, 1, 1, "t", b"x" * size)]


def test_the_largest_message_is_sent_and_a_larger_one_is_our_bug() -> None:
    """What a receiver keeps of one sender has a bound."""
    (whole,) = feed_all(Assembler(), list(encode(Kind.TELL, 1, 1, "t", bytes(MOST_BYTES))))
    assert len(whole.body) == MOST_BYTES
    with pytest.raises(ValueError, match="the limit is"):
        list(encode(Kind.TELL, 1, 1, "t", bytes(MOST_BYTES + 1)))


@given(st.integers(1, 2), st.integers(0, 2**32 - 1))
def test_a_sender_that_was_killed_in_the_middle_is_followed_by_another(sent: int, number: int) -> None:
    """The next process in its place begins anew, even with the number of the one before; nothing is put together."""
    gone: list[tuple[int, ...]] = []
    assembler = Assembler(gone.append)
    half = list(encode(Kind.CONNECTION, 1, number, "", b"a" * 3 * PACKET_BYTES))[:sent]
    assert assembler.feed(half[0], (7,)) is None
    assert feed_all(assembler, half[1:]) == []
    later = list(encode(Kind.CONNECTION, 1, number, "", b"b" * 2 * PACKET_BYTES))
    assert assembler.feed(later[0], (8,)) is None
    assert assembler.feed(later[1]) == Message(Kind.CONNECTION, 1, number, "", b"b" * 2 * PACKET_BYTES, (8,))
    assert gone == [(7,)]


@given(st.integers(1, 3))
def test_a_receiver_that_comes_in_the_middle_gets_no_half_message(missed: int) -> None:
    """The process before it took the beginning along; the next message is whole again."""
    gone: list[tuple[int, ...]] = []
    assembler = Assembler(gone.append)
    packets = list(encode(Kind.TELL, 1, 5, "deleted", b"[" + b"1," * 2 * PACKET_BYTES + b"1]"))
    assert feed_all(assembler, packets[missed:]) == []
    assert feed_all(assembler, list(encode(Kind.TELL, 1, 6, "deleted", b"[]"))) == [
        Message(Kind.TELL, 1, 6, "deleted", b"[]")
    ]


def test_descriptors_come_with_the_message() -> None:
    """Those of the first packet are there when the last one has come."""
    assembler = Assembler()
    first, second = encode(Kind.CONNECTION, 2, 9, "", b"x" * (PACKET_BYTES + 1))
    assert assembler.feed(first, (11, 12)) is None
    message = assembler.feed(second)
    assert message is not None
    assert message.descriptors == (11, 12)
