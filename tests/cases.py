"""The one table of shapes: every test runs over methods × cases.  And how a test asks for an error."""

import pytest

import im2colx
from im2colx._methods import methods_for
from im2colx._selftest import Case, random_case, small_integers

__all__ = [
    "CASES", "FLOATS", "INTEGERS", "LAYOUTS", "Case", "methods", "methods_for", "random_case", "refused", "small_integers",
]  # fmt: skip

CASES = [
    Case("one_pixel", 1, 1, 1, 1, 1, (1, 1)),
    Case("one_tap_is_a_matrix_product", 2, 5, 4, 3, 7, (1, 1)),
    Case("one_tap_strided", 2, 5, 5, 4, 3, (1, 1), stride=(2, 3)),
    Case("one_tap_padded", 1, 2, 3, 3, 2, (1, 1), pad=((1, 0), (0, 2))),
    Case("three_by_three", 1, 3, 8, 9, 4, (3, 3), pad=((1, 1), (1, 1))),
    Case("batch", 5, 2, 6, 6, 3, (3, 3)),
    Case("one_channel", 3, 1, 9, 9, 4, (4, 4), stride=(2, 2)),
    Case("kernel_is_the_image", 2, 3, 5, 4, 6, (5, 4)),
    Case("kernel_larger_than_the_image", 1, 2, 3, 3, 2, (5, 5), pad=((1, 1), (2, 2))),
    Case("row_kernel", 2, 2, 4, 11, 3, (1, 5), stride=(1, 2)),
    Case("column_kernel", 2, 2, 11, 4, 3, (5, 1), stride=(3, 1)),
    Case("stride_leaves_a_rest", 1, 2, 8, 8, 2, (3, 3), stride=(3, 2)),
    Case("stride_beyond_the_kernel", 1, 2, 11, 11, 2, (2, 2), stride=(4, 5)),
    Case("uneven_pads", 2, 2, 5, 6, 3, (3, 2), pad=((2, 0), (1, 3))),
    Case("dilated", 1, 2, 9, 9, 3, (3, 3), pad=((2, 2), (2, 2)), dilation=(2, 2)),
    Case("dilated_and_strided", 2, 3, 12, 13, 2, (3, 2), (2, 3), ((1, 2), (0, 3)), (3, 4)),
    Case("groups", 2, 6, 5, 5, 4, (3, 3), pad=((1, 1), (1, 1)), groups=2),
    Case("depthwise", 1, 5, 7, 7, 5, (3, 3), pad=((1, 1), (1, 1)), groups=5),
    Case("depthwise_multiplier", 2, 3, 6, 6, 6, (3, 3), stride=(2, 2), groups=3),
    Case("mostly_padding", 1, 1, 2, 2, 1, (3, 3), (2, 2), ((5, 4), (6, 7))),
    Case("image_without_pixels", 2, 2, 0, 3, 3, (2, 2), pad=((1, 1), (0, 0))),
]


def methods():
    """Every method that the library has, by its own word."""
    return im2colx.methods()


LAYOUTS = ("NCHW", "NHWC")
FLOATS = ("float32", "float64", "complex64", "complex128")
INTEGERS = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


def refused(error, message, call, *arguments, **named):
    """The call raises this exception with this message, to the letter."""
    with pytest.raises(error) as caught:
        call(*arguments, **named)
    assert type(caught.value) is error and str(caught.value) == message
