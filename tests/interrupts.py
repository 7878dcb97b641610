"""How soon a call lets go after a signal whose handler raises, as that of Ctrl-C does."""

import signal
import threading
import time

ALLOWED = 0.2  # seconds
HANGS = 2  # seconds


class Interrupted(BaseException):
    """What the handler raises."""


def _times():
    return time.monotonic(), time.process_time()


def latencies(call, delays):
    """Seconds between the signal and the exception, for each of the delays after which it still met the call.

    Of the clock, or of this process's CPU time where that is less: a busy machine does not make a call slow to let go.  Where the
    clock says that it hung, the clock counts.
    """

    def handler(*_):
        raise Interrupted

    def send(delay, is_over, sent):
        if not is_over.wait(delay):
            sent.append(_times())
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    found, before = [], signal.signal(signal.SIGUSR1, handler)
    try:
        for delay in delays:
            is_over, sent = threading.Event(), []
            sender = threading.Thread(target=send, args=(delay, is_over, sent))
            try:
                sender.start()
                call()
                is_over.set()
                sender.join()
                time.sleep(0)  # a signal that came just now is met here, and does not count
            except Interrupted:
                wall, cpu = (now - then for now, then in zip(_times(), sent[0], strict=True))
                if not is_over.is_set():
                    found.append(wall if wall > HANGS else min(wall, cpu))
            sender.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    return found
