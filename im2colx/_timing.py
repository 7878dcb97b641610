"""How things are timed: contenders in turn, so that a disturbance meets all of them, and medians."""

import time

import numpy as np


def interleaved(contenders, seconds=1.0, least=5):
    """Median time of each contender, called in turn, in another order each time: one leaves its caches to the next.

    Parameters
    ----------
    contenders : dict of str to callable
    seconds : float
        About how long to measure altogether, after two calls of each to warm up.
    least : int
        Calls of each at least.

    Returns
    -------
    dict of str to float
        Seconds.
    """
    times = {name: [] for name in contenders}
    for call in contenders.values():
        call()
        call()
    rng = np.random.default_rng(0)
    names = list(contenders)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < least:
        for name in rng.permutation(names):
            start = time.perf_counter()
            contenders[name]()
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def numpy_conv2d(x, w, stride, pad, dilation):
    """The usual convolution in plain NumPy, one group, NCHW: windows of a padded copy, then tensordot."""
    span = [dilation[k] * (w.shape[2 + k] - 1) + 1 for k in range(2)]
    padded = np.pad(x, ((0, 0), (0, 0), *pad))
    windows = np.lib.stride_tricks.sliding_window_view(padded, span, axis=(2, 3))
    windows = windows[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
    return np.ascontiguousarray(np.tensordot(windows, w, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2))
