"""That "auto" is the best method, or nearly so, on every layer: the estimates of im2colx/_methods.py against the clock."""

import functools
import time

import numpy as np
import pytest
from timing import all_layers

import im2colx
from im2colx._geometry import resolve
from im2colx._methods import METHODS
from im2colx._plan import recipe
from im2colx._timing import interleaved

LAYERS = all_layers()

# How much slower than the best method "auto" may be.
MOST = 1.10
# Methods that take this many times as long as another are out of the race after their first call; so are the direct loops,
# for seconds, where they have more than so many steps.
HOPELESS, MANY_FOR_LOOPS = 3, 50_000_000


def contenders(layer, op, threads):
    """ "auto" and each method, into a warm `out`."""
    x, w = layer.arrays()
    grad = np.random.default_rng(1).standard_normal(layer.y_shape).astype("float32")
    function, first, second, *shape = {
        "forward": (im2colx.conv2d, x, w),
        "grad_input": (im2colx.conv2d_grad_input, grad, w, x.shape),
        "grad_weight": (im2colx.conv2d_grad_weight, x, grad, w.shape),
    }[op]
    call = functools.partial(function, first, second, *shape, *layer.arguments, threads=threads)
    names = ["auto", *(method.name for method in METHODS if method.name != "naive" or layer.multiply_adds < MANY_FOR_LOOPS)]
    out = call()
    return {name: functools.partial(call, method=name, out=out) for name in names}


def hopeful(calls):
    """Those worth measuring."""
    once = {}
    for name, call in calls.items():
        times = []
        for _ in range(2):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        once[name] = min(times)
    return {name: call for name, call in calls.items() if name == "auto" or once[name] < HOPELESS * min(once.values())}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
@pytest.mark.parametrize("name", LAYERS)
def test_auto_is_nearly_the_best(name, op, threads, tiny, table):
    layer = LAYERS[name].tiny() if tiny else LAYERS[name]
    calls = contenders(layer, op, threads)
    if tiny:
        for call in calls.values():
            call()
        return
    geometry = resolve((layer.n, layer.c, layer.h, layer.w), (layer.f, layer.c // layer.groups, layer.kh, layer.kw),
                       *layer.arguments, "NCHW")  # fmt: skip
    chosen = recipe(op, geometry, "f4", "auto", None, threads).method.name
    calls = hopeful(calls)
    for seconds in (0.25, 1.5):  # a disturbance does not last through both
        times = interleaved(calls, seconds)
        best = min(times, key=times.get)
        ratio = times["auto"] / times[best]
        if ratio <= MOST:
            break
    cells = "  ".join(f"{method} {spent * 1e3:.3f}" for method, spent in times.items())
    table.append(f"{name:13} {op:11} {threads}t  {ratio:5.2f} of the best ({best}), chosen {chosen}: {cells} ms")
    assert ratio <= MOST, table[-1]
