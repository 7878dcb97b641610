"""A part of the check in a process of its own: what it tells its parent, and how the parent listens.

A line a fact on stdout: ``at NAME`` before a trial, ``ok N`` for trials that held, ``FAILED TEXT``, ``say TEXT``.  A process that
dies has failed in the trial that it named last.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent
TESTS = FOLDER.parent.parent / "tests"


# ---- In the child ---------------------------------------------------------------------------------------------------


def at(name):
    print("at", name, flush=True)


def say(text):
    print("say", " ".join(str(text).split()), flush=True)


def check(holds, text):
    print("ok 1" if holds else f"FAILED {' '.join(str(text).split())}", flush=True)
    return holds


def equal(a, b):
    """Whether two results are the same, to the last bit."""
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b


# ---- In the parent --------------------------------------------------------------------------------------------------


def run(report, name, *words, environment=None, timeout=600):
    """Run ``fault_cases/NAME.py words`` and count what it tells; a child that dies or hangs is a failure."""
    command = [sys.executable, str(FOLDER / f"{name}.py"), *map(str, words)]
    with subprocess.Popen(
        ["timeout", "--signal=KILL", str(timeout), *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as child:
        last = "its start"
        for line in child.stdout:
            word, _, rest = line.rstrip("\n").partition(" ")
            if word == "at":
                last = rest
            elif word == "ok":
                report.passed(int(rest))
            elif word == "FAILED":
                report.fail(f"{name}: {rest}")
            elif word == "say":
                report.say(rest)
            else:
                report.fail(f"{name}: printed {line!r} at {last}")
        error = child.stderr.read()
    if child.returncode:
        what = f"ended with {child.returncode} (-9 or 137: it hung for {timeout} s, or was killed)"
        report.fail(f"{name}: {what} at {last}; repeat: python checks/fault_cases/{name}.py {' '.join(map(str, words))}\n{error[-2000:]}")
