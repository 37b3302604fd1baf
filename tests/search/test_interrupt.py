import subprocess
import sys

import pytest

from divfeat.search import interrupt as module
from divfeat.search.interrupt import EXIT_CODES, Interrupt, StoppedError

# Sends itself the signals named on its command line, one after another.
_SCRIPT = """
import os, signal, sys
from divfeat.search.interrupt import Interrupt
interrupt = Interrupt(time_budget=float(sys.argv[1]))
interrupt.install()
for name in sys.argv[2:]:
    print(interrupt.reason, flush=True)
    os.kill(os.getpid(), getattr(signal, name))
print(interrupt.reason, flush=True)
"""


def run(*words: str) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, "-c", _SCRIPT, *words], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.returncode, done.stdout.split("\n")[:-1]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_the_first_signal_is_only_noted(name):
    assert run("1000", name) == (0, ["None", name])


@pytest.mark.slow
@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(("second", "code"), [("SIGINT", 130), ("SIGTERM", 75)])
def test_the_second_leaves_at_once_with_its_own_code(first, second, code):
    assert run("1000", first, second) == (code, ["None", first])


def test_a_signal_counts_more_than_the_budget():
    assert run("1e-9", "SIGTERM") == (0, ["time budget", "SIGTERM"])


def test_the_budget_is_over_when_it_is_over(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    bounded, free = Interrupt(time_budget=5.0), Interrupt()
    assert bounded.reason is None
    now[0] = 104.9
    assert bounded.reason is None
    now[0] = 105.0
    assert bounded.reason == "time budget"
    now[0] = 1e12
    assert free.reason is None


def test_every_reason_has_its_exit_code():
    assert {"SIGINT": 130, "SIGTERM": 75} | dict.fromkeys(
        ("time budget", "GPU-hour budget", "cost budget"), 4
    ) == EXIT_CODES
    assert StoppedError("SIGTERM").reason in EXIT_CODES


def test_nothing_is_taken_over_before_it_is_installed():
    import signal

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    Interrupt(time_budget=1.0)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_what_a_study_takes_is_given_back_also_when_it_fails():
    import signal

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    interrupt = Interrupt()

    @interrupt.installed()
    def fail():
        assert signal.getsignal(signal.SIGINT) == interrupt._handle == signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [signal.getsignal(number) for number in numbers] == before
    interrupt.renew()
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_second_signal_is_for_the_caller_to_end():
    import signal

    interrupt = Interrupt(at_once=module.raise_interrupt)
    with interrupt.installed():
        signal.raise_signal(signal.SIGINT)
        assert interrupt.reason == "SIGINT"
        with pytest.raises(KeyboardInterrupt, match="a second SIGTERM"):
            signal.raise_signal(signal.SIGTERM)
