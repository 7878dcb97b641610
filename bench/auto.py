"""Whether "auto" is the best method, or nearly so: the estimates of im2colx/_methods.py against the clock.

    python bench/auto.py [--bar 1.10] [--ops OP ...] [--layers NAME ...] [--networks NAME ...] [--threads 1 2]

A line for each layer, operation and number of threads: the time of "auto" over that of the fastest method, and the times of
the methods that are in the race.  The last line counts those beyond the bar; the exit code is 1 if there are any.
"""

import argparse
import functools
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from timing import all_layers, all_networks

import im2colx
from im2colx._geometry import resolve
from im2colx._methods import METHODS
from im2colx._plan import recipe
from im2colx._timing import interleaved

OPS = ("forward", "grad_input", "grad_weight")

# Methods that take this many times as long as another are out of the race after two calls; so are the direct loops, for
# seconds, where they have more than so many steps.
HOPELESS, MANY_FOR_LOOPS = 2, 50_000_000
# Whoever is beyond the bar is measured again, for longer: a disturbance does not last through both.
SECONDS = (0.15, 1.5)


def able(layer, op):
    """The methods that take the layer, of those that are not hopeless from the start; and its geometry."""
    channels = layer.c // layer.groups
    geometry = resolve(
        (layer.n, layer.c, layer.h, layer.w), (layer.f, channels, layer.kh, layer.kw), *layer.arguments, "NCHW"
    )  # fmt: skip
    names = [row.name for row in METHODS if row.declines(op, geometry, "f4", None) is None]
    return [name for name in names if name != "naive" or layer.multiply_adds < MANY_FOR_LOOPS], geometry


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
    out = call()
    return {name: functools.partial(call, method=name, out=out) for name in ("auto", *able(layer, op)[0])}


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


def measure(layer, op, threads, bar=1.10):
    """The time of "auto" over that of the best method, the method that it chose, and the times of all, in seconds."""
    geometry = able(layer, op)[1]
    chosen = recipe(op, geometry, "f4", "auto", None, threads).method.name
    calls = hopeful(contenders(layer, op, threads))
    for seconds in SECONDS:
        times = interleaved(calls, seconds, least=3)
        # What "auto" has chosen is the same code, so the better of the two medians is its time.
        own = min(times["auto"], times.get(chosen, np.inf))
        ratio = own / min(times.values())
        if ratio <= bar:
            break
    return ratio, chosen, times


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--bar", type=float, default=1.10, help='how many times the best time "auto" may take (default 1.10)')
    parser.add_argument("--ops", nargs="+", choices=OPS, default=OPS)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--networks", nargs="+", choices=all_networks(), default=[])
    parser.add_argument("--layers", nargs="+", metavar="NAME", help="these layers only")
    options = parser.parse_args()
    layers = all_layers(*options.networks)
    ratios, beyond = [], []
    for name in options.layers or layers:
        if name not in layers:
            parser.error(f"there is no layer {name!r} in {', '.join(layers)}")
        for op in options.ops:
            for threads in options.threads:
                ratio, chosen, times = measure(layers[name], op, threads, options.bar)
                cells = "  ".join(f"{method} {spent * 1e3:.3f}" for method, spent in times.items())
                print(f"{name:13} {op:11} {threads}t  {ratio:5.2f} of the best, chosen {chosen}: {cells} ms", flush=True)
                ratios.append(ratio)
                if ratio > options.bar:
                    beyond.append(f"{name} {op} {threads}t {ratio:.2f}")
    mean = float(np.exp(np.mean(np.log(ratios))))
    print(f'"auto" takes {mean:.3f} of the best time in the geometric mean of {len(ratios)}, at most {max(ratios):.2f}; '
          f"beyond {options.bar}: {len(beyond)}{': ' if beyond else ''}{', '.join(beyond)}")  # fmt: skip
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
