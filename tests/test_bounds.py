"""No kernel touches memory beyond its arrays: these begin or end at a page that must not be touched."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from im2colx import _core

PROGRAM = """
import ctypes, itertools, mmap, sys
import numpy as np
from cases import random_case, small_integers
import im2colx
from im2colx import _core
from im2colx.nn import _kernels as kernels

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
kept, PAGE = [], mmap.PAGESIZE

def guarded(array, at_end):
    '''A copy of `array` between two pages without access, at the end of its own pages or at their beginning.'''
    size = -(-max(array.nbytes, 1) // PAGE) * PAGE
    memory = mmap.mmap(-1, size + 2 * PAGE)
    kept.append(memory)
    whole = np.frombuffer(memory, np.uint8)
    for page in (0, PAGE + size):
        assert libc.mprotect(whole.ctypes.data + page, PAGE, 0) == 0
    start = PAGE + (size - array.nbytes if at_end else 0)
    copy = whole[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy

_core.set_isa(sys.argv[1])
rng = np.random.default_rng(0)

def convolutions(x, w, arguments, layout, at_end):
    y = im2colx.conv2d(x, w, *arguments, layout=layout)
    x, w, grad = guarded(x, at_end), guarded(w, at_end), guarded(y, at_end)
    out = {shape: guarded(np.zeros(shape, x.dtype), at_end) for shape in (y.shape, x.shape, w.shape)}
    for method in ("implicit", "indexed", "naive"):
        im2colx.conv2d(x, w, *arguments, layout=layout, method=method, out=out[y.shape])
        np.testing.assert_array_equal(out[y.shape], y)
        im2colx.conv2d_grad_input(grad, w, x.shape, *arguments, layout=layout, method=method, out=out[x.shape])
        im2colx.conv2d_grad_weight(x, grad, w.shape, *arguments, layout=layout, method=method, out=out[w.shape])
    im2colx.plan_conv2d(x.shape, w, *arguments, layout=layout, dtype=x.dtype, method="implicit")(x, out=out[y.shape])
    np.testing.assert_array_equal(out[y.shape], y)
    kernel = w.shape[:2] if layout == "NHWC" else w.shape[2:]
    phi = im2colx.PatchMatrix(x, kernel, *arguments[:3], layout=layout)
    np.testing.assert_array_equal(phi.gram(), phi.toarray().T @ phi.toarray())

for number in range(24):
    case, layout, dtype = random_case(rng), ("NCHW", "NHWC")[number % 2], ("float32", "float64")[number // 2 % 2]
    x, w = (small_integers(rng, shape, dtype) for shape in (case.x_shape(layout), case.w_shape(layout)))
    convolutions(x, w, case.geometry, layout, number % 3 > 0)
# Large enough for the padding to be left out, with rows and filters that fill no vector
for x_shape, w_shape, arguments in (((1, 40, 15, 17), (37, 40, 3, 3), (1, 1)), ((1, 130, 7, 7), (70, 130, 3, 3), (1, 1)),
                                    ((1, 3, 61, 59), (21, 3, 7, 7), (2, 3)), ((1, 30, 21, 22), (50, 30, 1, 1), (1, 0))):
    for at_end in (False, True):
        x, w = small_integers(rng, x_shape, "float32"), small_integers(rng, w_shape, "float32")
        convolutions(x, w, (*arguments, 1, 1), "NCHW", at_end)
# Three rows for two threads: the last share is shorter than a tile, whose vectors would end beyond x.
for dtype, width in (("float64", 22), ("float32", 44)):
    x, w = guarded(np.ones((1, 2600, 3, width), dtype), True), np.ones((6, 2600, 1, 1), dtype)
    assert (im2colx.conv2d(x, w, method="implicit", threads=2) == 2600).all()
for shape in ((7, 13, 65), (5, 50, 20), (128, 50, 100), (300, 37, 33), (3, 2100, 21)):
    for ta, tb, at_end, dtype in itertools.product((False, True), (False, True), (False, True), ("float32", "float64")):
        m, k, n = shape
        a, b = small_integers(rng, (k, m) if ta else (m, k), dtype), small_integers(rng, (n, k) if tb else (k, n), dtype)
        a, b = guarded(a, at_end), guarded(b, at_end)
        c = guarded(np.zeros((m, n), dtype), at_end)
        _core.gemm(a.T if ta else a, b.T if tb else b, c, 2)
        np.testing.assert_array_equal(c, (a.T if ta else a) @ (b.T if tb else b))
PASSES = {"sgd": 1, "momentum": 2, "adam": 3, "relu": 1, "relu_gradient": 2}
for (name, count), dtype, at_end in itertools.product(PASSES.items(), ("float32", "float64"), (False, True)):
    made = kernels.Pass(name, 0.25, 0.5, 0.5, 1e-8)
    for size in (1, 15, 100, 33_000):
        made.run(guarded(small_integers(rng, size, dtype), at_end),
                 tuple(guarded(np.ones(size, dtype), at_end) for _ in range(count)), 2)
    for m, k, n in ((7, 13, 65), (300, 37, 33), (3, 2100, 21)) if name in ("sgd", "momentum", "adam") else ():
        a, b = small_integers(rng, (k, m), dtype), small_integers(rng, (k, n), dtype)
        state = [guarded(np.ones((m, n), dtype), at_end) for _ in range(count)]
        # The workspace is as large as it says, too.
        _core.gemm(guarded(a, at_end).T, guarded(b, at_end), state[0], 2, made, tuple(state[1:]),
                   lambda size: guarded(np.empty(size, np.uint8), at_end))
        if name == "sgd":
            np.testing.assert_array_equal(state[0], 1 - 0.25 * (a.T @ b))
print("untouched")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="pages are protected through mprotect")
@pytest.mark.parametrize("isa", _core.instruction_sets())
def test_nothing_beyond_the_arrays_is_touched(isa):
    folders = [str(Path(__file__).parent), str(Path(_core.__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    run = subprocess.run([sys.executable, "-c", PROGRAM, isa], capture_output=True, text=True, env=environment, timeout=300)
    assert run.returncode == 0 and run.stdout == "untouched\n", (run.returncode, run.stderr[-3000:])
