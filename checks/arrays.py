"""Arrays for random calls: every dtype, stride, alignment and byte order, written as text that builds them again."""

import functools
from typing import NamedTuple

import numpy as np

SENTINEL = 0xA5  # of bytes that no element owns
LINE = 64  # bytes of a cache line: offsets are counted from one


class Values(NamedTuple):
    """Numbers that depend on nothing but these fields.

    Attributes
    ----------
    shape : tuple of int
    kind : str
        "signed" -3..3, "natural" 0..3, "bits" 0..1: their sums are exact in every type.  "complex": signed parts.  "special":
        signed with some inf, -inf and nan.  "normal": any floats.  "extreme int8", ...: the ends of that type.  "ones".
        "blank": none, for `out`.
    seed : int
    constant : tuple of int
        Axes along which they do not change: an array may have stride 0 there, and a giant shape.
    windows : tuple of two int
        Axes i, j of which only i + j counts: an array may overlap itself there.
    roll : int
        Images by which the batch is shifted.
    """

    shape: tuple
    kind: str
    seed: int = 0
    constant: tuple = ()
    windows: tuple = ()
    roll: int = 0


@functools.lru_cache(maxsize=512)
def numbers(values):
    """The numbers, with size 1 along constant axes: int64, complex128, float64, or Python's integers for extremes."""
    shape, kind = list(values.shape), values.kind
    for axis in values.constant:
        shape[axis] = 1
    if kind == "ones":
        return np.ones(shape, np.int64)
    rng = np.random.default_rng(values.seed)
    if values.windows:
        i, j = values.windows
        width = shape.pop(j)
        i -= i > j
        shape[i] += width - 1
    if kind == "normal":
        made = rng.standard_normal(shape)
    elif kind.startswith("extreme"):
        limits = np.iinfo(kind.split()[1])
        ends = [limits.min, limits.max, limits.max, limits.min, 0, 1, limits.max - 1]
        made = np.array(ends, object)[rng.integers(0, len(ends), shape)]
    else:
        low, high = {"natural": (0, 4), "bits": (0, 2)}.get(kind, (-3, 4))
        made = rng.integers(low, high, shape)
        if kind == "complex":
            made = made + 1j * rng.integers(low, high, shape)
        elif kind == "special":
            made = made.astype(np.float64)
            drawn = rng.integers(0, 12, shape)
            for place, value in enumerate((np.inf, -np.inf, np.nan)):
                made[drawn == place] = value
    if values.windows:
        made = np.moveaxis(np.lib.stride_tricks.sliding_window_view(made, width, i), -1, j)
    return np.roll(made, values.roll, 0) if values.roll else made


def logical(values, dtype=None):
    """The numbers in their full shape, in NumPy's or the given dtype; giants are views with strides of 0."""
    made = numbers(values)
    return np.broadcast_to(made if dtype is None else made.astype(dtype), values.shape)


class Laid(NamedTuple):
    """An array: its numbers, and how they lie in memory.  Its repr builds it again where `from calls import *` was done.

    Attributes
    ----------
    values : Values
    dtype : str
        With byte order.
    order : tuple of int
        Axes from the slowest to the fastest; by default as they come.
    steps : tuple of int
        For each axis the step in elements of what would be dense: -1 is flipped, 2 has gaps, 0 is broadcast.
    offset : int
        Bytes from a cache line: odd ones are misaligned.
    odd : int
        Bytes between neighbouring elements, so that strides are no multiples of the element.
    read_only : bool
    overlapping : bool
        Whether the axes of `values.windows` share their elements.
    given_as : {"array", "list", "object"}
        An ndarray, nested lists, or an object with ``__array__``.
    """

    values: Values
    dtype: str
    order: tuple = ()
    steps: tuple = ()
    offset: int = 0
    odd: int = 0
    read_only: bool = False
    overlapping: bool = False
    given_as: str = "array"

    def __repr__(self):
        parts = [repr(tuple(self.values.shape)), repr(self.values.kind), repr(self.dtype)]
        for owner in (self.values, self):
            for name, value in zip(owner._fields, owner, strict=True):
                if name not in ("shape", "kind", "dtype", "values") and value != owner._field_defaults[name]:
                    parts.append(f"{name}={value!r}")
        return f"array({', '.join(parts)})"


def array(shape, kind, dtype, **fields):
    """What the repr of a Laid says: the array itself."""
    of_values = {name: fields.pop(name) for name in Values._fields if name in fields}
    return build(Laid(Values(shape, kind, **of_values), dtype, **fields))[0]


class Raw(str):
    """A value that is given as Python text."""

    def __repr__(self):
        return str(self)


class Over(NamedTuple):
    """An array of a shape and dtype over the memory of another argument, from a byte on."""

    name: str
    shape: tuple
    dtype: str
    start: int = 0

    def __repr__(self):
        return f"over({self.name}, {self.shape}, {self.dtype!r}, {self.start})"


def over(array, shape, dtype, start=0):
    """An array over the memory of another."""
    return np.ndarray(shape, dtype, array.base, array.ctypes.data - array.base.ctypes.data + start)


class Wrapped:
    """An object that is no array, but can be made one."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array if dtype is None else self.array.astype(dtype)


def on_a_line(count, offset):
    """`count` bytes, `offset` bytes after the begin of a cache line."""
    memory = np.empty(count + offset + LINE, np.uint8)
    start = -memory.ctypes.data % LINE + offset
    return memory[start : start + count]


def strides_of(laid):
    """(strides, bytes from the first byte to the element of index 0, all bytes)."""
    shape, itemsize = laid.values.shape, np.dtype(laid.dtype).itemsize
    order, steps = laid.order or range(len(shape)), laid.steps or (1,) * len(shape)
    shared = laid.values.windows if laid.overlapping else ()
    strides, start, unit = [0] * len(shape), 0, itemsize + laid.odd
    dense = 0  # bytes that are spanned beyond the first element
    for axis in reversed(tuple(order)):
        if axis in shared:
            strides[axis] = unit
            dense += (shape[axis] - 1) * unit
            if axis == min(shared, key=tuple(order).index):  # the slower of the two: both are laid
                unit *= sum(shape[a] for a in shared) - 1
            continue
        strides[axis] = unit * steps[axis]
        reach = (shape[axis] - 1) * strides[axis]
        dense += abs(reach)
        start -= min(reach, 0)
        unit *= max(1, abs(steps[axis]) * max(1, shape[axis])) if steps[axis] else 1
    return tuple(strides), start, dense + itemsize


def build(laid, place=on_a_line):
    """(what is handed to the call, its bytes).  `place(count, offset)` gives the memory, exactly so many bytes."""
    shape, dtype = laid.values.shape, np.dtype(laid.dtype)
    if 0 in shape:
        strides, start, count = (0,) * len(shape), 0, 0
        if laid.values.kind != "blank":  # as np.empty has them where they are not 0
            strides = np.empty(shape, dtype).strides
        memory = place(1, laid.offset)
    else:
        strides, start, count = strides_of(laid)
        memory = place(count, laid.offset)
    memory.fill(SENTINEL)
    made = np.ndarray(shape, dtype, memory, start, strides)
    if count and laid.values.kind != "blank":
        base = made
        if laid.values.constant:
            axes = laid.values.constant
            is_broadcast = [axis for axis in axes if (laid.steps or (1,) * len(shape))[axis] == 0]
            base = made[tuple(slice(0, 1) if axis in is_broadcast else slice(None) for axis in range(len(shape)))]
        with np.errstate(all="ignore"):
            base[...] = np.asarray(numbers(laid.values))
    if laid.read_only:
        made.flags.writeable = False
    if laid.given_as == "list":
        return made.tolist(), memory
    return (Wrapped(made) if laid.given_as == "object" else made), memory


def gaps_are_untouched(made, memory):
    """Whether the bytes of `memory` that belong to no element of `made` are as `build` left them."""
    if made.nbytes == memory.size or not made.size:
        return True
    start = made.__array_interface__["data"][0] - memory.ctypes.data
    copy = memory.copy()
    elements = np.ndarray((*made.shape, made.itemsize), np.uint8, copy, start, (*made.strides, 1))
    elements[...] = SENTINEL
    return bool((copy == SENTINEL).all())
