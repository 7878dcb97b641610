"""conv_to_fc and fc_to_conv: the FC layer computes what conv2d computes, and only a convolution's weights come back."""

import pickle

import numpy as np
import pytest
import scipy.sparse
from cases import CASES, LAYOUTS, random_case, small_integers

import im2colx
from im2colx import NotAConvolutionError, PatchMatrix, _recover, conv2d, conv_to_fc, fc_to_conv

DTYPES = ("float64", "float32", "complex128", "int16", "complex64", "int64")


def some_cases(count, seed):
    rng = np.random.default_rng(seed)
    return [*CASES, *(random_case(rng) for _ in range(count))]


def reached(case):
    """Which taps ever lie inside x: (KH, KW)."""
    rows, columns = (
        [
            any(0 <= o * s + k * d - pad[0] < size for o in range((size + sum(pad) - d * (taps - 1) - 1) // s + 1))
            for k in range(taps)
        ]
        for size, taps, s, d, pad in zip((case.h, case.w), case.kernel, case.stride, case.dilation, case.pad, strict=True)
    )
    return np.outer(rows, columns)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_in_both_forms(layout):
    """500 random geometries over both layouts; small integers, so nothing is rounded."""
    rng = np.random.default_rng(0 if layout == "NCHW" else 1)
    for number, case in enumerate(some_cases(250, 2 if layout == "NCHW" else 3)):
        x, w = (small_integers(rng, shape, DTYPES[number % len(DTYPES)]) for shape in (case.x_shape(layout), case.w_shape(layout)))
        bias = small_integers(rng, case.f, w.dtype) if number % 3 else None
        y = conv2d(x, w, *case.geometry, bias=bias, layout=layout)
        sizes = (x.shape, *case.geometry)

        fc = conv_to_fc(w, *sizes, bias=bias, layout=layout)
        phi = fc.inputs(x)
        assert isinstance(phi, PatchMatrix)
        assert (fc.form, fc.weights.shape, fc.weights.dtype) == ("patches", (phi.shape[1], case.f), w.dtype)
        assert (fc.x_shape, fc.y_shape) == (x.shape, y.shape)
        rows = phi @ fc.weights
        np.testing.assert_array_equal(fc.outputs(rows if bias is None else rows + fc.bias), y)
        np.testing.assert_array_equal(fc(x), y)
        back = fc_to_conv(fc.weights, x.shape, w.shape, *case.geometry, bias=fc.bias, layout=layout)
        np.testing.assert_array_equal(back.w, w)
        assert back.w.dtype == w.dtype and back.deviation == 0
        assert back.bias is None if bias is None else (back.bias == bias).all()

        format = ("csr", "dense", "operator")[number % 3]
        fc = conv_to_fc(w, *sizes, bias=bias, layout=layout, form="image", format=format)
        assert fc.inputs(x).shape == (case.n, case.c * case.h * case.w)
        rows = fc.inputs(x) @ fc.weights.T
        np.testing.assert_array_equal(fc.outputs(rows if bias is None else rows + fc.bias), y)
        np.testing.assert_array_equal(fc(x), y)
        back = fc_to_conv(fc.weights, x.shape, w.shape, *case.geometry, bias=fc.bias, layout=layout, form="image")
        mask = reached(case) if layout == "NCHW" else reached(case)[:, :, None, None]
        np.testing.assert_array_equal(back.w, w * mask)
        assert back.w.dtype == fc.weights.dtype and back.deviation == 0
        assert back.bias is None if bias is None else (back.bias == bias).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_the_way_back_is_exact_for_any_numbers(dtype):
    rng = np.random.default_rng(4)
    w = rng.standard_normal((4, 2, 3, 3)) + 1j * rng.standard_normal((4, 2, 3, 3))
    w = (w if dtype == "complex64" else w.real).astype(dtype)
    fc = conv_to_fc(w, (4, 9, 8), 2, 1, 1, 2, bias=w[:, 0, 0, 0], form="image")
    back = fc_to_conv(fc.weights, (4, 9, 8), w.shape, 2, 1, 1, 2, bias=fc.bias, form="image")
    np.testing.assert_array_equal(back.w, w)
    np.testing.assert_array_equal(back.bias, w[:, 0, 0, 0])
    assert back.deviation == 0


@pytest.mark.parametrize("unit", [1, 1 - 2j])
def test_copies_that_differ_within_tol_are_averaged(unit):
    rng = np.random.default_rng(5)
    w = rng.standard_normal((2, 3, 3, 3)) * unit
    fc = conv_to_fc(w, (3, 8, 8), pad=1, bias=np.ones(2), form="image", format="dense")
    noise = rng.uniform(-1e-4, 1e-4, fc.weights.shape) * unit * (fc.weights != 0)
    bias = fc.bias + rng.uniform(-1e-4, 1e-4, fc.bias.shape)
    arguments = ((3, 8, 8), w.shape, 1, 1)
    back = fc_to_conv(fc.weights + noise, *arguments, bias=bias, form="image", tol=1e-3)
    assert 0 < back.deviation < 5e-4
    # The nearest convolution is the mean: by least squares over the stored pattern.
    pattern = conv_to_fc(np.arange(1.0, 55).reshape(w.shape), (3, 8, 8), pad=1, form="image", format="dense").weights
    means = [(fc.weights + noise)[pattern == tag].mean() for tag in range(1, 55)]
    np.testing.assert_allclose(back.w.ravel(), means, rtol=1e-13)
    np.testing.assert_allclose(back.bias, bias.reshape(2, -1).mean(1), rtol=1e-13)
    with pytest.raises(NotAConvolutionError) as caught:
        fc_to_conv(fc.weights + noise, *arguments, form="image")
    assert caught.value.deviation == pytest.approx(np.abs(fc.weights + noise - conv_to_fc(back.w, (3, 8, 8), pad=1, form="image").weights.toarray()).max())


def refused(*arguments, **named):
    with pytest.raises(NotAConvolutionError) as caught:
        fc_to_conv(*arguments, **named)
    return caught.value


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_refusals_tell_where_and_by_how_much(layout, sparse):
    x_shape, w_shape = ((4, 6, 7), (6, 2, 3, 2)) if layout == "NCHW" else ((6, 7, 4), (3, 2, 2, 6))
    w = np.random.default_rng(6).uniform(1, 2, w_shape)
    w[(0, 0, 0, 0)] = 4  # the largest
    geometry = (2, 1, 1, 2)
    fc = conv_to_fc(w, x_shape, *geometry, layout=layout, form="image", format="dense")
    out, outputs = (6, 3, 4), 12

    def entry(f, a, b, c, i, j):
        o, pixel = a * out[2] + b, i * 7 + j
        return (f * outputs + o, c * 42 + pixel) if layout == "NCHW" else (o * 6 + f, pixel * 4 + c)

    def error(at, value):
        weights = fc.weights.copy()
        weights[entry(*at)] = value
        weights = scipy.sparse.coo_array(weights) if sparse else weights
        found = refused(weights, x_shape, w_shape, *geometry, layout=layout, form="image")
        assert (found.row, found.column) == entry(*at)
        assert (found.output, found.input) == (at[:3], at[3:])
        assert found.relative == pytest.approx(found.deviation / max(4, abs(value)))
        assert f"row {found.row}, column {found.column}" in str(found)
        assert "output f={}, a={}, b={}; input c={}, i={}, j={}".format(*at) in str(found)
        assert f"{found.deviation:.3g}" in str(found)
        return found

    # A pixel that the patch does not hold, a channel of the other group, and copies that differ: by a number, or lost.
    found = error((5, 1, 1, 3, 5, 6), -0.5)
    assert found.deviation == 0.5 and "must be zero: the patch does not hold this pixel" in str(found)
    found = error((0, 1, 1, 2, 2, 2), 0.25)
    assert found.deviation == 0.25 and "must be zero: with 2 groups that filter does not see the channel" in str(found)
    for value in (9.0, 0.0):
        at = (4, 2, 1, 3, 4, 2)
        was = fc.weights[entry(*at)]
        assert 1 <= was <= 2
        copies = np.count_nonzero(fc.weights == was)
        found = error(at, value)
        assert found.deviation == pytest.approx(abs(value - was) * (1 - 1 / copies))
        assert "as in other patches" in str(found) and f"is {value}" in str(found)


def test_entries_between_the_taps_of_a_dilated_kernel_must_be_zero():
    w = np.ones((1, 1, 2, 2))
    weights = conv_to_fc(w, (1, 5, 5), dilation=2, form="image", format="dense").weights
    weights[0, 1] = 0.5
    found = refused(weights, (1, 5, 5), w.shape, dilation=2, form="image")
    assert (found.output, found.input, found.deviation) == ((0, 0, 0), (0, 0, 1), 0.5)
    assert "the patch does not hold this pixel" in str(found)


def test_refusals_of_the_bias_and_of_groups_on_patches():
    w = np.ones((2, 1, 2, 2))
    fc = conv_to_fc(w, (2, 3, 4), groups=2, bias=np.array([1.0, 2.0]), form="image")
    bias = fc.bias.copy()
    bias[6 + 4] = 8
    found = refused(fc.weights, (2, 3, 4), w.shape, groups=2, bias=bias, form="image")
    assert (found.row, found.column, found.output, found.input) == (10, None, (1, 1, 1), None)
    assert found.deviation == 5 and found.relative == 5 / 8  # their mean is 3
    assert str(found).startswith("bias is not that of such a convolution: row 10 (output f=1, a=1, b=1) is 8.0, but must be 3.0")
    for layout, w_shape, x_shape in (("NCHW", (2, 1, 2, 2), (2, 3, 4)), ("NHWC", (2, 2, 1, 2), (3, 4, 2))):
        weights = conv_to_fc(np.ones(w_shape), x_shape, groups=2, layout=layout).weights
        row = 7 if layout == "NCHW" else 2 * 3 + 1  # channel 1, its last tap
        weights[row, 0] = 0.5
        found = refused(weights, x_shape, w_shape, groups=2, layout=layout)
        assert (found.row, found.column, found.output, found.input) == (row, 0, (0,), (1, 1, 1))
        assert found.deviation == found.relative == 0.5
        assert fc_to_conv(weights, x_shape, w_shape, groups=2, layout=layout, tol=0.6).deviation == 0.5
    again = pickle.loads(pickle.dumps(found))
    assert str(again) == str(found) and again.input == found.input
    assert isinstance(found, ValueError)


def test_integers_come_back_exactly_or_not_at_all():
    w = np.array([[[[2**62, 1], [3, -(2**62)]]]])
    fc = conv_to_fc(w, (1, 3, 3), form="image", format="dense")
    np.testing.assert_array_equal(fc_to_conv(fc.weights, (1, 3, 3), w.shape, form="image").w, w)
    fc.weights[3, 4] += 1  # a difference that floats do not see
    found = refused(fc.weights, (1, 3, 3), w.shape, form="image")
    assert found.deviation == 1
    flags = conv_to_fc(np.ones((1, 1, 2, 2), bool), (1, 3, 3), form="image", format="dense").weights.astype(bool)
    assert fc_to_conv(flags, (1, 3, 3), (1, 1, 2, 2), form="image").w.dtype == bool


def test_many_parts_give_the_same(monkeypatch):
    w = np.random.default_rng(7).standard_normal((3, 2, 3, 3))
    matrix = conv_to_fc(w, (2, 6, 6), pad=1, form="image").weights
    monkeypatch.setattr(_recover, "CHUNK", 50)
    for weights in (matrix, matrix.toarray(), matrix.tocoo(), matrix.tocsc(), scipy.sparse.csr_matrix(matrix)):
        back = fc_to_conv(weights, (2, 6, 6), w.shape, pad=1, form="image")
        np.testing.assert_array_equal(back.w, w)


def test_what_is_given_is_not_changed():
    w = np.ones((1, 1, 2, 2))
    matrix = conv_to_fc(w, (1, 3, 3), form="image").weights
    data = np.append(matrix.data, [0.5, -0.5])  # entries that are there twice
    indices, indptr = np.append(matrix.indices, [0, 0]), np.append(matrix.indptr[:-1], matrix.indptr[-1] + 2)
    twice = scipy.sparse.csr_array((data, indices, indptr), shape=matrix.shape)
    np.testing.assert_array_equal(fc_to_conv(twice, (1, 3, 3), w.shape, form="image").w, w)
    assert twice.nnz == matrix.nnz + 2
    weights = conv_to_fc(w, (1, 3, 3)).weights
    fc_to_conv(weights, (1, 3, 3), w.shape).w[:] = 7
    assert (weights == 1).all()


def test_images_and_planes():
    x, w = np.arange(12.0).reshape(3, 4), np.arange(4.0).reshape(2, 2)
    for form in ("patches", "image"):
        for layout in LAYOUTS:
            fc = conv_to_fc(w, x.shape, bias=2.0, layout=layout, form=form)
            np.testing.assert_array_equal(fc(x), conv2d(x, w) + 2)
            back = fc_to_conv(fc.weights, x.shape, w.shape, bias=fc.bias, layout=layout, form=form)
            np.testing.assert_array_equal(back.w, w)
            one = np.ones((2, 3, 4) if layout == "NCHW" else (3, 4, 2))
            v = np.ones((5, 2, 2, 2) if layout == "NCHW" else (2, 2, 2, 5))
            fc = conv_to_fc(v, one.shape, layout=layout, form=form)
            np.testing.assert_array_equal(fc(one), conv2d(one, v, layout=layout))


def test_any_batch_but_no_other_shape():
    w = np.ones((2, 3, 2, 2))
    for form in ("patches", "image"):
        fc = conv_to_fc(w, (5, 3, 4, 4), form=form)
        assert fc(np.ones((0, 3, 4, 4))).shape == (0, 2, 3, 3)
        assert fc(np.ones((7, 3, 4, 4))).shape == (7, 2, 3, 3)
        for shape in ((3, 4, 4), (5, 3, 4, 5)):
            with pytest.raises(ValueError, match=r"but the layer was made for \(5, 3, 4, 4\)"):
                fc(np.ones(shape))
        for shape in ((18,), (5, 5), (3, 3, 2)):
            with pytest.raises(ValueError, match="y has shape"):
                fc.outputs(np.ones(shape))
    with pytest.raises(ValueError, match=r"\(1·9, 2\)"):
        conv_to_fc(w, (3, 4, 4)).outputs(np.ones((18, 2)))


def test_bad_arguments():
    w = np.ones((2, 3, 2, 2))
    for call, error, message in (
        (lambda: conv_to_fc(w, (3, 4, 4), form="rows"), ValueError, "form is 'rows', but must be one of patches, image"),
        (lambda: conv_to_fc(w, (3, 4, 4), form=2), TypeError, "form must be a string"),
        (lambda: conv_to_fc(w, (3, 4, 4), bias=np.ones(3)), ValueError, "bias has shape (3,), but must be (2,)"),
        (lambda: conv_to_fc(w, (3, 4, 4), form="image", format="lil"), ValueError, "format is 'lil'"),
        (lambda: fc_to_conv(w, (3, 4, 4), w.shape), ValueError, "weights has shape (2, 3, 2, 2), but the sizes of the convolution give (12, 2)"),
        (lambda: fc_to_conv(np.ones((18, 47)), (3, 4, 4), w.shape, form="image"), ValueError, "give (18, 48)"),
        (lambda: fc_to_conv(np.ones((12, 2)), (3, 4, 4), w.shape, bias=np.ones(1)), ValueError, "bias has shape (1,), but must be (2,)"),
        (lambda: fc_to_conv(np.ones((12, 2)), (3, 4, 4), w.shape, tol=-1), ValueError, "tol is -1, but must be at least 0 and below 1"),
        (lambda: fc_to_conv(np.full((12, 2), np.nan), (3, 4, 4), w.shape), ValueError, "weights holds nan or inf"),
        (lambda: fc_to_conv(np.full((18, 48), np.inf), (3, 4, 4), w.shape, form="image"), ValueError, "weights holds nan or inf"),
        (lambda: fc_to_conv(im2colx.ConvOperator(w, (3, 4, 4)).T, (3, 4, 4), w.shape, form="image"), TypeError, "weights has dtype object"),
        (lambda: fc_to_conv(np.full((12, 2), None), (3, 4, 4), w.shape), TypeError, "weights has dtype object"),
    ):  # fmt: skip
        with pytest.raises(error) as caught:
            call()
        assert message in str(caught.value) and not isinstance(caught.value, NotAConvolutionError)
    matrix = conv_to_fc(w, (3, 4, 4), form="image").weights
    with pytest.raises(ValueError, match="bias holds nan or inf"):
        fc_to_conv(matrix, (3, 4, 4), w.shape, bias=np.full(18, np.nan), form="image")


@pytest.mark.parametrize("form", ["patches", "image"])
def test_the_format_is_checked_whatever_the_form(form):
    w = np.ones((1, 1, 2, 2))
    for format, error in (("CSR", ValueError), (None, TypeError), (("csr",), TypeError)):
        with pytest.raises(error, match="format"):
            im2colx.conv_to_fc(w, (1, 1, 3, 3), form=form, format=format)
