"""Tests import the tables beside them (`from cases import ...`)."""

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# A job that a shell has put into the background ignores Ctrl-C, and so would all processes that the tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
