"""Many calls, errors included: the resident memory and what Python holds do not grow.

Words: ``quick`` (2·10⁴ calls) or ``full`` (10⁶); then a seed.
"""

import gc
import os
import random
import sys
import tracemalloc

import numpy as np
from child import at, check, say

import im2colx

ALLOWED_RESIDENT, ALLOWED_PYTHON = 1 << 20, 64 << 10  # bytes, over all calls


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def small_calls():
    """Of some microseconds, right ones and wrong ones, every entry of the library."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 3, 6, 6)).astype("f4"), rng.standard_normal((4, 3, 3, 3)).astype("f4")
    y, out = im2colx.conv2d(x, w), np.empty((1, 4, 4, 4), "f4")
    plan, phi = im2colx.plan_conv2d(x.shape, w), im2colx.PatchMatrix(x, 3)
    operator = im2colx.ConvOperator(w, x.shape[1:])
    for method in im2colx.methods():
        words = {"method": method}
        yield lambda m=words: im2colx.conv2d(x, w, **m)
        yield lambda m=words: im2colx.conv2d(x, w, np.int64(1), out=out, **m)
        yield lambda m=words: im2colx.conv2d_grad_input(y, w, x.shape, **m)
        yield lambda m=words: im2colx.conv2d_grad_weight(x, y, w.shape, **m)
        yield lambda m=words: im2colx.conv2d(x, w[:, :2], **m)  # ValueError
    yield lambda: plan(x)
    yield lambda: plan(x[..., ::-1])
    yield lambda: plan(x[:, :2])
    yield lambda: im2colx.plan_conv2d(x.shape, w)
    yield lambda: im2colx.conv2d(x.astype("i1"), w.astype("i1"))
    yield lambda: im2colx.conv2d(x.astype("O"), w)
    yield lambda: im2colx.conv2d(x, w, stride=0)
    yield lambda: im2colx.conv2d(x, w, stride="s")
    yield lambda: im2colx.conv2d(x, w, out=out[..., :3])
    yield lambda: im2colx.conv2d(x, w, bias=np.ones(3, "f4"))
    yield lambda: im2colx.conv2d(x, w, method="none")
    yield lambda: im2colx.im2col(x, 3)
    yield lambda: im2colx.im2col(x, 9)
    yield lambda: im2colx.col2im(phi.toarray(), x.shape, 3)
    yield lambda: phi.gram()
    yield lambda: phi[3:, 2]
    yield lambda: phi[100]
    yield lambda: operator @ x.ravel()
    yield lambda: operator.tocsr()
    yield lambda: im2colx.output_shape(x.shape, w.shape)
    yield lambda: im2colx.output_shape(x.shape, w.shape, pad=(1, 2, 3, 4))


def turn(calls, count):
    for number in range(count):
        try:
            calls[number % len(calls)]()
        except (ValueError, TypeError, IndexError):
            pass


def shapes(count, rng):
    """As many calls, each of another shape: what is cached is bounded."""
    for _ in range(count):
        h, c, f = rng.randint(3, 40), rng.randint(1, 9), rng.randint(1, 9)
        im2colx.conv2d(np.ones((1, c, h, h), "f4"), np.ones((f, c, 3, 3), "f4"))


def watch(name, work, count):
    """`work(n)` is done for a fifth of `count`, so that caches fill and arenas grow, then for the rest, measured."""
    at(name)
    traced = min(20_000, count // 3)
    work(count // 5)
    gc.collect()
    before = resident()
    work(count - count // 5)
    gc.collect()
    grown = resident() - before
    check(grown < ALLOWED_RESIDENT, f"{name}: the resident memory grew by {grown:,} bytes over {count:,} calls")
    tracemalloc.start()
    work(traced)  # what was cached before it is replaced by what it sees
    gc.collect()
    first = tracemalloc.get_traced_memory()[0]
    work(traced)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - first
    tracemalloc.stop()
    check(held < ALLOWED_PYTHON, f"{name}: Python holds {held:,} bytes more after {traced:,} calls")
    say(f"{name}: {count:,} calls, resident {grown:+,} bytes, Python {held:+,}")


if __name__ == "__main__":
    size, seed = sys.argv[1:]
    calls, rng = list(small_calls()), random.Random(int(seed))
    count = 20_000 if size == "quick" else 1_000_000
    watch("small calls", lambda n: turn(calls, n), count)
    watch("ever other shapes", lambda n: shapes(n, rng), count // 4)
