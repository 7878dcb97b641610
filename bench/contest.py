"""Contenders in processes of their own, and the machine's limits measured beside them."""

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np

# Fresh results come from a warm heap, not from newly mapped pages; and BLAS is not held to older kernels.
QUIET = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
HELD = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


class Contender:
    """A process that runs ``script --work ARGUMENTS`` and answers jobs: libraries disturb one another's waiting threads."""

    def __init__(self, script, *arguments):
        environment = {key: value for key, value in os.environ.items() if key not in HELD} | QUIET
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", script, "--work", *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        self._name = " ".join(map(str, arguments))

    def ask(self, **job):
        """The answer to a job, a dict."""
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self._name} ended with code {self._process.wait()}")
        return json.loads(line)

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def serve(answer):
    """In the process: call ``answer(**job)`` for every job, and send what it returns; nothing else may reach stdout."""
    stdout, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), file=stdout, flush=True)


def peak_flops(threads):
    """Floating-point operations a second when multiply-adds never leave the registers, and how long it took to find out."""
    from im2colx import _core

    return _together(threads, lambda: _core.burn("f4", 1_000_000))


def bandwidth(threads, nbytes=1 << 26):
    """Bytes a second that are read and written when each thread scales an array of `nbytes` into another."""
    arrays = [(np.ones(nbytes // 4, np.float32), np.ones(nbytes // 4, np.float32)) for _ in range(threads)]
    waiting = iter(arrays)

    def scale():
        a, b = next(waiting)
        for _ in range(4):
            np.multiply(a, np.float32(0.5), out=b)
        return 4 * 2 * nbytes

    return _together(threads, scale)[0]


def _together(threads, work):
    """The sum over threads of what `work` returns by the seconds it takes, and how long all took."""
    speeds = []

    def timed():
        start = time.perf_counter()
        amount = work()
        speeds.append(amount / (time.perf_counter() - start))

    others = [threading.Thread(target=timed) for _ in range(threads - 1)]
    start = time.perf_counter()
    for thread in others:
        thread.start()
    timed()
    for thread in others:
        thread.join()
    return sum(speeds), time.perf_counter() - start
