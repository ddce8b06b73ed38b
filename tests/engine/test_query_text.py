"""Named parameters are found where PostgreSQL sees code, and nowhere else; a place goes back to the user's text."""

import pytest
from hypothesis import given, strategies

from engine.errors import Refused
from engine.query_text import MAX_TEXT_CHARS, read_query

NOT_PARAMETERS = [
    "select ':a', 'it''s :a', E'\\':a', e':a\\\\'",
    "select E'x'\n  ':a\\' :a'",
    "select E'x' -- says :a\n  '\\':a'",
    "select $$:a$$, $t$ :a $$ $t$, $tag_1$:a$tag$:a$tag_1$",
    'select ":a", "b"" :a"',
    "select 1 -- :a\n, 2",
    "select 1 /* :a /* :a */ :a */, 2",
    "select x::a, 1::a",
    "select f(x := a)",
    "select x[1:a], x[y:a], x[f(1):a], (x)[2][1:a], x[1:a, 2:a], x[:]",
    "select U&':a', N':a', B'01', x'0a'",
    "select foo_e':a'",
]


@pytest.mark.parametrize("sql", NOT_PARAMETERS)
def test_strings_names_comments_casts_and_slices_hold_no_parameter(sql: str) -> None:
    """What PostgreSQL does not read as code, or reads as an operator, stays as it is."""
    query = read_query(sql)
    assert query.names == ()
    assert query.render("<", ">").text == f"<{sql}>"


@pytest.mark.parametrize(
    ("sql", "wanted", "names"),
    [
        ("select :a", "select $1", ("a",)),
        ("select :a + :b - :a", "select $1 + $2 - $1", ("a", "b")),
        ("select %(a)s", "select $1", ("a",)),
        ("select %(a)s %% 3, 'x%%'", "select $1 % 3, 'x%%'", ("a",)),
        ("select 7 %% 3, :a", "select 7 %% 3, $1", ("a",)),
        ("select 7 %(a)select", "", ()),
        ("select :a::bigint", "select $1::bigint", ("a",)),
        ("select x[:a]", "select x[$1]", ("a",)),
        ("select x[1: :a]", "select x[1: $1]", ("a",)),
        ("select x[1 + :a]", "select x[1 + $1]", ("a",)),
        ("select array[1, :a, :b]", "select array[1, $1, $2]", ("a", "b")),
        ("select array[case when :a then 1 else :b end]", "select array[case when $1 then 1 else $2 end]", ("a", "b")),
        ("select E'\\\\', :a", "select E'\\\\', $1", ("a",)),
        ("select '\\', :a", "select '\\', $1", ("a",)),
        ("select :été", "select $1", ("été",)),
        ("select :a;  -- done", "select $1   -- done", ("a",)),
    ],
)
def test_named_parameters_become_positions(sql: str, wanted: str, names: tuple[str, ...]) -> None:
    """Both spellings, as often as one likes, where a value can stand."""
    if not wanted:
        assert read_query("select 7 %(a)select").names == ()
        return
    query = read_query(sql, names)
    assert query.names == names
    assert query.render("", "").text == wanted


@pytest.mark.parametrize(
    ("sql", "given_names", "said"),
    [
        ("", (), "empty"),
        (" -- only\n /* comments */ ;", (), "empty"),
        ("select 1; select 2", (), "one statement"),
        ("select 1;;", (), "one statement"),
        ("select 1) _q; drop table x; --", (), "closes nothing"),
        ("select 1) a, (select 2", (), "closes nothing"),
        ("select (1", (), "never closed"),
        ("select x[1)", (), "closes nothing"),
        ("select 'x", (), "has no end"),
        ("select E'x\\'", (), "has no end"),
        ('select "x', (), "has no end"),
        ("select $$x", (), "has no end"),
        ("select /* /* */", (), "has no end"),
        ("select $1", (), "write :name"),
        ("select :a", (), "not in params"),
        ("select :a", ("a", "b"), "does not use"),
        ("select 'a\0b'", (), "NUL"),
        ("select " + "1," * MAX_TEXT_CHARS, (), f"limit is {MAX_TEXT_CHARS}"),
    ],
)
def test_what_is_no_single_statement_is_refused_with_its_place(
    sql: str, given_names: tuple[str, ...], said: str
) -> None:
    """One balanced statement whose parameters are those that came; else the text says what is wrong."""
    with pytest.raises(Refused, match=said) as caught:
        read_query(sql, given_names)
    assert caught.value.kind.code == "query.wrong"


def test_a_place_goes_back_to_the_users_text() -> None:
    """PostgreSQL's position in the wrapped text is told as the user's, also behind and inside what was replaced."""
    sql = "select :first, x from %(second)s where y %% 2"
    query = read_query(sql, ("first", "second"))
    rendered = query.render("SELECT * FROM (", "\n) _q", ["pg_catalog.int8", "pg_catalog.text"])
    for word in ("select", "x from", "where", "y "):
        assert rendered.place_of(rendered.text.index(word, 10) + 1) == sql.index(word) + 1
    for found, mark in (("$1", ":first"), ("$2", "%(second)s")):
        for offset in range(len("($1::text)::pg_catalog.int8")):
            place = rendered.place_of(rendered.text.index(f"({found}") + 1 + offset)
            assert place is not None
            assert sql.index(mark) < place <= sql.index(mark) + len(mark)
    assert rendered.place_of(1) is None
    assert rendered.place_of(len(rendered.text)) is None


@given(strategies.text(strategies.sampled_from("ab:%()s'\"$[];-/*\\ \nE1,"), max_size=60))
def test_any_text_is_read_or_refused(sql: str) -> None:
    """Whatever comes is a query or a refusal, every stretch of it is kept, and every place of it comes back."""
    try:
        query = read_query(sql, {"a", "b"})
    except Refused:
        return
    rendered = query.render("SELECT * FROM (", ") _q")
    assert rendered.text.startswith("SELECT * FROM (")
    for start, source, end in zip(rendered.starts, rendered.sources, rendered.ends, strict=False):
        assert rendered.place_of(start + 1) == source + 1 <= end
    kept = sql
    for piece in reversed(query.pieces):
        kept = (
            kept[: piece.start]
            + (f"${query.names.index(piece.name) + 1}" if piece.name else piece.text)
            + kept[piece.end :]
        )
    assert rendered.text == f"SELECT * FROM ({kept}) _q"  # noqa: S608  # nobody runs it
