"""Operands and `out`: what can be read or written where it is, what is converted, what is done in blocks, what is refused."""

import itertools
import math

import numpy as np
import pytest
from cases import refused

from im2colx import _geometry
from im2colx._geometry import (
    blocks,
    check_dtype,
    check_out,
    converted,
    copied,
    extremes,
    is_regular,
    move,
    once,
    operand,
    overlap,
    overlaps_itself,
    result_dtypes,
)

FIELDS = np.dtype([("a", "f8"), ("b", "c16")])  # 24 bytes


def test_operands():
    array = np.ones(3)
    assert operand("x", array) is array
    assert type(operand("x", array.view(np.recarray))) is np.ndarray
    assert operand("x", [1, 2]).dtype == np.int64

    def raising(error):
        class Raising:
            def __array__(self, dtype=None, copy=None):
                raise error

        return Raising()

    refused(TypeError, "x cannot be made an array: KeyError('no')", operand, "x", raising(KeyError("no")))
    refused(ValueError, "x cannot be made an array: ValueError('no')", operand, "x", raising(ValueError("no")))
    with pytest.raises(MemoryError, match="^no$"):
        operand("x", raising(MemoryError("no")))
    wrong = "x is a {}, whose meaning would be lost: pass an ndarray"
    refused(TypeError, wrong.format("MaskedArray"), operand, "x", np.ma.masked_array([1.0]))


def test_types_that_can_be_convolved():
    good = "?bhilqBHILQefdFD"
    for character in np.typecodes["All"]:
        dtype = np.dtype(character)
        wrong = f"x has dtype {dtype}; it must be bool, an integer, float16, float32, float64, complex64 or complex128"
        if character in good:
            check_dtype("x", dtype)
            check_dtype("x", dtype.newbyteorder())
        elif dtype.char not in good:
            refused(TypeError, wrong, check_dtype, "x", dtype)


RESULTS = {
    "? ?": "i4 i4", "i1 ?": "i4 i4", "u2 i2": "i4 i4", "i1 i4": "i8 i8", "u4": "i8 i8", "? u8": "i8 i8", "e": "f4 e",
    "e e": "f4 e", "e f4": "f4 f4", "e i1": "f4 e", "e i2": "f4 f4", "f4 i2": "f4 f4",
    "f4 i4": "f8 f8", "f4 f8": "f8 f8", "e F": "F F", "f8 F": "D D",
}  # fmt: skip


@pytest.mark.parametrize(("types", "expected"), RESULTS.items(), ids=RESULTS)
def test_types_of_results(types, expected):
    found = result_dtypes(*(np.dtype(name).newbyteorder(order) for name, order in zip(types.split(), "<>")))
    assert found == tuple(map(np.dtype, expected.split())) and all(dtype.isnative for dtype in found)


def test_blocks_cover_an_array_once_and_are_as_large_as_they_may(monkeypatch):
    monkeypatch.setattr(_geometry, "PIECE", 12)
    for sizes in itertools.product((0, 1, 2, 3, 5, 12, 13), repeat=3):
        for shape in (sizes, sizes[:1], sizes[1:], ()):
            touched, found = np.zeros(shape, int), list(blocks(shape))
            for block in found:
                assert touched[block].size <= 12
                touched[block] += 1
            assert (touched == 1).all()
            # Along the first axis of which several fit, as many as fit at once; one by one along those before it.
            axis = next((axis for axis in range(len(shape)) if math.prod(shape[axis + 1 :]) <= 12), 0)
            inner = math.prod(shape[axis + 1 :])
            expected = math.prod(shape[:axis]) * -(-shape[axis] // (12 // inner)) if touched.size > 12 else 1
            assert len(found) == expected, shape


@pytest.mark.parametrize("piece", [1, 7, 24, 1 << 20])
def test_what_is_done_in_blocks(monkeypatch, piece):
    monkeypatch.setattr(_geometry, "PIECE", piece)
    array = np.arange(-60, 60).reshape(2, 3, 4, 5)
    for view in (array, array.T, array[:, ::2, ::-1], array[..., :0], np.broadcast_to(array[:, :1], array.shape)):
        to = np.empty(view.shape, "f8")
        assert move(view, to) is to
        np.testing.assert_array_equal(to, view)
        for dtype in ("i2", ">f4", "c16"):
            copy = copied(view, np.dtype(dtype))
            assert copy.dtype == np.dtype(dtype).newbyteorder("=") and copy.dtype.isnative and copy.flags.owndata
            np.testing.assert_array_equal(copy, view)
            assert copied(view, np.dtype(dtype), "C").flags.c_contiguous
        if view.size:
            assert extremes(view) == (view.min(), view.max())
    assert copied(array.T, array.dtype).flags.f_contiguous
    assert type(copied(array.view(np.recarray), array.dtype)) is np.ndarray
    for place in range(6):  # an extreme in any block
        values = np.zeros(6, "i8")
        values[place] = -(2**63)
        assert extremes(values) == (-(2**63), 0)
        assert extremes((-1 - values).astype("u8")) == (0 if 0 in -1 - values else 2**63 - 1, 2**64 - 1)
        assert extremes(values != 0) == (0, 1)


def test_equal_elements_are_taken_once():
    row = np.arange(5)
    for array, expected in (
        (np.broadcast_to(row, (7, 5)), (1, 5)), (np.broadcast_to(row[:, None], (5, 2**40)), (5, 1)), (row, (5,)),
        (np.broadcast_to(np.int64(3), (2, 1, 2**40)), (1, 1, 1)), (row[::2], (3,)), (np.broadcast_to(row, (0, 5)), (0, None)),
    ):  # fmt: skip
        found = once(array).shape
        assert found[:1] == expected[:1] and (expected[-1] is None or found == expected)
    assert once(np.broadcast_to(row[:, None], (5, 2)))[:, 0].tolist() == row.tolist()
    assert extremes(np.broadcast_to(row, (2**40, 5))) == (0, 4)


def regular_and_not():
    """(whether the core can read it where it is, an array of these values)."""
    values = np.arange(6) * (1 - 2j)
    fields = np.zeros(6, FIELDS)
    fields["b"] = values
    misaligned = np.frombuffer(b"\0" + values.tobytes(), "c16", offset=1)
    gapped = np.zeros((6, 3), "c16")
    gapped[:, 1] = values
    return [
        (True, values), (True, values[::-1][::1][::-1]), (True, gapped[:, 1]), (True, np.broadcast_to(values, (3, 6))[1]),
        (False, values.astype(">c16")), (False, misaligned), (False, fields["b"]),
    ]  # fmt: skip


def test_what_the_core_reads_where_it_is():
    for expected, array in regular_and_not():
        assert is_regular(array) is expected
        result = converted("x", array, np.dtype("c16"))
        assert (result is array) is expected
        assert is_regular(result) and result.dtype.isnative
        np.testing.assert_array_equal(result, np.arange(6) * (1 - 2j))
    assert not np.zeros(6, FIELDS)["b"].strides[0] % 8  # aligned, but in no steps of whole elements
    assert is_regular(np.lib.stride_tricks.as_strided(np.zeros(8, "f4"), (2,), (-8,)))
    assert is_regular(np.empty((0, 3)))


def test_conversions():
    def convert(values, source, to):
        return converted("x", np.array(values, source), np.dtype(to))

    for values, source, to in (
        ([2**31 - 1, 0], "u4", "i4"), ([2**63 - 1, 0], "u8", "i8"), ([2**32 - 1], "u4", "i8"), ([255], "u1", "i4"),
        ([255, 1], "u1", "f4"), ([1.5], "f4", "f8"), ([1.5, np.nan], "f8", "f4"), ([2**64 - 2**11], "u8", "f8"),
        ([-5], "i1", "i8"), ([True], "?", "i4"), ([], "u8", "i8"), ([], "i1", "i4"), ([], "f8", "f4"),
    ):  # fmt: skip
        result = convert(values, source, to)
        assert result.dtype == to
        np.testing.assert_array_equal(result, values)
    refused(OverflowError, "x holds 2147483648, which does not fit into int32", convert, [0, 2**31, 5], "u4", "i4")
    refused(OverflowError, "x holds 9223372036854775808, which does not fit into int64", convert, [2**63, 0], "u8", "i8")
    refused(OverflowError, "x holds 255, which does not fit into int8", convert, [0, 255], "u1", "i1")
    wide = converted("x", np.broadcast_to(np.int8(3), (2**40, 2)), np.dtype("i4"))
    assert wide.shape == (2**40, 2) and wide.strides == (0, 0) and wide[-1, -1] == 3


def test_out_that_does_not_fit():
    dtype, buffer = np.dtype("f4"), np.zeros(20, "f4")
    out = buffer[:12].reshape(3, 4)
    assert check_out(out, (3, 4), dtype, x=buffer[12:], bias=None) is out
    read_only = out.view()
    read_only.flags.writeable = False
    window = np.lib.stride_tricks.as_strided(buffer, (3, 4), (4, 4))
    for wrong, error, message in (
        ([0], TypeError, "out must be an ndarray, not [0]"),
        (np.ma.masked_array(out), TypeError, "out is a MaskedArray, whose meaning would be lost: pass an ndarray"),
        (out.T, ValueError, "out has shape (4, 3), but the result has (3, 4)"),
        (out.astype("f8"), ValueError, "out has dtype float64, but the result has float32"),
        (out.astype(">f4"), ValueError, "out has dtype >f4, but the result has float32"),
        (read_only, ValueError, "out is read-only"),
        (window, ValueError, "out overlaps itself: its strides are (4, 4) for shape (3, 4)"),
    ):
        refused(error, message, check_out, wrong, (3, 4), dtype)
    refused(ValueError, "out overlaps w in memory", check_out, out, (3, 4), dtype, x=buffer[12:], w=buffer[11:], bias=None)


def test_arrays_that_share_an_element():
    line = np.zeros(12)
    assert overlap(line[:7], line[6:]) and not overlap(line[:6], line[6:]) and not overlap(line[::2], line[1::2])
    assert overlap(line[::2], line[::3]) and not overlap(line[:0], line) and not overlap(line, np.zeros(12))
    # The example of a hard question in the manual of np.shares_memory.
    block, stride = np.zeros(192163377, "i1"), np.lib.stride_tricks.as_strided
    a, b = stride(block, (1049,) * 3, (36674, 61119, 85569)), stride(block[64023025:], (1049, 1049, 1), (12223, 12224, 1))
    with pytest.raises(np.exceptions.TooHardError):
        np.shares_memory(a, b, max_work=1000)
    assert overlap(a, b)  # rather refused than wrong


def test_ordinary_arrays_are_told_without_a_search(monkeypatch):
    """Whatever is made by slices, transpositions and new axes, however many elements and axes it has."""
    monkeypatch.setattr(_geometry, "overlap", lambda a, b: pytest.fail("a search"))
    array = np.zeros((2, 3, 4, 5))
    for view in (array, array.T, array[::-1, ::2, 1:, ::-3], array[:, :1].transpose(2, 1, 3, 0)[None], array[..., None].T,
                 array[..., :0], array[::2, None, ::2, 0]):  # fmt: skip
        assert not overlaps_itself(view)
