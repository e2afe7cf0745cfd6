"""What all tests share: no deadlines of hypothesis, and processes that start fast."""

import os
import signal

from hypothesis import HealthCheck, settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a run in the background of a shell ignores interrupts, and so would every command that the tests start and interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)


# the machines that run the tests are noisy, and how many inputs a strategy throws away is chance
settings.register_profile(
    "noisy", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
settings.load_profile("noisy")

# The programs that tests start import this checkout: 0.5 s each when its modules are compiled anew every time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
