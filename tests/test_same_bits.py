"""The bits of a result depend on the arguments alone: not on threads, the place in the batch, alignment, or `out`."""

import numpy as np
import pytest
from cases import LAYOUTS, methods, methods_for

import im2colx
from im2colx import _core

THREADS = (2, 3, 8)


def normal(rng, shape, dtype="f4"):
    values = rng.standard_normal(shape)
    return (values + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else values).astype(dtype)


def for_any_threads(call):
    expected = call(threads=1)
    for threads in THREADS:
        np.testing.assert_array_equal(call(threads=threads), expected, err_msg=f"{threads} threads")
    return expected


# Where sums, or the products that BLAS makes of them, were once cut by the number of threads: (x, w, arguments)
GRAD_WEIGHT = [
    ((4, 21, 37, 37), (50, 21, 1, 1), {"stride": 2, "pad": 1}),
    ((4, 6, 28, 37), (100, 3, 2, 3), {"pad": 2, "groups": 2}),
]
GRAD_INPUT = [((4, 21, 9, 17), (50, 21, 5, 5), {}), ((1, 40, 30, 30), (64, 40, 3, 3), {"pad": 1})]
FORWARD = [((1, 700, 12, 13), (30, 700, 3, 3), {}), ((2, 64, 40, 40), (64, 64, 3, 3), {"pad": 1})]


@pytest.fixture(params=[_core.instruction_sets()[0], _core.instruction_sets()[-1]])
def level(request):
    """The plainest instruction set, on which "auto" takes BLAS, and the best."""
    before = _core.isa()
    assert _core.set_isa(request.param)
    yield request.param
    assert _core.set_isa(before)


@pytest.mark.parametrize("method", [name for name in methods() if name != "naive"])
@pytest.mark.parametrize("dtype", ["f4", "c16"])
def test_known_cases(method, dtype, level):
    if method not in methods_for(dtype):
        with pytest.raises(ValueError, match="cannot take this call"):
            im2colx.conv2d(np.ones((3, 3), dtype), np.ones((1, 1), dtype), method=method)
        return
    rng = np.random.default_rng(0)
    for kind, cases in (("grad_weight", GRAD_WEIGHT), ("grad_input", GRAD_INPUT), ("forward", FORWARD)):
        for x_shape, w_shape, arguments in cases:
            x, w = normal(rng, x_shape, dtype), normal(rng, w_shape, dtype)
            grad = normal(rng, im2colx.output_shape(x_shape, w_shape, **arguments), dtype)
            for_any_threads(
                lambda threads, kind=kind, x=x, w=w, grad=grad, arguments={**arguments, "method": method}: {
                    "forward": lambda: im2colx.conv2d(x, w, **arguments, threads=threads),
                    "grad_input": lambda: im2colx.conv2d_grad_input(grad, w, x.shape, **arguments, threads=threads),
                    "grad_weight": lambda: im2colx.conv2d_grad_weight(x, grad, w.shape, **arguments, threads=threads),
                }[kind]()
            )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "c16"])
def test_random_cases(dtype, layout):
    """Threads, for all operations; the place in the batch, an unaligned copy and `out`, forward and for grad_input."""
    rng = np.random.default_rng([ord(dtype[0]), int(dtype[1:]), layout == "NHWC"])
    for _ in range(6):
        groups = int(rng.choice([1, 1, 2]))
        n, c, f = int(rng.integers(2, 4)), groups * int(rng.integers(1, 30)), groups * int(rng.integers(1, 50))
        size, kernel = [int(i) for i in rng.integers(6, 30, 2)], [int(i) for i in rng.integers(1, 6, 2)]
        x_shape, w_shape = (n, c, *size), (f, c // groups, *kernel)
        if layout == "NHWC":
            x_shape, w_shape = (n, *size, c), (*kernel, c // groups, f)
        arguments = {"stride": int(rng.integers(1, 3)), "pad": int(rng.integers(0, 3)), "groups": groups, "layout": layout}
        x, w = normal(rng, x_shape, dtype), normal(rng, w_shape, dtype)
        grad = normal(rng, im2colx.output_shape(x_shape, w_shape, **arguments), dtype)
        for method in set(methods_for(dtype)) - {"naive"}:  # the loops have one order
            arguments["method"] = method
            y = for_any_threads(lambda threads: im2colx.conv2d(x, w, **arguments, threads=threads))
            grad_x = for_any_threads(lambda threads: im2colx.conv2d_grad_input(grad, w, x_shape, **arguments, threads=threads))
            for_any_threads(lambda threads: im2colx.conv2d_grad_weight(x, grad, w_shape, **arguments, threads=threads))
            unaligned = np.zeros(x.nbytes + 1, "u1")[1:].view(dtype).reshape(x_shape)
            unaligned[...] = x
            out = np.empty_like(y)
            im2colx.conv2d(unaligned, w, **arguments, out=out)
            np.testing.assert_array_equal(out, y)
            np.testing.assert_array_equal(im2colx.conv2d(x[::-1], w, **arguments), y[::-1])
            np.testing.assert_array_equal(im2colx.conv2d_grad_input(grad[::-1], w, x_shape, **arguments), grad_x[::-1])


def test_gram():
    x = normal(np.random.default_rng(1), (2, 70, 30, 30))
    before = im2colx.get_num_threads()

    def gram(threads):
        im2colx.set_num_threads(threads)
        return im2colx.PatchMatrix(x, 3, pad=1).gram()

    try:
        for_any_threads(gram)
    finally:
        im2colx.set_num_threads(before)
