"""Forward and gradients against PyTorch's float64, bit for bit on small integers, over many random geometries.

PyTorch is too large to install for this alone: `pip install torch` (2.13.0 was used) turns these tests on.  Without it
`test_conv.py` makes the same comparison with the slow NumPy twin.
"""

import numpy as np
import pytest
from cases import LAYOUTS, methods, random_case, small_integers

import im2colx

GEOMETRIES = 2400


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed: compared with the NumPy twin only")


def to_nhwc(array, is_weight=False):
    return np.ascontiguousarray(array.transpose((2, 3, 1, 0) if is_weight else (0, 2, 3, 1)))


def torch_results(torch, x, w, grad, bias, case):
    """(y, grad_x, grad_w) by autograd; uneven pads by torch's own pad."""
    tx, tw = (torch.from_numpy(a.astype("float64")).requires_grad_() for a in (x, w))
    (top, bottom), (left, right) = case.pad
    padded = torch.nn.functional.pad(tx, (left, right, top, bottom))
    y = torch.nn.functional.conv2d(padded, tw, torch.from_numpy(bias.astype("float64")), case.stride, 0, case.dilation, case.groups)
    y.backward(torch.from_numpy(grad.astype("float64")))
    return y.detach().numpy(), tx.grad.numpy(), tw.grad.numpy()


def test_random_geometries_equal_torch(torch):
    rng = np.random.default_rng(10)
    checked = 0
    for number in range(GEOMETRIES):
        case, layout, dtype = random_case(rng), LAYOUTS[number % 2], ("float32", "float64")[number // 2 % 2]
        x, w = (small_integers(rng, shape, dtype) for shape in (case.x_shape("NCHW"), case.w_shape("NCHW")))
        bias = small_integers(rng, case.f, dtype)
        grad = small_integers(rng, im2colx.output_shape(x.shape, w.shape, *case.geometry), dtype)
        expected = torch_results(torch, x, w, grad, bias, case)
        if layout == "NHWC":
            x, w, grad = to_nhwc(x), to_nhwc(w, is_weight=True), to_nhwc(grad)
            expected = to_nhwc(expected[0]), to_nhwc(expected[1]), to_nhwc(expected[2], is_weight=True)
        for method in methods():
            named = {"layout": layout, "method": method}
            results = (
                im2colx.conv2d(x, w, *case.geometry, bias=bias, **named),
                im2colx.conv2d_grad_input(grad, w, x.shape, *case.geometry, **named),
                im2colx.conv2d_grad_weight(x, grad, w.shape, *case.geometry, **named),
            )
            for result, right in zip(results, expected, strict=True):
                np.testing.assert_array_equal(result, right, err_msg=f"{case} {layout} {dtype} {method}")
                assert result.dtype == dtype
                checked += 1
    assert checked == GEOMETRIES * 3 * len(methods())


def test_complex_gradients_equal_torch(torch):
    rng = np.random.default_rng(11)
    for _ in range(100):
        case = random_case(rng)
        case = case._replace(pad=((case.pad[0][0],) * 2, (case.pad[1][0],) * 2))
        span = [d * (k - 1) + 1 for d, k in zip(case.dilation, case.kernel, strict=True)]
        if case.h + 2 * case.pad[0][0] < span[0] or case.w + 2 * case.pad[1][0] < span[1]:
            continue
        x, w = (small_integers(rng, shape, "complex128") for shape in (case.x_shape("NCHW"), case.w_shape("NCHW")))
        tx, tw = (torch.from_numpy(a).requires_grad_() for a in (x, w))
        pads = [pair[0] for pair in case.pad]
        y = torch.nn.functional.conv2d(tx, tw, None, case.stride, pads, case.dilation, case.groups)
        grad = small_integers(rng, tuple(y.shape), "complex128")
        y.backward(torch.from_numpy(grad))
        np.testing.assert_array_equal(im2colx.conv2d(x, w, *case.geometry), y.detach().numpy())
        np.testing.assert_array_equal(im2colx.conv2d_grad_input(grad, w, x.shape, *case.geometry), tx.grad.numpy())
        np.testing.assert_array_equal(im2colx.conv2d_grad_weight(x, grad, w.shape, *case.geometry), tw.grad.numpy())
