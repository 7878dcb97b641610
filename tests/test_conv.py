"""conv2d and its gradients against the slow NumPy twin: exactly, on small integers, for every method, case and type."""

import numpy as np
import pytest
from cases import CASES, FLOATS, INTEGERS, LAYOUTS, methods, methods_for, random_case, small_integers

import im2colx
from im2colx import _core, _reference
from im2colx._geometry import resolve
from im2colx._methods import METHODS


# Everything that _core.Problem can be: the kinds of the methods, and both orientations of the microkernels.
KINDS = [(kind, "either") for kind in sorted({method.kind for method in METHODS})]
KINDS += [("implicit", "pixels"), ("implicit", "filters")]


def references(case, x, w, grad, bias, layout):
    """(y, grad_input, grad_weight) by the reference, in a type that holds them."""
    wide = [a.astype(np.int64) if a is not None and a.dtype.kind in "iub" else a for a in (x, w, grad, bias)]
    x, w, grad, bias = wide
    args = (*case.geometry,)
    y = _reference.conv2d(x, w, *args, bias, layout)
    return (
        y,
        _reference.conv2d_grad_input(grad, w, x.shape, *args, layout),
        _reference.conv2d_grad_weight(x, grad, w.shape, *args, layout),
    )


def operands(case, layout, dtype, seed=0):
    rng = np.random.default_rng(seed)
    x = small_integers(rng, case.x_shape(layout), dtype)
    w = small_integers(rng, case.w_shape(layout), dtype)
    bias = small_integers(rng, case.f, dtype)
    y_shape = im2colx.output_shape(x.shape, w.shape, *case.geometry, layout=layout)
    return x, w, small_integers(rng, y_shape, dtype), bias


def check_equal(actual, expected):
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", methods())
def test_every_case_is_exact(case, layout, method):
    for dtype in (*FLOATS, *INTEGERS):
        if method not in methods_for(dtype):
            continue
        x, w, grad, bias = operands(case, layout, dtype)
        y, grad_input, grad_weight = references(case, x, w, grad, bias, layout)
        named = {"layout": layout, "method": method}
        check_equal(im2colx.conv2d(x, w, *case.geometry, bias=bias, **named), y)
        check_equal(im2colx.conv2d_grad_input(grad, w, x.shape, *case.geometry, **named), grad_input)
        check_equal(im2colx.conv2d_grad_weight(x, grad, w.shape, *case.geometry, **named), grad_weight)


def test_random_geometries_are_exact():
    rng = np.random.default_rng(1)
    for number in range(300):
        case, layout, dtype = random_case(rng), LAYOUTS[number % 2], FLOATS[number // 2 % 4]
        x, w, grad, bias = operands(case, layout, dtype, number)
        y, grad_input, grad_weight = references(case, x, w, grad, bias, layout)
        for method in methods_for(dtype):
            named = {"layout": layout, "method": method}
            check_equal(im2colx.conv2d(x, w, *case.geometry, bias=bias, **named), y)
            check_equal(im2colx.conv2d_grad_input(grad, w, x.shape, *case.geometry, **named), grad_input)
            check_equal(im2colx.conv2d_grad_weight(x, grad, w.shape, *case.geometry, **named), grad_weight)


@pytest.mark.parametrize(("kind", "orientation"), KINDS)
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("workspace", [16, 100, 1000, 10_000, 1 << 20])
def test_every_cut_into_tiles_and_threads_is_exact(kind, orientation, threads, workspace):
    """Small problems run on one thread and in one tile; here the core is told to cut them all the same."""
    rng = np.random.default_rng(2)
    for number in range(40):
        case, layout = random_case(rng), LAYOUTS[number % 2]
        typecode = ("f8", "f4")[number // 2 % 2]
        x, w, grad, bias = operands(case, layout, typecode, number)
        y, grad_input, grad_weight = references(case, x, w, grad, bias, layout)
        geometry = resolve(x.shape, w.shape, *case.geometry, layout)

        def problem(op, geometry=geometry):
            return _core.Problem(geometry, op, typecode, kind, workspace, threads, orientation=orientation)

        result = np.full(y.shape, np.nan, typecode)  # what is not written shows
        problem("forward").run(x, w, result, bias)
        check_equal(result, y)
        result = np.full(x.shape, np.nan, typecode)
        problem("grad_input").run(result, w, grad)
        check_equal(result, grad_input)
        result = np.full(w.shape, np.nan, typecode)
        problem("grad_weight").run(x, result, grad)
        check_equal(result, grad_weight)
        if kind == "tile":
            assert problem("forward").workspace_nbytes() <= max(workspace, 8)
            assert problem("grad_input").workspace_nbytes() <= max(workspace, 8)
            assert problem("grad_weight").workspace_nbytes() <= max(workspace, 8)


@pytest.mark.parametrize(("method", "dtype"), [(m, dtype) for dtype in FLOATS for m in methods_for(dtype)])
def test_random_data_is_as_near_as_a_dot_product(method, dtype):
    """Componentwise: |error| <= min(K, 16) eps (|x| * |w|), against the reference in a wider type."""
    rng = np.random.default_rng(3)
    case = CASES[4]._replace(c=32, h=14, w=14, f=16)
    wide = np.dtype("clongdouble" if dtype.startswith("c") else "longdouble")

    def data(shape):
        values = rng.standard_normal(shape)
        return (values + 1j * rng.standard_normal(shape) if wide.kind == "c" else values).astype(dtype)

    x, w = data(case.x_shape("NCHW")), data(case.w_shape("NCHW"))
    exact = _reference.conv2d(x.astype(wide), w.astype(wide), *case.geometry)
    scale = _reference.conv2d(abs(x.astype(wide)), abs(w.astype(wide)), *case.geometry)
    error = abs(im2colx.conv2d(x, w, *case.geometry, method=method) - exact)
    assert (error <= 16 * np.finfo(dtype).eps * scale).all()
    assert error.max() > 0


@pytest.mark.parametrize("method", methods())
def test_gradients_are_adjoints(method):
    """⟨conv(x, w), g⟩ = ⟨x, grad_input(g, w)⟩ = ⟨w, grad_weight(x, g)⟩, with conjugation on complex data."""
    rng = np.random.default_rng(4)
    dtype = "complex128" if method in methods_for("complex128") else "float64"
    for number in range(30):
        case, layout = random_case(rng), LAYOUTS[number % 2]
        x, w, grad, _ = operands(case, layout, dtype, number)
        named = {"layout": layout, "method": method}
        y = im2colx.conv2d(x, w, *case.geometry, **named)
        inner = np.vdot(grad, y)
        assert np.vdot(im2colx.conv2d_grad_input(grad, w, x.shape, *case.geometry, **named), x) == inner
        assert np.vdot(im2colx.conv2d_grad_weight(x, grad, w.shape, *case.geometry, **named), w) == inner


# ---- Shapes, paddings, types ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_axes(layout):
    rng = np.random.default_rng(5)
    x = small_integers(rng, (1, 3, 6, 7) if layout == "NCHW" else (1, 6, 7, 3), "float64")
    w = small_integers(rng, (4, 3, 3, 3) if layout == "NCHW" else (3, 3, 3, 4), "float64")
    y = im2colx.conv2d(x, w, pad=1, layout=layout)
    check_equal(im2colx.conv2d(x[0], w, pad=1, layout=layout), y[0])
    check_equal(im2colx.conv2d_grad_input(y[0], w, x[0].shape, pad=1, layout=layout),
                im2colx.conv2d_grad_input(y, w, x.shape, pad=1, layout=layout)[0])  # fmt: skip
    check_equal(im2colx.conv2d_grad_weight(x[0], y[0], w.shape, pad=1, layout=layout),
                im2colx.conv2d_grad_weight(x, y, w.shape, pad=1, layout=layout))  # fmt: skip
    plane, kernel = x.reshape(-1)[:42].reshape(6, 7), w.reshape(-1)[:9].reshape(3, 3)
    alone = im2colx.conv2d(plane[None, None], kernel[None, None], pad=1)[0, 0]
    check_equal(im2colx.conv2d(plane, kernel, pad=1, layout=layout), alone)
    check_equal(im2colx.conv2d(plane, kernel, pad=1, layout=layout, bias=5.0), alone + 5)
    assert im2colx.conv2d_grad_input(alone, kernel, (6, 7), pad=1, layout=layout).shape == (6, 7)
    assert im2colx.conv2d_grad_weight(plane, alone, (3, 3), pad=1, layout=layout).shape == (3, 3)


@pytest.mark.parametrize(
    ("word", "size", "kernel", "stride", "dilation", "pads"),
    [
        ("valid", 7, 3, 2, 1, (0, 0)),
        ("same", 7, 3, 1, 1, (1, 1)),
        ("same", 7, 4, 1, 1, (1, 2)),
        ("same_upper", 8, 3, 2, 1, (0, 1)),
        ("same_lower", 8, 3, 2, 1, (1, 0)),
        ("same", 5, 1, 3, 1, (0, 0)),  # the stride skips more than the kernel spans
        ("same", 9, 3, 1, 3, (3, 3)),
        ("half", 7, 5, 1, 1, (2, 2)),
        ("half", 7, 4, 2, 1, (2, 2)),
        ("half", 9, 3, 1, 2, (2, 2)),
        ("full", 5, 3, 1, 1, (2, 2)),
        ("full", 5, 3, 1, 2, (4, 4)),
    ],
)
def test_padding_words(word, size, kernel, stride, dilation, pads):
    rng = np.random.default_rng(6)
    x, w = rng.standard_normal((1, 2, size, size)), rng.standard_normal((3, 2, kernel, kernel))
    y = im2colx.conv2d(x, w, stride, word, dilation)
    check_equal(y, im2colx.conv2d(x, w, stride, (pads, pads), dilation))
    if word.startswith("same"):
        assert y.shape[2] == -(-size // stride)


def test_pads_by_axis_and_side():
    x, w = np.ones((1, 1, 5, 5)), np.ones((1, 1, 3, 3))
    check_equal(im2colx.conv2d(x, w, pad=(1, 2)), im2colx.conv2d(x, w, pad=((1, 1), (2, 2))))
    assert im2colx.conv2d(x, w, pad=((1, 0), (2, 3))).shape == (1, 1, 4, 8)
    assert im2colx.conv2d(x, w, pad=np.array([[1, 0], [2, 3]])).shape == (1, 1, 4, 8)


@pytest.mark.parametrize("method", methods())
def test_padding_is_an_explicit_zero(method):
    x, w = np.ones((1, 1, 2, 2)), np.ones((1, 1, 3, 3))
    w[0, 0, 0, 0] = np.inf
    y = im2colx.conv2d(x, w, pad=1, method=method)
    assert np.isnan(y[0, 0, 0, 0]) and y[0, 0, 1, 1] == np.inf
    grad = np.full((1, 1, 2, 2), 1.0)
    grad[0, 0, 0, 0] = np.inf
    assert np.isnan(im2colx.conv2d_grad_weight(x, grad, (1, 1, 3, 3), pad=1, method=method)[0, 0, 0, 0])


@pytest.mark.parametrize("method", methods())
def test_promotion(method):
    expected = {
        ("float32", "float32"): "float32",
        ("float32", "float64"): "float64",
        ("float16", "float16"): "float16",
        ("float16", "float32"): "float32",
        ("float32", "complex64"): "complex64",
        ("float64", "complex64"): "complex128",
        ("int8", "int8"): "int32",
        ("bool", "uint16"): "int32",
        ("int16", "int32"): "int64",
        ("uint64", "int64"): "int64",
        ("uint8", "float32"): "float32",
        ("int32", "float32"): "float64",
        ("int64", "float16"): "float64",
    }
    for (a, b), result in expected.items():
        for left, right in ((a, b), (b, a)):
            if method not in methods_for(a, b):
                with pytest.raises(ValueError, match="cannot take this call: its microkernels are for float32 and float64"):
                    im2colx.conv2d(np.ones((1, 2, 4, 4), left), np.ones((3, 2, 3, 3), right), method=method)
                continue
            x, w = np.ones((1, 2, 4, 4), left), np.ones((3, 2, 3, 3), right)
            y = im2colx.conv2d(x, w, method=method)
            assert y.dtype == result
            check_equal(y, np.full((1, 3, 2, 2), 18).astype(result))
            assert im2colx.conv2d_grad_input(np.ones(y.shape, left), w, x.shape, method=method).dtype == result
            assert im2colx.conv2d_grad_weight(x, np.ones(y.shape, right), w.shape, method=method).dtype == result


def test_float16_is_rounded_once():
    """2048 + 1 in float16 is 2048 again: only a sum in float32 finds the 4096."""
    x, w = np.ones((1, 4096, 1, 1), "float16"), np.ones((1, 4096, 1, 1), "float16")
    assert im2colx.conv2d(x, w).item() == 4096
    plan = im2colx.plan_conv2d(x.shape, w)
    assert plan(x).dtype == np.float16 and plan(x).item() == 4096
    out = np.empty((1, 1, 1, 1), "float16")
    assert plan(x, out=out) is out and out.item() == 4096


@pytest.mark.parametrize("method", methods_for("int8"))
def test_integers_never_wrap(method):
    def conv(x, w, dtype, bias=None):
        n = len(x)
        return im2colx.conv2d(np.array(x, dtype).reshape(1, n, 1, 1), np.array(w, dtype).reshape(1, n, 1, 1),
                              method=method, bias=bias)  # fmt: skip

    assert conv([-128] * 9, [-128] * 9, "int8").item() == 9 * 2**14
    # int16: products of 2**30; two of them pass int32, unless the sum comes back
    assert conv([2**15 - 1], [2**15 - 1], "int16").item() == (2**15 - 1) ** 2
    assert conv([-(2**15)] * 2, [-(2**15), 2**15 - 1], "int16").item() == 2**15
    with pytest.raises(OverflowError, match="2147483648.*int32"):
        conv([-(2**15)] * 2, [-(2**15)] * 2, "int16")
    with pytest.raises(OverflowError, match="4294836225"):
        conv([2**16 - 1], [2**16 - 1], "uint16")
    # int64: sums in 128 bits where they may be needed
    big = 2**62
    assert conv([big, big, big], [1, 1, -1], "int64").item() == big
    with pytest.raises(OverflowError, match="int64"):
        conv([big, big], [1, 1], "int64")
    assert conv([-(2**63)], [1], "int64").item() == -(2**63)
    with pytest.raises(OverflowError, match="int64"):
        conv([-(2**63)], [-1], "int64")
    with pytest.raises(OverflowError, match="128"):
        conv([-(2**63)] * 4, [-(2**63)] * 4, "int64")
    with pytest.raises(OverflowError, match=r"18446744073709551615.*int64"):
        conv([2**64 - 1], [1], "uint64")
    assert conv([2**63 - 1], [1], "uint64").item() == 2**63 - 1
    with pytest.raises(OverflowError):
        conv([2**63 - 1], [1], "int64", bias=np.array([1]))
    x, g = np.full((1, 1, 1, 2), 2**62), np.ones((1, 1, 1, 2), int)
    with pytest.raises(OverflowError):
        im2colx.conv2d_grad_weight(x, g, (1, 1, 1, 1), method=method)
    with pytest.raises(OverflowError):
        im2colx.conv2d_grad_input(x.reshape(1, 2, 1, 1), np.ones((2, 1, 1, 1), int), (1, 1, 1, 1), method=method)


# ---- Arrays as they come --------------------------------------------------------------------------------------------


def awkward_views(array):
    """The same values under other strides, alignments and byte orders."""
    yield "fortran", np.asfortranarray(array)
    yield "reversed", array[::-1, ::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1, ::-1]
    wide = np.empty((*array.shape[:-1], array.shape[-1] * 3), array.dtype)
    wide[..., ::3] = array
    yield "strided", wide[..., ::3]
    read_only = array.copy()
    read_only.flags.writeable = False
    yield "read-only", read_only
    yield "swapped", array.astype(array.dtype.newbyteorder())
    for offset in (1, 4, 7):
        buffer = np.zeros(array.nbytes + 16, np.uint8)
        view = buffer[offset : offset + array.nbytes].view(array.dtype).reshape(array.shape)
        view[...] = array
        yield f"offset {offset}", view
    record = np.zeros(array.shape, [("pad", "u1"), ("value", array.dtype)])
    record["value"] = array
    yield "field of a record", record["value"]


@pytest.mark.parametrize(
    ("method", "dtype"), [(m, d) for d in ("float32", "complex64", "float64", "complex128", "int16") for m in methods_for(d)]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides_alignment_and_byte_order(method, layout, dtype):
    case = CASES[15]
    x, w, grad, bias = operands(case, layout, dtype)
    y, grad_input, grad_weight = references(case, x, w, grad, bias, layout)
    named = {"layout": layout, "method": method}
    for (_, xv), (_, wv), (_, gv) in zip(awkward_views(x), awkward_views(w), awkward_views(grad), strict=True):
        copies = xv.copy(), wv.copy(), gv.copy()
        check_equal(im2colx.conv2d(xv, wv, *case.geometry, bias=bias, **named), y)
        check_equal(im2colx.conv2d_grad_input(gv, wv, x.shape, *case.geometry, **named), grad_input)
        check_equal(im2colx.conv2d_grad_weight(xv, gv, w.shape, *case.geometry, **named), grad_weight)
        for view, copy in zip((xv, wv, gv), copies, strict=True):
            check_equal(view, copy)
    same = np.broadcast_to(x[:1, :1, :1, :1], x.shape)
    check_equal(im2colx.conv2d(same, w, *case.geometry, **named), im2colx.conv2d(same.copy(), w, *case.geometry, **named))


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize("layout", LAYOUTS)
def test_out(method, layout):
    case = CASES[4]
    x, w, grad, bias = operands(case, layout, "float64")
    y, grad_input, grad_weight = references(case, x, w, grad, bias, layout)
    named = {"layout": layout, "method": method}
    calls = [
        (y, lambda out: im2colx.conv2d(x, w, *case.geometry, bias=bias, out=out, **named)),
        (grad_input, lambda out: im2colx.conv2d_grad_input(grad, w, x.shape, *case.geometry, out=out, **named)),
        (grad_weight, lambda out: im2colx.conv2d_grad_weight(x, grad, w.shape, *case.geometry, out=out, **named)),
    ]
    for expected, call in calls:
        for _, view in awkward_views(np.full(expected.shape, np.nan)):
            if not view.flags.writeable or not view.dtype.isnative:
                continue
            assert call(view) is view
            check_equal(view, expected)


def test_out_surroundings_are_untouched():
    buffer = np.full((3, 4, 12, 12), 7.0, "float32")
    out = buffer[1:2, 1:4, 2:10, 3:11]
    x, w = np.ones((1, 2, 10, 10), "float32"), np.ones((3, 2, 3, 3), "float32")
    im2colx.conv2d(x, w, out=out)
    assert (out == 18).all()
    out[...] = 7
    assert (buffer == 7).all()


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_empty_batch_gives_an_empty_result(method, layout):
    case = CASES[4]._replace(n=0)
    x, w, grad, bias = operands(case, layout, "float32")
    named = {"layout": layout, "method": method}
    assert im2colx.conv2d(x, w, *case.geometry, bias=bias, **named).shape == grad.shape
    assert im2colx.conv2d_grad_input(grad, w, x.shape, *case.geometry, **named).shape == x.shape
    out = np.full(w.shape, np.nan, "float32")
    im2colx.conv2d_grad_weight(x, grad, w.shape, *case.geometry, out=out, **named)
    assert (out == 0).all()
    plan = im2colx.plan_conv2d(x.shape, w, *case.geometry, bias=bias, **named)
    assert plan(x).shape == grad.shape and plan.workspace_nbytes == 0


@pytest.mark.parametrize("method", methods())
def test_an_image_of_padding_gives_the_bias(method):
    y = im2colx.conv2d(np.empty((2, 3, 0, 4)), np.ones((5, 3, 2, 2)), pad=((1, 2), (0, 0)), bias=np.arange(5.0), method=method)
    check_equal(y, np.broadcast_to(np.arange(5.0)[:, None, None], (2, 5, 2, 3)))


def test_batch_position_does_not_matter():
    """Equal images give equal bits wherever they stand, for the loops and for tiles."""
    rng = np.random.default_rng(7)
    x, w = rng.standard_normal((1, 8, 14, 14)).astype("float32"), rng.standard_normal((9, 8, 3, 3)).astype("float32")
    for method in methods():
        y = im2colx.conv2d(np.repeat(x, 4, axis=0), w, pad=1, method=method)
        for image in y[1:]:
            check_equal(image, y[0])
