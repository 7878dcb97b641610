"""Random convolutions, and the check of every method against the slow twin on this very machine."""

from typing import NamedTuple

import numpy as np

from im2colx import _reference
from im2colx._methods import methods_for
from im2colx.conv import conv2d, conv2d_grad_input, conv2d_grad_weight


class Case(NamedTuple):
    """The sizes of one convolution.  x is (n, c, h, w) whatever the layout; pads are ((top, bottom), (left, right))."""

    name: str
    n: int
    c: int
    h: int
    w: int
    f: int
    kernel: tuple
    stride: tuple = (1, 1)
    pad: tuple = ((0, 0), (0, 0))
    dilation: tuple = (1, 1)
    groups: int = 1

    def x_shape(self, layout):
        return (self.n, self.c, self.h, self.w) if layout == "NCHW" else (self.n, self.h, self.w, self.c)

    def w_shape(self, layout):
        channels = self.c // self.groups
        return (self.f, channels, *self.kernel) if layout == "NCHW" else (*self.kernel, channels, self.f)

    @property
    def geometry(self):
        """The arguments that every function takes after its arrays."""
        return self.stride, self.pad, self.dilation, self.groups


def random_case(rng):
    """Any legal small geometry: kernel and stride 1-4, dilation 1-3, pads 0-3, one to three groups."""
    while True:
        groups = int(rng.choice([1, 1, 2, 3]))
        case = Case(
            "random",
            n=int(rng.integers(1, 4)),
            c=groups * int(rng.integers(1, 5)),
            h=int(rng.integers(1, 11)),
            w=int(rng.integers(1, 11)),
            f=groups * int(rng.integers(1, 5)),
            kernel=tuple(int(k) for k in rng.integers(1, 5, 2)),
            stride=tuple(int(s) for s in rng.integers(1, 5, 2)),
            pad=tuple((int(a), int(b)) for a, b in rng.integers(0, 4, (2, 2))),
            dilation=tuple(int(d) for d in rng.integers(1, 4, 2)),
            groups=groups,
        )
        sizes = zip((case.h, case.w), case.kernel, case.pad, case.dilation, strict=True)
        if all(size + sum(pad) >= dilation * (k - 1) + 1 for size, k, pad, dilation in sizes):
            return case


def small_integers(rng, shape, dtype):
    """Values whose sums are exact in every type, so that results must be equal, not close."""
    dtype = np.dtype(dtype)
    values = rng.integers(0 if dtype.kind in "ub" else -3, 2 if dtype.kind == "b" else 4, shape)
    if dtype.kind == "c":
        values = values + 1j * rng.integers(-3, 4, shape)
    return values.astype(dtype)


def selftest(geometries=200, seed=0, progress=None):
    """Compare every method with the slow twin, exactly, on random geometries.

    Parameters
    ----------
    geometries : int
        How many.
    seed : int
    progress : callable, optional
        Called with the number of geometries done.

    Returns
    -------
    passed : int
        Results that were equal.
    failures : list of str
        A line for each that was not.
    """
    rng = np.random.default_rng(seed)
    dtypes = ("float32", "float64", "complex64", "complex128", "int8", "int64")
    passed, failures = 0, []
    for number in range(geometries):
        case, layout, dtype = random_case(rng), ("NCHW", "NHWC")[number % 2], dtypes[number // 2 % len(dtypes)]
        x, w = (small_integers(rng, shape, dtype) for shape in (case.x_shape(layout), case.w_shape(layout)))
        wide = np.int64 if np.dtype(dtype).kind == "i" else dtype
        y = _reference.conv2d(x.astype(wide), w.astype(wide), *case.geometry, None, layout)
        grad = small_integers(rng, y.shape, dtype)
        expected = (
            y,
            _reference.conv2d_grad_input(grad.astype(wide), w.astype(wide), x.shape, *case.geometry, layout),
            _reference.conv2d_grad_weight(x.astype(wide), grad.astype(wide), w.shape, *case.geometry, layout),
        )
        for method in methods_for(dtype):
            named = {"layout": layout, "method": method}
            calls = {
                "conv2d": lambda named=named: conv2d(x, w, *case.geometry, **named),
                "grad_input": lambda named=named: conv2d_grad_input(grad, w, x.shape, *case.geometry, **named),
                "grad_weight": lambda named=named: conv2d_grad_weight(x, grad, w.shape, *case.geometry, **named),
            }
            for (what, call), right in zip(calls.items(), expected, strict=True):
                try:
                    trouble = None if np.array_equal(call(), right) else "not equal"
                except Exception as error:  # whatever it is, it is what the self-test is for
                    trouble = repr(error)
                if trouble is None:
                    passed += 1
                else:
                    failures.append(f"{what}, method {method}, {dtype}, {layout}: {case}: {trouble}")
        if progress is not None:
            progress(number + 1)
    return passed, failures
