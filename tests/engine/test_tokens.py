"""Short-lived tokens: whole, ours and fresh, or nothing."""

import random
import string

from engine.tokens import make_token, read_token

SECRET = b"s" * 32
TOKEN = make_token(SECRET, "env-a-1234", 1_000_000.9)


def test_a_token_says_its_key_and_its_end() -> None:
    """Whole seconds count; at its end it is over."""
    found = read_token(SECRET, TOKEN, 999_999.0)
    assert found == ("env-a-1234", 1_000_000.0)
    assert read_token(SECRET, TOKEN, 1_000_000.0) is None


def test_a_token_of_another_gateway_is_nothing() -> None:
    """Only who has the secret makes tokens."""
    assert read_token(b"t" * 32, TOKEN, 0) is None


def test_every_change_of_a_token_is_noticed(chance: random.Random) -> None:
    """Each character, removed or replaced; what is added; another end or key under the same code."""
    alphabet = string.ascii_letters + string.digits + "-_."
    for at, letter in enumerate(TOKEN):
        other = chance.choice(alphabet.replace(letter, ""))
        changed = TOKEN[:at] + other + TOKEN[at + 1 :]
        assert read_token(SECRET, changed, 0) is None, (at, other)
        assert read_token(SECRET, TOKEN[:at] + TOKEN[at + 1 :], 0) is None
    for odd in ("", "hgt.", "hgt...", TOKEN + "x", TOKEN + "=", "x" * 100_000, TOKEN.upper(), "hgt.ä.1.b"):
        assert read_token(SECRET, odd, 0) is None
