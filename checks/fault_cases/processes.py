"""Forks, new interpreters, and many threads at once: nobody hangs, and every result is right.

Words: ``forks``, ``starts`` (spawn and forkserver), ``handlers`` (of signals) or ``threads``; then ``quick`` or ``full``; then a seed.
"""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading

import numpy as np
from child import TESTS, at, check, equal, say

import im2colx

PATIENCE = 60  # seconds that a child may take
X, W = np.ones((2, 16, 24, 24), "f4"), np.ones((16, 16, 3, 3), "f4")


def is_right(threads=2):
    """All methods that share the pool or BLAS; a sum of 144 ones each."""
    return all((im2colx.conv2d(X, W, threads=threads, method=method) == 144).all() for method in ("implicit", "indexed", "naive"))


def ends_well(child):
    """Whether a forked child ends with 0, and soon."""
    alarm = threading.Timer(PATIENCE, os.kill, (child, signal.SIGKILL))
    alarm.start()
    status = os.waitpid(child, 0)[1]
    alarm.cancel()
    return status == 0


def fork(depth, threads):
    """A child that computes, forks again, and computes once more."""
    child = os.fork()
    if child == 0:
        ok = False
        try:
            ok = is_right(threads) and (depth == 0 or fork(depth - 1, threads + 1)) and is_right(threads)
        finally:
            os._exit(0 if ok else 1)
    return ends_well(child)


def forks(count, rng):
    """In quiet, nested, and while another thread is in the middle of a call."""
    assert is_right(8)
    stop = threading.Event()

    def work():
        large = np.ones((1, 32, 128, 128), "f4")
        while not stop.is_set():
            im2colx.conv2d(large, np.ones((32, 32, 3, 3), "f4"), threads=3, method=rng.choice(["implicit", "indexed"]))

    for is_busy in (False, True):
        worker = threading.Thread(target=work)
        if is_busy:
            worker.start()
        for number in range(count):
            depth, threads = rng.choice((0, 0, 1, 2)), rng.choice((1, 2, 3, 8))
            at(f"fork {number}")
            check(fork(depth, threads), f"fork {number} ({'busy' if is_busy else 'quiet'}, depth {depth}, {threads} threads): wrong or hung")
            check(is_right(threads), f"fork {number}: the parent is wrong")
        stop.set()
        if is_busy:
            worker.join()


def _compute(threads):
    return is_right(threads)


def starts(count):
    for method in ("spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(["im2colx"])
        done = 0
        while done < count:
            at(f"{method} {done}")
            with context.Pool(4, maxtasksperchild=1) as pool:
                some = min(8, count - done)
                found = pool.map_async(_compute, [1 + number % 4 for number in range(some)], chunksize=1).get(2 * PATIENCE)
            check(all(found), f"{method} {done}: {found}")
            done += some


def callers(rounds, rng):
    """16 callers with mixed shapes, methods and thread counts, the default changed meanwhile: the bits of one caller alone."""
    from calls import able, convolutions, matrices

    every = [*able(convolutions(("f4", "i1"), (1, 3))), *matrices()]
    rng.shuffle(every)
    every = every[:160]
    expected = {name: call() for name, call in every}
    before, wrong, stop = im2colx.get_num_threads(), [], threading.Event()

    def work(own):
        for _ in range(rounds):
            name, call = own.choice(every)
            try:
                if not equal(call(), expected[name]):
                    wrong.append(f"{name}: other bits than alone")
            except BaseException as error:  # whatever it is, a thread must not swallow it
                wrong.append(f"{name}: {error!r}")

    def change():
        while not stop.wait(0.002):
            im2colx.set_num_threads(rng.randint(1, 9))

    at("16 threads")
    workers = [threading.Thread(target=work, args=(random.Random(number),)) for number in range(16)]
    changer = threading.Thread(target=change)
    for thread in (*workers, changer):
        thread.start()
    for thread in workers:
        thread.join()
    stop.set()
    changer.join()
    im2colx.set_num_threads(before)
    for text in sorted(set(wrong)):
        check(False, f"{text} ({wrong.count(text)} times)")
    for _ in range(16 * rounds - len(wrong)):
        check(True, "")
    say(f"16 threads, {16 * rounds:,} calls")


def handlers(repeats):
    """Signal handlers that fork, raise, and go on raising in the middle of calls: the tests of the suite, again and again."""
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / "test_threads.py"), "-k", "fork or signals or child or thousand"]
    for number in range(repeats):
        at(f"tests/test_threads.py, time {number}")
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=TESTS.parent)
        check(done.returncode == 0, f"time {number}: {done.stdout[-1500:]}")


if __name__ == "__main__":
    case, size, seed = sys.argv[1:]
    is_quick, rng = size == "quick", random.Random(int(seed))
    if case == "forks":
        forks(20 if is_quick else 500, rng)
    elif case == "handlers":
        handlers(1 if is_quick else 50)
    elif case == "starts":
        starts(8 if is_quick else 500)
    else:
        callers(60 if is_quick else 3000, rng)
