"""A process may open as many descriptors as its connections need, up to the system's own bound."""

import subprocess
import sys

import pytest

CASES = {
    "raised to what is needed": ((256, 4096), 1000, 1512, 0),
    "raised to the hard limit, and what is missing is said": ((256, 1024), 4096, 1024, 4096 + 512 - 1024),
    "enough as it is": ((2048, 4096), 1000, 2048, 0),
    "nothing to raise": ((600, 600), 1000, 600, 912),
}


@pytest.mark.parametrize("name", CASES)
def test_the_soft_limit_is_raised_as_far_as_it_goes(name: str) -> None:
    """In a process of its own, because a limit cannot be put back."""
    (soft, hard), connections, expected, missing = CASES[name]
    code = (
        "import resource as r; from engine.descriptors import raise_descriptor_limit as f; "
        f"r.setrlimit(r.RLIMIT_NOFILE, ({soft}, {hard})); print(f({connections}), *r.getrlimit(r.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(missing), str(expected), str(hard)]
