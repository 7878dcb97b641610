"""Worker processes on this machine for `ParallelTrainer`: started, watched over, and ended whatever happens.

The scheduler and the client run in threads of this process.  The workers are processes of our own rather than those of
`distributed.LocalCluster`: that starts a lost worker anew, asks a worker to end (one that is stopped does not hear it), and
runs the user's script again in each.
"""

import contextlib
import gc
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from im2colx import get_num_threads
from im2colx._extras import require_distributed

from . import _checks as check

MOST = 256


@contextlib.contextmanager
def local_workers(count, timeout=60):
    """Start worker processes on this machine, as a context manager; at its end, however it comes, they are gone.

    Each has an equal share of `im2colx.get_num_threads`, at least one thread.  They listen on 127.0.0.1 only, but to
    everybody on this machine, as every Dask cluster without TLS: where you do not trust the other users, do not use it.

    Parameters
    ----------
    count : int
        How many, from 1 to 256.
    timeout : float
        Seconds within which they must be ready.

    Yields
    ------
    distributed.Client
        For `ParallelTrainer`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.
    ImportError
        If the package distributed is not installed.
    OSError
        If they cannot be started, or not within the time.

    See Also
    --------
    ParallelTrainer
    """
    count = check.whole("count", count, most=MOST)
    timeout = check.real("timeout", timeout, positive=True)
    distributed = require_distributed()
    with _silence(), contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="im2colx-workers-", ignore_cleanup_errors=True))
        cluster = _scheduler(distributed, stack)
        client = distributed.Client(cluster.scheduler_address, set_as_default=False, direct_to_workers=True, timeout=timeout)
        stack.callback(_close, client)
        # Ended first: to the other end of a worker that is stopped, closing a connection takes for ever.
        processes = stack.enter_context(_processes(count, cluster.scheduler_address, timeout, Path(folder)))
        _wait(client, processes, timeout, Path(folder))
        yield client


@contextlib.contextmanager
def _silence():
    """What is wrong is told by an exception; the cluster's own log would bury it."""
    names = ("distributed", "distributed.client", "distributed.gc", "tornado.application", "asyncio")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        gc.collect()  # asyncio tells of the exceptions of its tasks when these are collected
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _scheduler(distributed, stack):
    # It has an HTTP server whatever one says, for which port 0 is any that is free.
    options = {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    try:
        cluster = distributed.SpecCluster({}, {"cls": distributed.Scheduler, "options": options}, silence_logs=False)
    except Exception as error:  # a socket that is refused comes as one of several types
        raise OSError(f"the workers cannot be started: {type(error).__name__}: {error}") from error
    stack.callback(_close, cluster)
    return cluster


def _close(part):
    """Close the client or the cluster.  It is in this process, so if that fails, nothing is left behind but threads."""
    with contextlib.suppress(Exception):
        part.close(timeout=10)


@contextlib.contextmanager
def _processes(count, address, timeout, folder):
    threads = str(max(1, get_num_threads() // count))
    environment = os.environ | {
        # The workers import what this process can.
        "PYTHONPATH": os.pathsep.join(filter(None, map(os.path.abspath, sys.path))),
        "IM2COLX_NUM_THREADS": threads,
    }
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment.setdefault(name, threads)
    # Where this process is killed, those that it had connect end at once, and those that start after the death timeout.
    command = [sys.executable, "-m", "dask", "worker", address, "--death-timeout", str(math.ceil(timeout) + 5),
               "--no-nanny", "--no-dashboard", "--nthreads", "1", "--memory-limit", "0", "--host", "127.0.0.1",
               "--local-directory", str(folder)]
    processes = []
    try:
        for number in range(count):
            with open(_log(folder, number), "wb") as log:
                # In a session of its own, so that Ctrl-C reaches this process alone, which then ends them.
                processes.append(subprocess.Popen([*command, "--name", str(number)], env=environment, stdin=subprocess.DEVNULL,
                                                  stdout=log, stderr=log, start_new_session=True))
        yield processes
    finally:
        # They hold nothing worth a farewell, and one that is stopped would not hear it.
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def _wait(client, processes, timeout, folder):
    """Return when all workers are ready; OSError if one has ended, or the time has passed."""
    end = time.monotonic() + timeout
    while (ready := len(client.nthreads())) < len(processes):
        for number, process in enumerate(processes):
            if process.poll() is not None:
                text = _log(folder, number).read_text(errors="replace").strip()
                last = text.splitlines()[-1] if text else "it says nothing"
                raise OSError(f"worker {number} ended with code {process.returncode} before it was ready: {last}")
        if time.monotonic() > end:
            raise TimeoutError(f"of {len(processes)} workers only {ready} were ready after {timeout:g} s")
        time.sleep(0.02)


def _log(folder, number):
    return folder / f"worker-{number}.log"
