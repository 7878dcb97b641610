"""What an argument may be: the checks that the modules of `im2colx.nn` share.

Each function takes the argument's name and value and returns the value in one canonical form, or raises an error that
says what it was and what was needed: TypeError for a wrong type, ValueError for a wrong value.
"""

import math
import numbers
import sys

import numpy as np


def whole(name, value, least=1, most=sys.maxsize):
    """A whole number from `least` to `most` (by default the longest that an array can be), as int."""
    # bool is an Integral to Python, but True is a slip for a size, not the number 1.
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, but is {value!r} of type {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, but is {value}")
    if value > most:
        raise ValueError(f"{name} must be at most {most}, but is {value}")
    return int(value)


def seed(name, value):
    """A seed for `numpy.random.default_rng`: a whole number of any size, at least 0."""
    return whole(name, value, least=0, most=math.inf)


def real(name, value, *, below=math.inf, positive=False):
    """A finite number with 0 <= value < below (0 < value if `positive`), as float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, but is {value!r} of type {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond the largest float
        number = math.inf
    # Written so that nan, which compares false with everything, fails.
    if not (0 <= number < below) or (positive and number == 0):
        low = "> 0" if positive else ">= 0"
        high = "finite" if below == math.inf else f"< {below:g}"
        raise ValueError(f"{name} must be {low} and {high}, but is {value}")
    return number


def sizes(name, value):
    """A non-empty tuple of sizes, each at least 1."""
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be a tuple of whole numbers, but is {value!r} of type {type(value).__name__}")
    if not value:
        raise ValueError(f"{name} must have at least one entry, but is {value!r}")
    return tuple(whole(f"{name}[{i}]", size) for i, size in enumerate(value))


def pair(name, value):
    """A whole number for both axes, or one for each, at least 1: always returned as a tuple of two."""
    if not isinstance(value, (tuple, list)):
        return (whole(name, value),) * 2
    if len(value) != 2:
        raise ValueError(f"{name} must be one whole number or two, but has {len(value)}: {value!r}")
    return sizes(name, value)


def axes(name, value):
    """A tuple of axes, each a whole number of at least 0; it may be empty."""
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be a tuple of axes, but is {value!r} of type {type(value).__name__}")
    return tuple(whole(f"{name}[{i}]", axis, least=0) for i, axis in enumerate(value))


def choice(name, value, options):
    """One of the strings in `options`."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, but is {value!r} of type {type(value).__name__}")
    if value not in options:
        raise ValueError(f"{name} must be {' or '.join(map(repr, options))}, but is {value!r}")
    return value


def flag(name, value):
    """True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, but is {value!r} of type {type(value).__name__}")
    return bool(value)


def numbers_array(name, value):
    """An array of real numbers (bool, integer or float) of any shape, not copied."""
    # Dropping a mask would turn missing values into numbers without a word.
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, which is not supported: fill it first, as in {name}.filled(0)")
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, but has dtype {array.dtype}")
    return array


def samples(name, value, shape):
    """An array of real numbers of shape (N, *shape), not copied."""
    array = numbers_array(name, value)
    if array.ndim == 0 or array.shape[1:] != shape:
        hint = f" (one sample needs a batch axis: {name}[np.newaxis])" if array.shape == shape else ""
        raise ValueError(f"{name} has samples of shape {array.shape[1:]}, the model takes {shape}{hint}")
    return array


def keeps(thing, kind, *names):
    """Whether `thing`, of the class `kind`, has what these names mean there: no subclass, nor itself, has another."""
    return all(getattr(type(thing), name) is getattr(kind, name) and name not in vars(thing) for name in names)


def plain(array, dtype):
    """`array` as `dtype`, C-contiguous and aligned; copied only where it is not so already."""
    return np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED"])
