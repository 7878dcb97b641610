"""What a fault is, and the numbers that are none."""

import math
from typing import NamedTuple

from arrays import Laid, Raw, Values
from call import NAMES

T, V, VM, TV = (TypeError,), (ValueError,), (ValueError, MemoryError, OverflowError), (TypeError, ValueError)


class BadIndex:
    """No integer, and nothing that can be shown."""

    def __index__(self):
        raise RuntimeError("no")

    def __repr__(self):
        raise RuntimeError("nor this")


class BadArray:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no array today")


NAMES.update(BadIndex=BadIndex, BadArray=BadArray)


class Fault(NamedTuple):
    """A value for an argument, the errors of which one must come, and words and numbers of which its message has one."""

    value: object
    errors: tuple
    mentions: tuple
    shows: tuple = ()


_NO_INTEGERS = (
    1.5,
    "2",
    None,
    Raw("nan"),
    True,
    Raw("np.True_"),
    Raw("BadIndex()"),
    1j,
    {1: 2},
    b"2",
    Raw("object()"),
    Raw("np.float64(2)"),
)


def integer(r, name, least):
    """A number that is none, or out of its bounds."""
    if r.random() < 0.5:
        value = r.choice(_NO_INTEGERS)
        return Fault(
            value,
            TV if isinstance(value, (dict, bytes)) or (name == "pad" and value == "2") else T,
            (name,),
            ("1.5",) if value == 1.5 else (),
        )
    value = r.choice((least - 1, -3, -(2**31), -(2**63), -(2**70), 2**63, 2**70))
    return Fault(value, V, (name,), (str(value), str(value)[:12]))


def resized(laid, axis, size):
    """The array with another size along an axis; None if that is a giant."""
    values = laid.values
    shape = (*values.shape[:axis], size, *values.shape[axis + 1 :])
    return Laid(Values(shape, "ones"), laid.dtype) if math.prod(shape) < 2**20 else None
