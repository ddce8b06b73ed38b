"""What every test may use."""

import os
import random
import signal
import uuid
from collections.abc import Iterator

import pytest
import trio.testing

from tests.support.gateway import Gateway, running_gateway

# A shell that runs the tests in the background has them ignore Ctrl-C, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take minutes, so that none of them is still running alone at the end."""
    items.sort(key=lambda item: not {"faults", "bench"} & set(item.path.parts))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of a stochastic test: printed, and set by HEADGATE_TEST_SEED to run a failure again."""
    value = int(os.environ.get("HEADGATE_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"\n{request.node.name}: HEADGATE_TEST_SEED={value}")
    return value


@pytest.fixture
def chance(seed: int) -> random.Random:
    """The one source of randomness of a stochastic test."""
    return random.Random(seed)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with its embedded log, shared by the tests of one module: leave it as you found it."""
    with running_gateway(tmp_path_factory.mktemp("gateway") / "data") as running:
        yield running


@pytest.fixture
def own_subject() -> str:
    """A subject of the test's own in the default stream, so that tests can share a gateway."""
    return f"snapfs.test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def own_durable() -> str:
    """A consumer name of the test's own."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def patient_clock() -> trio.testing.MockClock:
    """Trio's time, which jumps when nothing happened for 50 ms: long enough for what loopback sockets carry."""
    return trio.testing.MockClock(autojump_threshold=0.05)
