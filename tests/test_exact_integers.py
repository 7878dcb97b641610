"""The type in which integers are summed: wide enough for every sum, and no wider than that."""

import numpy as np
import pytest
from cases import refused

from im2colx import _plan
from im2colx._geometry import resolve

INT32, INT64 = np.dtype("i4"), np.dtype("i8")
LARGEST32, LARGEST64 = 2**31 - 1, 2**63 - 1
GEOMETRY = resolve((3, 6, 9, 8), (4, 3, 3, 2), (2, 1), ((1, 0), (2, 3)), (1, 2), 2, "NCHW")
# Products in a sum: C/G·KH·KW, F/G·KH·KW, N·OH·OW.
TERMS = {"forward": 18, "grad_input": 12, "grad_weight": 3 * 4 * 11}


def of(*values, dtype="i8"):
    return np.array(values, dtype)


def products(terms, a, b, bias=None, accumulator=INT32):
    """The type of sums of so many products: over channels, images or filters, which is all the same."""
    found = set()
    for op, x_shape, w_shape in (
        ("forward", (1, terms, 1, 1), (1, terms, 1, 1)),
        ("grad_input", (1, 1, 1, 1), (terms, 1, 1, 1)),
        ("grad_weight", (terms, 1, 1, 1), (1, 1, 1, 1)),
    ):
        geometry = resolve(x_shape, w_shape, 1, 0, 1, 1, "NCHW")
        found.add(_plan._product_typecode(op, geometry, a, b, bias, accumulator))
    (found,) = found
    return found


@pytest.fixture
def unread(monkeypatch):
    monkeypatch.setattr(_plan, "extremes", lambda array: pytest.fail("the array was read"))


@pytest.mark.parametrize(("op", "terms"), TERMS.items())
def test_sums_of_products_of_every_operation(op, terms):
    a, b = of(-3, 2), of(1, 5)
    for bias, expected in ((LARGEST32 - 15 * terms, "i4"), (LARGEST32 - 15 * terms + 1, "i8"), (-LARGEST32, "i8")):
        assert _plan._product_typecode(op, GEOMETRY, a, b, of(bias, 0), INT32) == expected


def test_the_largest_sums_of_each_type():
    low, high = -(2**15), 2**15 - 1
    assert 3 * 2**15 * 21845 + high == LARGEST32
    assert products(3, of(low, 5, dtype="i2"), of(21845, dtype="i2"), of(high, dtype="i2")) == "i4"
    assert products(3, of(low, 5, dtype="i2"), of(21845, dtype="i2"), of(low, dtype="i2")) == "i8"
    assert products(1, of(low, dtype="i2"), of(low, dtype="i2")) == "i4"
    assert products(2, of(low, dtype="i2"), of(low, dtype="i2")) == "i8"
    assert products(2**17, of(-128, dtype="i1"), of(-128, dtype="i1")) == "i8"
    assert products(1, of(LARGEST64), of(1), None, INT64) == "i8"
    assert products(1, of(LARGEST64), of(-1), of(0), INT64) == "i8"
    assert products(1, of(LARGEST64), of(1), of(1), INT64) == "wide"
    assert products(1, of(LARGEST64), of(1), of(1), INT32) == "wide"
    assert products(1, of(LARGEST64), of(1), None, INT32) == "i8"
    assert products(1, of(-LARGEST64 - 1), of(1), None, INT64) == "wide"
    assert LARGEST64 * (2**63 + 1) == 2**126 - 1
    assert products(1, of(-LARGEST64), of(2**63 + 1, dtype="u8"), None, INT64) == "wide"
    message = f"sums may reach {2**126}, more than 128 bits hold"
    refused(OverflowError, message, products, 1, of(-(2**63)), of(-(2**63)), None, INT64)
    refused(OverflowError, message, products, 1, of(-LARGEST64), of(2**63 + 1, dtype="u8"), of(-1), INT64)


def test_arrays_without_elements_and_without_truth_add_nothing():
    empty, bias = of(), of(LARGEST32)
    assert products(5, empty, of(7), bias) == products(5, of(7), empty, bias) == products(5, of(0), of(7), bias) == "i4"
    assert products(5, of(LARGEST32 // 5), of(1), empty) == "i4"
    assert products(1, of(LARGEST32), of(True, False, dtype="?")) == "i4"
    assert products(1, of(LARGEST32), of(True, False, dtype="?"), of(True, dtype="?")) == "i8"
    assert products(2, of(LARGEST32), of(False, dtype="?")) == "i4"


def test_arrays_are_read_only_where_their_types_do_not_tell(unread):
    """Sums that no values of the types can make too large."""
    i1, u1, i2, truth = (of(1, dtype=name) for name in ("i1", "u1", "i2", "?"))
    for terms, a, b, bias in (
        (2**17 - 1, i1, i1, i1), (2**15 - 1, u1, u1, u1), (2**16 - 1, i1, u1, i1), (LARGEST32, truth, truth, None),
        (LARGEST32 - 1, truth, truth, truth), (2**16 - 1, i2, truth, i1), (2**24 - 1, truth, i1, truth), (1, i2, i2, i2),
    ):  # fmt: skip
        assert products(terms, a, b, bias) == "i4"
        if terms > 1:
            with pytest.raises(pytest.fail.Exception, match="the array was read"):
                products(2 * terms, a, b, bias)
    with pytest.raises(pytest.fail.Exception, match="the array was read"):
        products(2**17 - 1, i1, i1, i2)
    for name, most in (("i1", 2**24 - 1), ("i2", 2**16 - 1), ("?", LARGEST32)):
        assert _plan.integer_sum_typecode(most, of(1, dtype=name), INT32) == "i4"
        with pytest.raises(pytest.fail.Exception, match="the array was read"):
            _plan.integer_sum_typecode(most + 1, of(1, dtype=name), INT32)
    assert _plan.integer_squares_typecode(2**17 - 1, images(1, dtype="i1"), INT32) == "i4"
    with pytest.raises(pytest.fail.Exception, match="the array was read"):
        _plan.integer_squares_typecode(2**17, images(1, dtype="i1"), INT32)


def test_sums_of_entries():
    sums = _plan.integer_sum_typecode
    for entry in (2**64 - 1, 0):
        assert sums(1, of(entry, dtype="u8"), INT64) == "i8"  # as it is: whether it fits is asked where it is converted
    assert sums(1, of(-(2**63)), INT64) == "i8" and sums(1, of(-(2**15), dtype="i2"), INT32) == "i4"
    assert sums(2, of(-(2**30), 5), INT32) == "i8" and sums(2, of(2**30 - 1), INT32) == "i4"
    assert sums(2**16, of(-(2**15), dtype="i2"), INT32) == "i8" and sums(2**16, of(2**15 - 1, dtype="i2"), INT32) == "i4"
    assert sums(3, of(LARGEST64 // 3, -5), INT64) == "i8"
    message = "sums of {} entries may reach {}, more than int64 holds"
    refused(OverflowError, message.format(2, 2**63), sums, 2, of(2**62), INT64)
    refused(OverflowError, message.format(3, 3 * 2**63), sums, 3, of(-(2**63), 7), INT64)
    refused(OverflowError, message.format(4, 2**64), sums, 4, of(2**62), INT32)
    assert sums(5, of(), INT64) == "i8"


def images(*channels, dtype="i8"):
    """One row of pixels for each channel."""
    return np.array(channels, dtype).reshape(len(channels), 1, 1, -1)


def test_sums_of_squares():
    squares = _plan.integer_squares_typecode
    # As many products as there are, of the largest entries ...
    assert squares(1, images((46340, 46340)), INT32) == "i4" and squares(1, images((46341, 0)), INT32) == "i8"
    assert squares(2, images((-32767, 32767, 32767)), INT32) == "i4" and squares(2, images((-32768, 32768)), INT32) == "i8"
    # ... or the squares of all entries of a channel, which may be less; of the worst channel.
    assert squares(10, images((30000, 30000)), INT32) == "i4" and squares(10, images((30000,) * 3), INT32) == "i8"
    assert squares(10, images((1, 1, 1), (30000,) * 3), INT32) == squares(10, images((30000,) * 3, (1, 1, 1)), INT32) == "i8"
    assert squares(10, images((30000, 30000), (30000, 30000)), INT32) == "i4"
    assert squares(1, images((3037000499, 1)), INT64) == "i8"
    message = "sums of squares may reach {}, more than int64 holds: pass floats"
    refused(OverflowError, message.format(3037000500**2), squares, 1, images((3037000500, 1)), INT64)
    refused(OverflowError, message.format(3 * 2**64), squares, 3, images((2**32, -(2**32), 2**32, 2**32)), INT64)
    assert squares(5, np.zeros((2, 1, 0, 3), "i8"), INT64) == "i8"
    assert squares(2**40, images((True, False), dtype="?"), INT32) == "i4"


def test_results_that_fit_into_32_bits():
    low, high = -(2**31), 2**31 - 1
    for values in ((low, 0, high), (low,), (high,), (0,)):
        result = _plan.narrowed(of(*values), INT32)
        assert result.dtype == INT32 and result.tolist() == list(values)
    message = "a result is {}, which does not fit into int32: pass 32- or 64-bit integers"
    for worst, values in (
        (high + 1, (0, high + 1)),
        (low - 1, (low - 1, high)),
        (high + 1, (low, high + 1)),
        (high + 5, (low - 9, high + 5)),
    ):
        refused(OverflowError, message.format(worst), _plan.narrowed, of(*values), INT32)
