"""Arguments on their edges: what is just let through, what is just refused, and what the messages say, to the letter."""

import itertools
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from cases import refused

from im2colx import output_shape
from im2colx._geometry import fraction, integer, per_axis, resolve, shape, shown


def geometry(x_shape, w_shape, stride=1, pad=0, dilation=1, groups=1, layout="NCHW"):
    return resolve(x_shape, w_shape, stride, pad, dilation, groups, layout)


# ---- The geometry ---------------------------------------------------------------------------------------------------

ARGUMENTS = {"stride": (2, 1), "pad": ((1, 0), (2, 3)), "dilation": (1, 2)}
# layout, shapes as the caller has them, then those of x, w and y with all axes
GIVEN = [
    ("NCHW", (2, 6, 9, 8), (4, 3, 3, 2), 2, (2, 6, 9, 8), (4, 3, 3, 2), (2, 4, 4, 11)),
    ("NCHW", (6, 9, 8), (4, 3, 3, 2), 2, (1, 6, 9, 8), (4, 3, 3, 2), (1, 4, 4, 11)),
    ("NCHW", (9, 8), (3, 2), 1, (1, 1, 9, 8), (1, 1, 3, 2), (1, 1, 4, 11)),
    ("NHWC", (2, 9, 8, 6), (3, 2, 3, 4), 2, (2, 9, 8, 6), (3, 2, 3, 4), (2, 4, 11, 4)),
    ("NHWC", (9, 8, 6), (3, 2, 3, 4), 2, (1, 9, 8, 6), (3, 2, 3, 4), (1, 4, 11, 4)),
    ("NHWC", (9, 8), (3, 2), 1, (1, 9, 8, 1), (3, 2, 1, 1), (1, 4, 11, 1)),
]


@pytest.mark.parametrize(("layout", "x_shape", "w_shape", "groups", "full_x", "full_w", "full_y"), GIVEN, ids=str)
def test_shapes_as_the_caller_has_them_and_with_all_axes(layout, x_shape, w_shape, groups, full_x, full_w, full_y):
    g = geometry(x_shape, w_shape, groups=groups, layout=layout, **ARGUMENTS)
    assert (g.x_shape, g.w_shape, g.y_shape) == (full_x, full_w, full_y)
    assert (g.image, g.kernel, g.output) == ((9, 8), (3, 2), (4, 11))
    assert (g.stride, g.pad, g.dilation, g.groups) == (*ARGUMENTS.values(), groups)
    batch, channels, filters = (full_x[0], 6, 4) if groups == 2 else (1, 1, 1)
    assert (g.batch, g.channels, g.filters) == (batch, channels, filters)
    assert (g.taps, g.outputs, g.rows, g.columns) == (6, 44, 44 * batch, 6 * channels // groups)
    assert g.multiply_adds == g.rows * g.columns * filters
    y_shape = output_shape(x_shape, w_shape, groups=groups, layout=layout, **ARGUMENTS)
    assert g.given_image(full_x) == x_shape and g.given_weight() == w_shape and g.given_image(full_y) == y_shape
    assert [size for size in full_y if size > 1] == [size for size in y_shape if size > 1] and len(y_shape) == len(x_shape)
    for array, full, whole in (
        (np.empty(x_shape), g.full_image, full_x),
        (np.empty(y_shape), g.full_image, full_y),
        (np.empty(w_shape), g.full_weight, full_w),
    ):
        assert full(array).shape == whole and np.shares_memory(full(array), array)


def test_padding_words_mean_what_they_say():
    for size, kernel, stride, dilation in itertools.product(range(1, 9), range(1, 5), range(1, 5), range(1, 4)):
        span = dilation * (kernel - 1) + 1

        def resolved(pad):
            return geometry((1, 1, size, 9), (1, 1, kernel, 1), (stride, 1), pad, (dilation, 1))

        def outputs(pads):
            return (size + pads - span) // stride + 1 if size + pads >= span else 0

        assert resolved("full").pad[0] == (span - 1, span - 1)
        if outputs(0):
            assert resolved("valid").pad[0] == (0, 0)
        if outputs(2 * (span // 2)):
            assert resolved("half").pad[0] == (span // 2, span // 2)
        before, behind = resolved("same").pad[0]
        assert resolved("same").output[0] == -(-size // stride)
        total = before + behind
        assert total == 0 or outputs(total - 1) < -(-size // stride)  # no more than it takes
        assert before == total // 2  # an odd zero goes behind
        assert resolved("same_upper").pad[0] == (before, behind)
        assert resolved("same_lower").pad[0] == (behind, before)


def test_pads_as_they_may_be_written():
    def pads(pad):
        return geometry((1, 1, 9, 9), (1, 1, 3, 3), pad=pad).pad

    assert pads(0) == pads((0, 0)) == pads(((0, 0), (0, 0))) == ((0, 0), (0, 0))
    assert pads(2) == pads([2, 2]) == pads(np.array(2)) == ((2, 2), (2, 2))
    assert pads((1, (2, 3))) == ((1, 1), (2, 3))
    assert pads(((4, 1), 2)) == ((4, 1), (2, 2))
    assert pads(np.array([[1, 2], [3, 4]])) == ((1, 2), (3, 4))
    assert all(type(number) is int for pair in pads(np.array([[1, 2], [3, 4]])) for number in pair)

    def wrong(error, message, pad):
        refused(error, message, pads, pad)

    wrong(ValueError, "pad is -1, but must be at least 0", -1)
    wrong(ValueError, "pad[1] is -1, but must be at least 0", (0, -1))
    wrong(ValueError, "pad[1][0] is -1, but must be at least 0", (0, (-1, 0)))
    wrong(ValueError, "pad[0][1] is -1, but must be at least 0", ((0, -1), 0))
    wrong(TypeError, "pad must be an integer, not 1.5", 1.5)
    wrong(TypeError, "pad[0] must be an integer, not 1.5", (1.5, 0))
    wrong(TypeError, "pad[0][0] must be an integer, not 1.5", ((1.5, 0), 0))
    words = "valid, same, same_upper, same_lower, half, full"
    wrong(ValueError, f"pad is 'SAME', but must be a number, pairs of numbers, or one of {words}", "SAME")
    for pad in ((1,), (1, 2, 3), (1, 2, 3, (4, 4)), (1, 2, 3, 4, 5)):
        wrong(ValueError, f"pad must be one number or 2 entries, one for each axis of space; got {pad}", pad)
    for entry in ((), (1,), (1, 2, 3)):
        wrong(ValueError, f"pad[1] must be a number or (before, after), not {entry}", (0, entry))
    wrong(
        ValueError,
        "pad is the flat (1, 2, 3, 4), and libraries disagree on the order of its entries: "
        "write ((top, bottom), (left, right)), for instance ((1, 2), (3, 4))",
        [1, 2, 3, 4],
    )


def test_output_sizes_are_counted():
    for size, kernel, stride, before, behind, dilation in itertools.product(*map(range, (4, 4, 4, 3, 3, 3))):
        kernel, stride, dilation = kernel + 1, stride + 1, dilation + 1
        padded, span = before + size + behind, dilation * (kernel - 1) + 1
        starts = [o for o in range(0, padded, stride) if o + span <= padded]
        for axis, name in enumerate(("height", "width")):
            x_shape, w_shape, other = [1, 1, 1, 1], [1, 1, 1, 1], [1, 1]
            x_shape[2 + axis], w_shape[2 + axis] = size, kernel
            arguments = [[stride, 1], [(before, behind), 0], [dilation, 1]]
            arguments = [tuple(entries[::-1] if axis else entries) for entries in arguments]
            if starts:
                other[axis] = len(starts)
                assert geometry(tuple(x_shape), tuple(w_shape), *arguments).output == tuple(other)
            else:
                message = (
                    f"the output {name} would be below 1: the kernel spans {span} (size {kernel}, dilation {dilation}), "
                    f"but x has only {size} + padding {before} + {behind} = {padded}"
                )
                refused(ValueError, message, geometry, tuple(x_shape), tuple(w_shape), *arguments)


# ---- Limits ---------------------------------------------------------------------------------------------------------


def test_the_largest_extent_is_let_through():
    most = 2**50
    assert geometry((1, 1, 1, 1), (1, 1, 1, 1), 2**49, ((most - 1, 0), (0, most - 1))).output == (2, 2)
    assert geometry((1, 1, 1, 1), (1, 1, 2, 1), most, ((most - 1, 0), 0), (most - 1, most)).output == (1, 1)
    wrong = "height: a kernel span of 1 over a padded size of 1125899906842625 is too large"
    for pad in ((most, 0), (0, most), (most - 1, 1)):
        refused(ValueError, wrong, geometry, (1, 1, 1, 1), (1, 1, 1, 1), 2**49, (pad, 0))
    wrong = "width: a kernel span of 1125899906842625 over a padded size of 1 is too large"
    refused(ValueError, wrong, geometry, (1, 1, 1, 1), (1, 1, 1, 2), dilation=most)
    for name in ("stride", "dilation", "pad", "groups"):
        wrong = f"{name} is 1125899906842625, which is too large: at most 1125899906842624"
        refused(ValueError, wrong, geometry, (1, 1, 1, 1), (1, 1, 1, 1), **{name: most + 1})


LIMITS = [  # shapes of 2**48 elements, and of a few more: of what
    ((1, 1, 2**24, 2**24), (1, 1, 1, 1), (1, 1, 2**24, 2**24 + 1), (1, 1, 1, 1), "x_shape"),
    ((0, 1, 2**24, 2**24), (1, 1, 1, 1), (0, 1, 2**24, 2**24 + 1), (1, 1, 1, 1), "x_shape"),
    ((1, 2**48, 1, 1), (1, 2**48, 1, 1), (1, 2**48 + 1, 1, 1), (1, 2**48 + 1, 1, 1), "x_shape"),
    ((0, 1, 1, 1), (2**48, 1, 1, 1), (0, 1, 1, 1), (2**48 + 1, 1, 1, 1), "w_shape"),
    ((1, 1, 4, 4), (2**44, 1, 4, 4), (1, 1, 4, 4), (2**44 + 1, 1, 4, 4), "w_shape"),
    ((2, 1, 1, 1), (2**47, 1, 1, 1), (2, 1, 1, 1), (2**47 + 1, 1, 1, 1), "the result"),
    ((0, 1, 2**24, 1), (2**24, 1, 1, 1), (0, 1, 2**24 + 1, 1), (2**24, 1, 1, 1), "the result"),
]


@pytest.mark.parametrize(("x_shape", "w_shape", "beyond_x", "beyond_w", "name"), LIMITS, ids=str)
def test_as_many_elements_as_fit_are_let_through(x_shape, w_shape, beyond_x, beyond_w, name):
    n, _, h, w = output_shape(x_shape, w_shape)
    assert (n, h, w) == (x_shape[0], *(size - k + 1 for size, k in zip(x_shape[2:], w_shape[2:], strict=True)))
    result = (n, beyond_w[0], beyond_x[2] - w_shape[2] + 1, w)
    wrong = {"x_shape": beyond_x, "w_shape": beyond_w, "the result": result}[name]
    message = f"{name} would have shape {wrong}: more elements than fit into memory"
    refused(ValueError, message, output_shape, beyond_x, beyond_w)


# ---- What does not fit ----------------------------------------------------------------------------------------------

RANKS = "x has {} axes {}, but must be {}"
MISFITS = [
    ("NCHW", (8,), (3, 3), 1, RANKS.format(1, (8,), "(N, C, H, W), (C, H, W) or (H, W)")),
    ("NHWC", (1,) * 5, (3, 3), 1, RANKS.format(5, (1,) * 5, "(N, H, W, C), (H, W, C) or (H, W)")),
    ("NCHW", (8, 8), (1, 1, 3, 3), 1, "w has 4 axes (1, 1, 3, 3), but x of shape (8, 8) needs (KH, KW)"),
    ("NHWC", (8, 8), (3,), 1, "w has 1 axes (3,), but x of shape (8, 8) needs (KH, KW)"),
    ("NCHW", (1, 8, 8), (3, 3), 1, "w has 2 axes (3, 3), but x of shape (1, 8, 8) needs (F, C/groups, KH, KW)"),
    ("NHWC", (1, 8, 8, 1), (3, 3), 1, "w has 2 axes (3, 3), but x of shape (1, 8, 8, 1) needs (KH, KW, C/groups, F)"),
    ("NCHW", (1, 0, 8, 8), (1, 0, 3, 3), 1, "x has 0 channels (shape (1, 0, 8, 8), layout NCHW), but needs at least 1"),
    ("NHWC", (8, 8, 0), (3, 3, 0, 1), 1, "x has 0 channels (shape (8, 8, 0), layout NHWC), but needs at least 1"),
    ("NCHW", (1, 1, 8, 8), (0, 1, 3, 3), 1, "w has 0 filters (shape (0, 1, 3, 3), layout NCHW), but needs at least 1"),
    ("NHWC", (8, 8, 1), (3, 3, 1, 0), 1, "w has 0 filters (shape (3, 3, 1, 0), layout NHWC), but needs at least 1"),
    ("NCHW", (1, 4, 8, 8), (4, 3, 3, 3), 2, "w has 3 input channels x 2 groups = 6, but x has 4 (layout NCHW)"),
    ("NHWC", (8, 8, 4), (3, 3, 1, 4), 2, "w has 1 input channels x 2 groups = 2, but x has 4 (layout NHWC)"),
    ("NCHW", (1, 4, 8, 8), (3, 2, 3, 3), 2, "w has 3 filters, which 2 groups do not divide"),
    ("NCHW", (1, 2, 8, 8), (1, 1, 3, 3), 2, "w has 1 filters, which 2 groups do not divide"),
    ("NCHW", (1, 1, 8, 8), (1, 1, 0, 3), 1, "w has a kernel height of 0 (shape (1, 1, 0, 3)), but needs at least 1"),
    ("NHWC", (8, 8, 1), (3, 0, 1, 1), 1, "w has a kernel width of 0 (shape (3, 0, 1, 1)), but needs at least 1"),
    ("NCHW", (8, 8), (3, 0), 1, "w has a kernel width of 0 (shape (3, 0)), but needs at least 1"),
    ("nchw", (8, 8), (3, 3), 1, "layout is 'nchw', but must be 'NCHW' or 'NHWC'"),
]


@pytest.mark.parametrize(("layout", "x_shape", "w_shape", "groups", "message"), MISFITS, ids=str)
def test_shapes_that_do_not_fit(layout, x_shape, w_shape, groups, message):
    refused(ValueError, message, geometry, x_shape, w_shape, groups=groups, layout=layout)


def test_a_layout_that_is_no_word():
    refused(TypeError, "layout must be 'NCHW' or 'NHWC', not 1", geometry, (8, 8), (3, 3), layout=1)


def test_a_stride_that_looks_like_a_bias_gets_a_hint():
    hint = ". If this is a bias, pass it as bias=...: the third argument is the stride"

    def wrong(error, message, stride):
        refused(error, message, geometry, (1, 2, 8, 8), (2, 2, 3, 3), stride)

    lengths = "stride must be an integer or 2 integers, one for each axis of space; got "
    for stride in ((1, 2, 3), [1], [0.5] * 3, ()):
        wrong(ValueError, f"{lengths}{stride}{hint}", stride)
    wrong(ValueError, f"{lengths}an array of shape (64,) and dtype float64{hint}", np.zeros(64))
    wrong(ValueError, f"{lengths}an array of shape (3,) and dtype int64{hint}", np.ones(3, "i8"))
    wrong(TypeError, f"stride[0] must be an integer, not {np.float64(1)!r}{hint}", np.ones(2))
    wrong(ValueError, f"stride[1] is 0, but must be at least 1{hint}", np.array([1, 0]))
    # A number, or as many integers as there are axes, was meant as a stride.
    wrong(ValueError, "stride is 0, but must be at least 1", 0)
    wrong(ValueError, "stride[1] is 0, but must be at least 1", (1, 0))
    wrong(TypeError, "stride must be an integer, not 1.5", 1.5)
    wrong(TypeError, "stride must be an integer, not an array of shape () and dtype float64", np.array(1.5))
    wrong(TypeError, "stride[0] must be an integer, not 1.5", (1.5, 1))
    wrong(TypeError, "stride must be an integer, not b'12'", b"12")
    wrong(TypeError, "stride must be an integer, not '12'", "12")


def test_integers_on_their_edges():
    for value in (1, np.uint8(1), np.array(1), np.int64(2**50)):
        assert integer("n", value) == value and type(integer("n", value)) is int
    assert integer("n", 0, 0) == 0 and integer("n", -3, -3, -3) == -3 and integer("n", 7, most=7) == 7
    refused(ValueError, "n is 0, but must be at least 1", integer, "n", 0)
    refused(ValueError, "n is -4, but must be at least -3", integer, "n", -4, -3)
    refused(ValueError, "n is 8, which is too large: at most 7", integer, "n", 8, most=7)
    refused(TypeError, "n must be an integer, not True", integer, "n", True)
    refused(TypeError, f"n must be an integer, not {np.True_!r}", integer, "n", np.True_)
    refused(TypeError, "n must be an integer, not 1.0", integer, "n", 1.0)


def test_fractions_on_their_edges():
    for value in (5e-324, 0.5, np.float32(0.25), Fraction(1, 3), math.nextafter(1, 0)):
        assert fraction("p", value) == fraction("p", value, True) == float(value) and type(fraction("p", value)) is float
    assert fraction("p", 0, True) == fraction("p", -0.0, True) == 0
    refused(ValueError, "p is 0, but must be above 0 and below 1", fraction, "p", 0)
    for value in (1, 1.0, -5e-324, -1, 2.5, math.inf, math.nan):
        refused(ValueError, f"p is {value}, but must be above 0 and below 1", fraction, "p", value)
        refused(ValueError, f"p is {value}, but must be at least 0 and below 1", fraction, "p", value, True)
    for value in (True, False, "0.5", None, 0.5j, Decimal("0.5")):
        refused(TypeError, f"p must be a number, not {value!r}", fraction, "p", value)
        refused(TypeError, f"p must be a number, not {value!r}", fraction, "p", value, True)


def test_tuples_of_integers():
    for value in ((2, 3), [2, 3], range(2, 4), np.array([2, 3])):
        assert per_axis("n", value, 2) == shape("n", value, (2, 4)) == (2, 3)
    assert per_axis("n", 0, 3, 0) == (0, 0, 0) and per_axis("n", np.array(5), 2) == (5, 5)
    assert shape("n", (0, 1, 2, 3), (2, 4)) == (0, 1, 2, 3)
    refused(ValueError, "n[1] is 1, but must be at least 2", per_axis, "n", (2, 1), 2, 2)
    refused(ValueError, "n must be an integer or 3 integers, one for each axis of space; got (1, 1)", per_axis, "n", (1, 1), 3)
    refused(ValueError, "n is (1, 2, 3): 3 axes, but 2 or 4 are needed", shape, "n", (1, 2, 3), (2, 4))
    refused(ValueError, "n[3] is -1, but must be at least 0", shape, "n", (1, 1, 1, -1), (2, 4))
    for value in (b"12", bytearray(b"12"), memoryview(b"12"), "12", {1: 1, 2: 2}, {1, 2}):
        refused(TypeError, f"n must be an integer, not {shown(value)}", per_axis, "n", value, 2)
        refused(TypeError, f"n must be a tuple of integers, not {shown(value)}", shape, "n", value, (2,))
    refused(TypeError, "n must be a tuple of integers, not an array of shape () and dtype int64", shape, "n", np.array(2), (2,))


def test_values_in_messages_are_short():
    assert shown((1, 2)) == "(1, 2)" and len(shown(10**5000)) < 100 and len(shown("x" * 5000)) < 100
    assert shown(np.ones((2, 3), "f4")) == "an array of shape (2, 3) and dtype float32"
