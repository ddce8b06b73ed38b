"""What is said of a body that is refused: where it stops being JSON, which events are wrong, which limit it breaks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import Refused
from engine.events import MAX_EVENTS, NAMED_ERRORS, decode_event_lines, decode_events
from engine.json_depth import MAX_DEPTH

GOOD = '{"type":"é","data":{}}'


def refusal_of(body: bytes, *, lines: bool = False) -> Refused:
    """The refusal of this body."""
    with pytest.raises(Refused) as caught:
        (decode_event_lines if lines else decode_events)(body)
    return caught.value


@pytest.mark.parametrize("space", ["", " ", "\n\t"], ids=repr)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        ("", "xyz"),
        ("", "<html>"),
        ('{"events":[', ""),
        ('{"events":[', "!]}"),
        (f'{{"events":[{GOOD},', "]}"),
        (f'{{"events":[{GOOD},', "," + GOOD + "]}"),
        (f'{{"events":[{GOOD}]}}', "x"),
        (f'{{"events":[{GOOD}]}}', "{}"),
        (f'{{"events":[{GOOD}', "}"),
        ('{"events":[{"type":"é","data":{"x":', "}}]}"),
        ('{"events":[{"type":"\U0001f600","data":{"é":"\U0001f600"', "x}}]}"),
        ('{"events":[{"type":"a","data":{"x":"é', '\x01"}}]}'),
        ('{"events":[{"type":"a","data":{"x":"é\\', 'q"}}]}'),
        ('{"events":[{"type":"a","data":{"x":0', "1}}]}"),
        ('{"events":[{"type":"a","data":{"x":', "NaN}}]}"),
        ('{"events":[{"type":"a","data":{"x":', "'y'}}]}"),
        ('{"events":[{"type":1,"data":{}},', "!"),
    ],
)
def test_the_byte_where_json_ends_is_named(before: str, after: str, space: str) -> None:
    """400 with the offset of the first byte that no JSON could have there, counted in bytes, not characters."""
    body = (space + before + after).encode()
    refusal = refusal_of(body)
    assert refusal.kind.code == "request.bad-json"
    offset = refusal.members["offset"]
    assert str(offset) in refusal.detail
    if after:
        assert offset == len((space + before).encode())
    else:
        assert offset in {0, len(body)}  # cut short: its beginning where there was only white space, else its end


@pytest.mark.parametrize(
    ("body", "offset"), [(b"\xff", 0), (b'{"events":["\xc3("]}', 12), (b'{"a":"\xed\xa0\x80"}', 6)]
)
def test_the_byte_that_is_not_utf8_is_named(body: bytes, offset: int) -> None:
    """Bytes that are no UTF-8 are found wherever they stand, members that nobody asks for included."""
    for lines in (False, True):
        refusal = refusal_of(body, lines=lines)
        assert (refusal.kind.code, refusal.members["offset"]) == ("request.bad-json", offset)


@pytest.mark.parametrize(
    "before", ["", "\n", f"{GOOD}\n", f"\r\n \n  {GOOD}\r\n\t", f"{GOOD}\n\n{GOOD}\n   "], ids=repr
)
@pytest.mark.parametrize(("start", "rest"), [("", "!"), ('{"type":"é",', "}"), (GOOD, "x"), (GOOD, GOOD), ('{"a"', "")])
def test_a_broken_line_is_named_by_its_place_in_the_body(before: str, start: str, rest: str) -> None:
    """The offset counts from the beginning of the body, the line from one among the lines that hold something."""
    body = (before + start + rest + "\n" + GOOD).encode()
    refusal = refusal_of(body, lines=True)
    assert refusal.kind.code == "request.bad-json"
    assert refusal.members["offset"] == len((before + start).encode())
    number = before.count(GOOD) + 1
    assert refusal.detail.startswith(f"line {number}: ")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{}", "`events` is missing"),
        (b'{"event":[]}', "`events` is missing"),
        (b"[]", "not an object"),
        (b"1", "not an object"),
        (b'"events"', "not an object"),
        (b"null", "not an object"),
        (b'{"events":null}', "not an array"),
        (b'{"events":{}}', "not an array"),
        (b'{"events":"x"}', "not an array"),
        (b'{"events":1}', "not an array"),
    ],
)
def test_a_missing_or_wrong_list_of_events_is_said(body: bytes, words: str) -> None:
    """422, and the text says which of the three it is."""
    refusal = refusal_of(body)
    assert refusal.kind.code == "request.wrong-shape"
    assert words in refusal.detail


WRONG_EVENTS = {
    "1": "not an object",
    "null": "not an object",
    '"x"': "not an object",
    "[]": "not an object",
    "{}": "type is missing",
    '{"data":{}}': "type is missing",
    '{"type":null,"data":{}}': "type is not a string",
    '{"type":["a"],"data":{}}': "type is not a string",
    '{"type":"a"}': "data is missing",
    '{"type":"a","data":null}': "data is not an object",
    '{"type":"a","data":[]}': "data is not an object",
    '{"type":"a","data":"{}"}': "data is not an object",
    '{"type":1,"data":1}': "type is not a string",
    '{"type":"a","data":{"size":1e999}}': "it holds a number or a text that cannot be read",
}


@pytest.mark.parametrize(("event", "problem"), WRONG_EVENTS.items())
def test_a_wrong_event_is_named_with_its_problem(event: str, problem: str) -> None:
    """Each wrong shape is said in words, by the event's index, whichever form the body has."""
    body = f'{{"events":[{GOOD},{event},{GOOD}]}}'.encode()
    for refusal in (
        refusal_of(body),
        refusal_of(b" " + body),
        refusal_of(f"{GOOD}\n\n{event}\n{GOOD}".encode(), lines=True),
    ):
        assert refusal.kind.code == "request.wrong-shape"
        assert refusal.members["wrong_count"] == 1
        errors = refusal.members["errors"]
        assert isinstance(errors, list)
        assert [one["index"] for one in errors] == [1]
        assert errors[0]["problem"].startswith(problem)
        assert f"1: {problem}" in refusal.detail
        assert "nothing was published" in refusal.detail


@pytest.mark.parametrize("path", ["1", "0", "true", "false", "[]", "{}", "[1]", '{"a":1}', "0.0"])
def test_a_path_that_is_no_text_is_named(path: str) -> None:
    """A file's path is text or nothing; anything else could not be made canonical."""
    event = f'{{"type":"file.upsert","data":{{"path":{path}}}}}'
    for refusal in (
        refusal_of(f'{{"events":[{GOOD},{event}]}}'.encode()),
        refusal_of(f'{{"events":[{GOOD},{event},{{"type":"file.x","data":{{"path":"a//b"}}}}]}}'.encode()),
        refusal_of(f"{GOOD}\n{event}".encode(), lines=True),
    ):
        assert refusal.kind.code == "request.wrong-shape"
        assert refusal.members["errors"] == [{"index": 1, "problem": "data.path is not a string"}]
    other = f'{{"type":"job.done","data":{{"path":{path},"dir":{path}}}}}'
    assert decode_events(f'{{"events":[{other}]}}'.encode()).content.joined == other.encode()
    none = b'{"type":"file.upsert","data":{"path":null,"dir":%b}}' % path.encode()
    assert decode_events(b'{"events":[' + none + b"]}").content.joined == none


@pytest.mark.parametrize("wrong", ["1", '{"type":"a"}'])
@pytest.mark.parametrize("lines", [False, True])
def test_the_first_ten_wrong_events_are_named(wrong: str, *, lines: bool) -> None:
    """Every third of a hundred is wrong: ten are named, in order, and all are counted."""
    events = [wrong if number % 3 == 2 else GOOD for number in range(100)]
    body = "\n".join(events) if lines else '{"events":[' + ",".join(events) + "]}"
    refusal = refusal_of(body.encode(), lines=lines)
    named = refusal.members["errors"]
    assert isinstance(named, list)
    assert [one["index"] for one in named] == list(range(2, 2 + 3 * NAMED_ERRORS, 3))
    assert refusal.members["wrong_count"] == 33


@pytest.mark.parametrize("lines", [False, True])
def test_the_first_ten_wrong_paths_are_named(*, lines: bool) -> None:
    """A path that is no text is a wrong shape like any other."""
    events = ['{"type":"file.upsert","data":{"path":1}}'] * 12
    body = "\n".join(events) if lines else '{"events":[' + ",".join(events) + "]}"
    named = refusal_of(body.encode(), lines=lines).members["errors"]
    assert isinstance(named, list)
    assert [one["index"] for one in named] == list(range(NAMED_ERRORS))


@pytest.mark.parametrize("event", [GOOD, "1", '{"type":"file.x","data":{"path":"a//b"}}'])
def test_one_event_more_than_the_limit_is_too_large(event: str) -> None:
    """The limit is a limit, not one less; it is said, and it is looked at before single events are."""
    most = [event] * MAX_EVENTS
    if event != "1":
        assert len(decode_events(f'{{"events":[{",".join(most)}]}}'.encode()).events) == MAX_EVENTS
        assert len(decode_event_lines("\n".join(most).encode()).events) == MAX_EVENTS
    for refusal in (
        refusal_of(f'{{"events":[{",".join([*most, event])}]}}'.encode()),
        refusal_of("\n".join([*most, event]).encode(), lines=True),
    ):
        assert refusal.kind.code == "request.too-large"
        assert refusal.members["limit"] == MAX_EVENTS


NESTS = {
    "arrays": ("[", "]"),
    "objects": ('{"a":', "}"),
    "arrays with brackets in texts": ('["]}",', ',"[{"]'),
    "objects with brackets in names": ('{"]":1,"[":', "}"),
    "escaped quotes": ('["\\"]",', ',"\\"["]'),
    "arrays and objects in turn": ('[{"a":', "}]"),
    "closing before, opening after": ('["]",', ',"["]'),
}


def nested(opening: str, closing: str, depth: int) -> str:
    """An event that is so deep inside its body."""
    levels = opening.count("[") + opening.count("{") if opening == '[{"a":' else 1
    times, single = divmod(depth - 4, levels)
    value = "[" * single + opening * times + "1" + closing * times + "]" * single
    return f'{{"type":"a","data":{{"x":{value}}}}}'


@pytest.mark.parametrize("name", NESTS)
def test_the_deepest_nesting_is_taken(name: str) -> None:
    """32 levels are the limit, the body's own included."""
    for depth in (5, MAX_DEPTH - 1, MAX_DEPTH):
        event = nested(*NESTS[name], depth)
        assert decode_events(f'{{"events":[{event}]}}'.encode()).content.joined == event.encode()
        assert decode_event_lines(event.encode()).content.joined == event.encode()


@pytest.mark.parametrize("name", NESTS)
def test_one_level_more_is_refused(name: str) -> None:
    """33 levels are refused, whatever stands in strings on the way down."""
    for depth in (MAX_DEPTH + 1, MAX_DEPTH + 2, 2 * MAX_DEPTH, 500):
        refusal = refusal_of(f'{{"events":[{nested(*NESTS[name], depth)}]}}'.encode())
        assert refusal.kind.code == "request.wrong-shape"
        assert refusal.members["limit"] == MAX_DEPTH
    refusal_of(nested(*NESTS[name], MAX_DEPTH + 3).encode(), lines=True)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000, b"]" * 100_000])
def test_absurd_nesting_is_refused(body: bytes) -> None:
    """Nesting that would end a recursive parser ends in a refusal, balanced or not."""
    assert refusal_of(body).kind.status in {400, 422}
    assert refusal_of(b'{"events":[' + body).kind.status in {400, 422}


@given(st.text('[]{}"\\a,:', max_size=60))
def test_brackets_in_a_text_do_not_count(text: str) -> None:
    """Whatever stands in a string, it nests nothing."""
    value = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    event = f'{{"type":"a","data":{{"x":{value}}}}}'
    assert decode_events(f'{{"events":[{event}]}}'.encode()).content.joined == event.encode()
    refusal_of(f'{{"events":[{nested("[", "]", MAX_DEPTH + 1)},{{"x":{value}}}]}}'.encode())


@pytest.mark.parametrize("lines", [False, True], ids=["array", "lines"])
@pytest.mark.parametrize("event", ['{"type":5,"data":{},"type":"file.x"}', '{"type":"file.x","data":5,"data":{}}'])
def test_a_member_that_stands_twice_is_named(event: str, lines: bool) -> None:
    """The last one would be fine, the first one is not: it is refused, and never with an empty list."""
    body = f"{GOOD}\n{event}" if lines else f'{{"events":[{GOOD},{event}]}}'
    refusal = refusal_of(body.encode(), lines=lines)
    assert refusal.kind.code == "request.wrong-shape"
    errors = refusal.members["errors"]
    assert isinstance(errors, list)
    assert [(error["index"], "twice" in error["problem"]) for error in errors] == [(1, True)]
