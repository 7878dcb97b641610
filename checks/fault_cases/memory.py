"""Memory and threads that cannot be had, at the n-th time for every n: MemoryError, no leak, and the next call is right.

Words: ``core`` (malloc from our C), ``numpy`` (the arrays that we ask NumPy for), ``threads`` (pthread_create), ``limit``
(RLIMIT_AS); then ``quick`` or ``full``.  All but the last run under the library of c/failing.c.
"""

import resource
import sys

import calls
import numpy as np
from child import at, check, equal, say
from shim import MEMORY, THREADS, Shim

import im2colx

MOST = 60  # times that one call is tried; beyond, evenly spread
LEAST_ARRAY = 512  # bytes: of arrays, not of NumPy's own small objects
OURS = "/im2colx/_"


def moments(count):
    """Every one of so many allocations, or some of them, evenly spread."""
    return range(1, count + 1) if count <= MOST else np.unique(np.linspace(1, count, MOST).astype(int)).tolist()


def poison(results):
    """Leave wrong numbers where the next result will most likely lie: one that is not written shows."""
    for result in results if isinstance(results, (tuple, list)) else [results]:
        if isinstance(result, np.ndarray):
            np.full_like(result, 77)


def allocations(where, is_quick):
    shim = Shim()
    assert shim.watch(*([OURS] if where == "core" else ["_multiarray_umath"])), "the libraries were not found"
    least = 0 if where == "core" else LEAST_ARRAY
    tried = survived = 0
    sizes = ("f4", "i1") if is_quick else calls.TYPES, (2,) if is_quick else (1, 2)
    # Not PatchMatrix[...] with NumPy's own: where the buffers of its loops that convert types cannot be had, NumPy 2.4 crashes.
    table = calls.every(*sizes) if where == "core" else calls.able(calls.convolutions(*sizes))
    for name, call in table:
        at(name)
        call()
        expected = call()  # what is built once is built
        held = shim.held()
        shim.arm(MEMORY, 0, least=least)
        call()
        count, _ = shim.disarm()
        for nth in moments(count):
            result = error = None
            poison(expected)
            shim.arm(MEMORY, nth, least=least)
            try:
                result = call()
            except MemoryError as caught:
                error = caught
            except Exception as caught:  # any other is what this looks for
                error = caught
            _, failed = shim.disarm()
            tried += 1
            if error is None:  # it did without; then it must have done right
                survived += failed
                check(equal(result, expected), f"{name}: allocation {nth} of {count} failed, and the result was another")
            else:
                check(failed and isinstance(error, MemoryError), f"{name}: allocation {nth} of {count} failed: {error!r}")
            del result, error
            if not equal(call(), expected):
                check(False, f"{name}: after allocation {nth} of {count} had failed, the next call was wrong")
        if where == "core":  # NumPy keeps some blocks for the next array
            left = shim.held() - held
            check(left <= 0, f"{name}: {left} blocks were not given back after {count} failures")
    say(f"{where}: {tried:,} allocations failed, {survived} of them without harm")
    check(tried > 100, f"{where}: only {tried} allocations were seen")


def threads():
    """The pool hires none, or some: the same bits, and no error."""
    shim = Shim()
    assert shim.watch(OURS)
    x, w = np.ones((8, 32, 30, 30), "f4"), np.ones((32, 32, 3, 3), "f4")
    expected = im2colx.conv2d(x, w, threads=1, method="implicit")
    for nth, from_then_on in [(1, True), (1, False), (2, True), (3, False), (5, True), (9, False), (30, True)]:
        at(f"pthread_create fails at {nth}")
        shim.arm(THREADS, nth, 11, from_then_on)
        for count in (2, 3, 7, 24, 64):
            for method in ("implicit", "naive"):
                result = im2colx.conv2d(x, w, threads=count, method=method)
                check(equal(result, expected), f"threads={count}, {method}: pthread_create failed at {nth}, and the result was another")
        _, failed = shim.disarm()
        if nth == 1:  # before the pool has grown
            check(failed, "pthread_create was not called")
    check(equal(im2colx.conv2d(x, w, threads=64, method="implicit"), expected), "afterwards with 64 threads")


def limit():
    """Less and less address space: MemoryError or the right result."""
    x, w = np.ones((1, 64, 112, 112), "f4"), np.ones((4, 64, 3, 3), "f4")
    y = im2colx.conv2d(x, w, method="indexed")  # threads and buffers of BLAS exist: it hangs if it cannot have them
    im2colx.conv2d(x, w, method="im2col", threads=1)
    table = {
        method: [
            lambda m=method: im2colx.conv2d(x, w, method=m),
            lambda m=method: im2colx.conv2d_grad_input(y, w, x.shape, method=m),
            lambda m=method: im2colx.conv2d_grad_weight(x, y, w.shape, method=m),
        ]
        for method in im2colx.methods()
    }
    table["others"] = [
        lambda: im2colx.im2col(x, 3),
        lambda: im2colx.PatchMatrix(x, 3).toarray(),
        lambda: im2colx.conv_matrix(w[:, :2], (2, 56, 56)).data,
        lambda: im2colx.PatchMatrix(x, 3).gram(),
    ]
    expected = {name: [call() for call in row] for name, row in table.items()}
    refused = 0
    for mebibytes in (0, 1, 2, 4, 8, 16, 32):
        for name, row in table.items():
            at(f"{name} with {mebibytes} MiB left")
            for number, call in enumerate(row):
                with open("/proc/self/statm") as file:
                    pages = int(file.read().split()[0])
                result = error = None
                resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (mebibytes << 20), resource.RLIM_INFINITY))
                try:
                    result = call()
                except MemoryError as caught:
                    error = caught
                finally:
                    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                refused += error is not None
                check(error or equal(result, expected[name][number]), f"{name} {number} with {mebibytes} MiB left: a wrong result")
                check(equal(call(), expected[name][number]), f"{name} {number}: wrong after a limit of {mebibytes} MiB")
    check(refused > 5, f"only {refused} calls met the limit")


if __name__ == "__main__":
    where, size = sys.argv[1:]
    if where == "threads":
        threads()
    elif where == "limit":
        limit()
    else:
        allocations(where, size == "quick")
