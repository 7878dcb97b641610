"""How soon a call lets go after a signal whose handler raises, as that of Ctrl-C does."""

import signal
import time

ALLOWED = 0.2  # seconds


class Interrupted(BaseException):
    """What the handler raises."""


def latencies(call, delays):
    """Seconds between the signal and the exception, for each of the delays after which it still met the call."""

    def handler(*_):
        raise Interrupted

    found, before = [], signal.signal(signal.SIGALRM, handler)
    try:
        for delay in delays:
            begin = time.monotonic()
            try:
                signal.setitimer(signal.ITIMER_REAL, delay)
                call()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupted:
                found.append(time.monotonic() - begin - delay)
    finally:
        signal.signal(signal.SIGALRM, before)
    return found
