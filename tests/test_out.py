"""`out` that overlaps itself is refused, and only that; for an empty batch any array of the shape will do."""

import numpy as np
import pytest
from cases import methods

import im2colx
from im2colx._geometry import overlaps_itself


def strided(shape, strides):
    """An array with these strides, in bytes, of memory that is large enough for them."""
    reach = sum(abs(step) * (size - 1) for step, size in zip(strides, shape, strict=True)) + 4
    first = sum(-step * (size - 1) for step, size in zip(strides, shape, strict=True) if step < 0)
    buffer = np.zeros(reach, "u1")
    return np.ndarray(shape, "f4", buffer, first, strides)


@pytest.mark.parametrize("strides", [(64, 64, 4, 4), (64, 64, 0, 4), (64, 64, 4, 8), (1024, 1024, 8, 12), (64, 64, 4, -4)])
def test_out_that_overlaps_itself(strides):
    out = strided((1, 1, 16, 16), strides)
    for method in methods():
        with pytest.raises(ValueError, match=r"out overlaps itself: its strides are .* for shape \(1, 1, 16, 16\)"):
            im2colx.conv2d(np.ones((1, 1, 18, 18), "f4"), np.ones((1, 1, 3, 3), "f4"), method=method, out=out)
    assert not out.any()


def test_out_with_strides_that_only_look_so():
    x, w = np.arange(54, dtype="f4").reshape(2, 1, 9, 3), np.ones((1, 1, 3, 3), "f4")
    expected = im2colx.conv2d(x, w)
    # Interleaved: the rows of one image lie between those of the other; and steps of 8 and 12 bytes that never meet.
    for strides in ((28, 4, 4, 4), (4, 4, 8, 4), (-4, 4, -8, 4), (12, 4, 8, 4), (8, 4, 12, 4)):
        out = strided(expected.shape, strides)
        offsets = {tuple(index): np.dot(index, strides) for index in np.argwhere(np.ones(expected.shape, bool))}
        if len(set(offsets.values())) < expected.size:
            with pytest.raises(ValueError, match="out overlaps itself"):
                im2colx.conv2d(x, w, out=out)
        else:
            np.testing.assert_array_equal(im2colx.conv2d(x, w, out=out), expected)


def test_every_stride_of_a_small_array():
    """Against a list of all addresses."""
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(2000):
        shape = tuple(int(size) for size in rng.integers(0, 5, 3))
        strides = tuple(int(step) * 4 for step in rng.integers(-8, 9, 3))
        array = np.ndarray(shape, "f4", np.zeros(500, "u1"), 250 - 250 % 4, strides) if min(shape) else np.ndarray(shape, "f4")
        addresses = [sum(i * step for i, step in zip(index, strides, strict=True)) for index in np.ndindex(shape)]
        expected = len(set(addresses)) < len(addresses)
        assert overlaps_itself(array) == expected, (shape, strides)
        found.add(expected)
    assert found == {True, False}


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_out_of_an_empty_batch(layout):
    """NumPy gives arrays without elements strides of 0."""
    x, w = np.empty((0, 3, 5, 3), "f4"), np.ones((3, 3, 3, 3), "f4")
    y = im2colx.conv2d(x, w, layout=layout)
    for out in (np.empty(y.shape, "f4"), np.empty(y.shape, "f4")[::-1], np.empty((0,) * 4, "f4").reshape(y.shape)):
        assert im2colx.conv2d(x, w, layout=layout, out=out) is out
        assert im2colx.plan_conv2d(x.shape, w, layout=layout)(x, out=out) is out
    grad_x = np.empty(x.shape, "f4")
    assert im2colx.conv2d_grad_input(y, w, x.shape, layout=layout, out=grad_x) is grad_x
    grad_w = np.full(w.shape, np.nan, "f4")
    assert not im2colx.conv2d_grad_weight(x, y, w.shape, layout=layout, out=grad_w).any()
