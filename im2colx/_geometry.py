"""Arguments → canonical arrays and one geometry, or a clear error.

Every entry point passes through here before any work: the sizes of Eq. 5-7 are computed and compared in this file and
nowhere else.  Python's integers do not wrap, so nothing overflows; what the C core gets is bounded below.
"""

import math
import numbers
import operator
import reprlib
import signal
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LAYOUTS = ("NCHW", "NHWC")
PAD_WORDS = ("valid", "same", "same_upper", "same_lower", "half", "full")

# Elements of any array, stored or virtual.  2**48 of them fill the address space of today's 64-bit machines, and leave
# the core's arithmetic on sizes far from overflow.
MOST_ELEMENTS = 2**48
# Padded image sizes, strides and dilations; o*stride + k*dilation stays below the padded size.
LARGEST_EXTENT = 2**50

_AXIS_NAMES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of one convolution: everything but the element type.

    Tuples have one entry for each axis of space (one to three).

    Attributes
    ----------
    batch, channels, filters, groups : int
        N, C, F, G.
    image, kernel, output, stride, dilation : tuple of int
    pad : tuple of (before, after)
    channels_last : bool
        Layout NHWC: x is (N, ..., C), w is (..., C/G, F), columns of Φ run (taps, c).  Otherwise (N, C, ...),
        (F, C/G, ...) and (c, taps).
    given : {"batch", "image", "plane"}
        What the caller's x was: with a batch axis; without it; or without batch and channel axes.
    """

    batch: int
    channels: int
    filters: int
    groups: int
    image: tuple
    kernel: tuple
    output: tuple
    stride: tuple
    dilation: tuple
    pad: tuple
    channels_last: bool
    given: str

    @property
    def taps(self):
        return math.prod(self.kernel)

    @property
    def outputs(self):
        """Output positions of one image, P."""
        return math.prod(self.output)

    @property
    def rows(self):
        """Rows of Φ, N·P."""
        return self.batch * self.outputs

    @property
    def columns(self):
        """Columns of Φ for one group, C/G·taps."""
        return self.channels // self.groups * self.taps

    @property
    def multiply_adds(self):
        return self.rows * self.filters * self.columns

    # Shapes with all axes, as the core wants them.
    @property
    def x_shape(self):
        return self._image_shape(self.channels, self.image)

    @property
    def y_shape(self):
        return self._image_shape(self.filters, self.output)

    @property
    def w_shape(self):
        channels = self.channels // self.groups
        return (*self.kernel, channels, self.filters) if self.channels_last else (self.filters, channels, *self.kernel)

    def _image_shape(self, channels, space):
        return (self.batch, *space, channels) if self.channels_last else (self.batch, channels, *space)

    # Shapes and views as the caller has them.
    def given_image(self, shape):
        """The shape of x or y without the axes that the caller's x does not have."""
        if self.given == "batch":
            return shape
        if self.given == "image":
            return shape[1:]
        return shape[1:-1] if self.channels_last else shape[2:]

    def given_weight(self):
        return self.kernel if self.given == "plane" else self.w_shape

    def full_image(self, array):
        """A view of the caller's x or y with all axes."""
        if self.given == "batch":
            return array
        if self.given == "image":
            return array[None]
        return array[None, ..., None] if self.channels_last else array[None, None]

    def full_weight(self, array):
        if self.given != "plane":
            return array
        return array[..., None, None] if self.channels_last else array[None, None]


# ---- Scalars and tuples ---------------------------------------------------------------------------------------------


def shown(value):
    """A short repr for messages, whatever the value."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    try:
        return reprlib.repr(value)
    except Exception:
        return f"an object of type {type(value).__name__}"


def is_from_signal(error):
    """Whether a signal handler raised it, while an argument was read: then it is not about the argument."""
    handlers = {getattr(getattr(signal.getsignal(number), "__func__", signal.getsignal(number)), "__code__", None)
                for number in signal.valid_signals()}  # fmt: skip
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def integer(name, value, least=1, most=LARGEST_EXTENT):
    """`value` as a Python int in least..most.  NumPy integers are integers; bools, floats and strings are not."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    try:
        number = operator.index(value)
    except Exception as error:
        if is_from_signal(error):
            raise
        raise TypeError(f"{name} must be an integer, not {shown(value)}") from error
    if number < least:
        raise ValueError(f"{name} is {number}, but must be at least {least}")
    if number > most:
        raise ValueError(f"{name} is {shown(number)}, which is too large: at most {most}")
    return number


def fraction(name, value, may_be_zero=False):
    """`value` as a float between 0 and 1; 1 itself is too large."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, not {shown(value)}")
    if not (0 <= value < 1) or value == 0 and not may_be_zero:
        raise ValueError(f"{name} is {shown(value)}, but must be {'at least' if may_be_zero else 'above'} 0 and below 1")
    return float(value)


def _is_listed(value):
    """Whether value is a sequence of entries (and not a word, a scalar or a mapping)."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview))


def per_axis(name, value, axes, least=1):
    """One integer for all axes of space, or one for each."""
    if not _is_listed(value):
        return (integer(name, value, least),) * axes
    if len(value) != axes:
        raise ValueError(f"{name} must be an integer or {axes} integers, one for each axis of space; got {shown(value)}")
    return tuple(integer(f"{name}[{axis}]", entry, least) for axis, entry in enumerate(value))


def _stride_per_axis(value, axes):
    try:
        return per_axis("stride", value, axes)
    except (TypeError, ValueError) as error:
        if _is_listed(value) and (isinstance(value, np.ndarray) or len(value) != axes):
            # PyTorch's third argument is the bias, so that is what an array here most likely is.
            raise type(error)(f"{error}. If this is a bias, pass it as bias=...: the third argument is the stride") from None
        raise


def shape(name, value, ranks):
    """A tuple of non-negative integers, of a length in `ranks`."""
    if not _is_listed(value):
        raise TypeError(f"{name} must be a tuple of integers, not {shown(value)}")
    if len(value) not in ranks:  # before its content is looked at: a range may be as long as it likes
        wanted = " or ".join(str(rank) for rank in ranks)
        raise ValueError(f"{name} is {shown(value)}: {len(value)} axes, but {wanted} are needed")
    return tuple(integer(f"{name}[{axis}]", entry, 0) for axis, entry in enumerate(value))


def layout_is_last(layout):
    """Whether the layout is NHWC; an error for anything but the two words."""
    if not isinstance(layout, str):
        raise TypeError(f"layout must be 'NCHW' or 'NHWC', not {shown(layout)}")
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {shown(layout)}, but must be 'NCHW' or 'NHWC'")
    return layout == "NHWC"


def check_elements(name, shape):
    """Refuses what no memory can hold.  Axes of size zero do not excuse the others, as in NumPy."""
    if math.prod(max(1, size) for size in shape) > MOST_ELEMENTS:
        raise ValueError(f"{name} would have shape {shape}: more elements than fit into memory")


# ---- Padding and output size (Eq. 5-7) ------------------------------------------------------------------------------


def _pads(pad, axes):
    """pad as a word, or as a (before, after) for each axis."""
    if isinstance(pad, str):
        if pad not in PAD_WORDS:
            raise ValueError(f"pad is {shown(pad)}, but must be a number, pairs of numbers, or one of {', '.join(PAD_WORDS)}")
        return pad
    if not _is_listed(pad):
        return ((integer("pad", pad, 0),) * 2,) * axes
    if len(pad) == 2 * axes and not any(_is_listed(entry) for entry in pad):
        nested = tuple((pad[2 * axis], pad[2 * axis + 1]) for axis in range(axes))
        raise ValueError(
            f"pad is the flat {shown(tuple(pad))}, and libraries disagree on the order of its entries: "
            f"write ((top, bottom), (left, right)), for instance {shown(nested)}"
        )
    if len(pad) != axes:
        raise ValueError(f"pad must be one number or {axes} entries, one for each axis of space; got {shown(pad)}")
    pairs = []
    for axis, entry in enumerate(pad):
        if not _is_listed(entry):
            pairs.append((integer(f"pad[{axis}]", entry, 0),) * 2)
        elif len(entry) == 2:
            pairs.append(tuple(integer(f"pad[{axis}][{side}]", entry[side], 0) for side in range(2)))
        else:
            raise ValueError(f"pad[{axis}] must be a number or (before, after), not {shown(entry)}")
    return tuple(pairs)


def _word_pads(word, size, kernel, stride, dilation):
    """What a padding word means on one axis.  `span` is the kernel with its dilation."""
    span = dilation * (kernel - 1) + 1
    if word == "valid":
        return 0, 0
    if word == "half":  # keeps the size for an odd span and stride 1
        return span // 2, span // 2
    if word == "full":  # every overlap of at least one element
        return span - 1, span - 1
    # "same" as in ONNX and TensorFlow: ceil(size / stride) outputs; an odd zero goes behind (upper) or before (lower).
    total = max((-(-size // stride) - 1) * stride + span - size, 0)
    less, more = total // 2, total - total // 2
    return (more, less) if word == "same_lower" else (less, more)


def _output_size(name, size, kernel, stride, dilation, pad):
    """Eq. 5-7: floor((size + pads - dilation*(kernel - 1) - 1) / stride) + 1, at least 1."""
    span = dilation * (kernel - 1) + 1
    padded = size + pad[0] + pad[1]
    if max(span, padded) > LARGEST_EXTENT:
        raise ValueError(f"{name}: a kernel span of {span} over a padded size of {padded} is too large")
    if span > padded:
        raise ValueError(
            f"the output {name} would be below 1: the kernel spans {span} (size {kernel}, dilation {dilation}), "
            f"but x has only {size} + padding {pad[0]} + {pad[1]} = {padded}"
        )
    return (padded - span) // stride + 1


def check_rank(name, shape, is_last):
    """x has two to four axes: a plane, an image with channels, or a batch of them."""
    if len(shape) not in (2, 3, 4):
        wanted = "(N, H, W, C), (H, W, C) or (H, W)" if is_last else "(N, C, H, W), (C, H, W) or (H, W)"
        raise ValueError(f"{name} has {len(shape)} axes {shape}, but must be {wanted}")


def resolve(x_shape, w_shape, stride, pad, dilation, groups, layout, x_name="x", w_name="w"):
    """The geometry of a convolution of shapes, or a ValueError or TypeError that names what does not fit.

    Parameters
    ----------
    x_shape, w_shape : tuple of int
        As the caller has them: (N,C,H,W) or (C,H,W) with (F,C/G,KH,KW), or (H,W) with (KH,KW); NHWC likewise.
    x_name, w_name : str
        What to call them in messages.
    """
    axes = 2
    is_last = layout_is_last(layout)
    stride = _stride_per_axis(stride, axes)
    dilation = per_axis("dilation", dilation, axes)
    pad = _pads(pad, axes)
    groups = integer("groups", groups)

    check_rank(x_name, x_shape, is_last)
    given = ("plane", "image", "batch")[len(x_shape) - axes]
    w_axes = axes if given == "plane" else axes + 2
    if len(w_shape) != w_axes:
        wanted = "(KH, KW)" if given == "plane" else "(KH, KW, C/groups, F)" if is_last else "(F, C/groups, KH, KW)"
        raise ValueError(f"{w_name} has {len(w_shape)} axes {w_shape}, but {x_name} of shape {x_shape} needs {wanted}")
    if given == "plane":
        batch, channels, image = 1, 1, x_shape
        filters, group_channels, kernel = 1, 1, w_shape
    else:
        batch, *rest = x_shape if given == "batch" else (1, *x_shape)
        channels, image = (rest[-1], tuple(rest[:-1])) if is_last else (rest[0], tuple(rest[1:]))
        if is_last:
            *kernel, group_channels, filters = w_shape
        else:
            filters, group_channels, *kernel = w_shape
        kernel = tuple(kernel)

    if channels < 1:
        raise ValueError(f"{x_name} has {channels} channels (shape {x_shape}, layout {layout}), but needs at least 1")
    if filters < 1:
        raise ValueError(f"{w_name} has {filters} filters (shape {w_shape}, layout {layout}), but needs at least 1")
    if group_channels * groups != channels:
        raise ValueError(
            f"{w_name} has {group_channels} input channels x {groups} groups = {group_channels * groups}, "
            f"but {x_name} has {channels} (layout {layout})"
        )
    if filters % groups:
        raise ValueError(f"{w_name} has {filters} filters, which {groups} groups do not divide")
    names = _AXIS_NAMES[axes]
    for name, size in zip(names, kernel, strict=True):
        if size < 1:
            raise ValueError(f"{w_name} has a kernel {name} of {size} (shape {w_shape}), but needs at least 1")

    if isinstance(pad, str):
        pad = tuple(_word_pads(pad, *sizes) for sizes in zip(image, kernel, stride, dilation, strict=True))
    output = tuple(map(_output_size, names, image, kernel, stride, dilation, pad))
    geometry = Geometry(
        batch, channels, filters, groups, tuple(image), kernel, output, stride, dilation, pad, is_last, given
    )
    check_elements(x_name, geometry.x_shape)
    check_elements(w_name, geometry.w_shape)
    check_elements("the result", geometry.y_shape)
    return geometry


# ---- Arrays ---------------------------------------------------------------------------------------------------------


def operand(name, value):
    """`value` as an ndarray of a type that can be convolved.  Converted once: later changes of it are not seen."""
    if type(value) is not np.ndarray:
        _refuse_subclass(name, value)
        try:
            value = np.asarray(value)
        except MemoryError:
            raise
        except Exception as error:
            if is_from_signal(error):
                raise
            kind = ValueError if isinstance(error, ValueError) else TypeError
            raise kind(f"{name} cannot be made an array: {shown(error)}") from error
    check_dtype(name, value.dtype)
    return value


def _refuse_subclass(name, value):
    if isinstance(value, (np.ma.MaskedArray, np.matrix)):
        raise TypeError(f"{name} is a {type(value).__name__}, whose meaning would be lost: pass an ndarray")


def check_dtype(name, dtype):
    if dtype.char not in "?bhilqBHILQefdFD":
        raise TypeError(
            f"{name} has dtype {dtype}; it must be bool, an integer, float16, float32, float64, complex64 or complex128"
        )


def result_dtypes(*dtypes):
    """(type to compute in, type of the result), both native.

    Floats and complex promote as NumPy does; float16 is computed in float32 and rounded once.  Integers accumulate
    exactly: 8 and 16 bits and bool in int32, wider ones in int64.
    """
    if all(dtype.kind in "biu" for dtype in dtypes):
        accumulator = np.dtype(np.int32 if max(dtype.itemsize for dtype in dtypes) <= 2 else np.int64)
        return accumulator, accumulator
    result = np.result_type(*dtypes)
    return (np.dtype(np.float32), result) if result == np.float16 else (result, result)


# Elements that NumPy moves or looks at in one go: some milliseconds, and between two goes Python looks for Ctrl-C.
PIECE = 1 << 20


def blocks(shape):
    """Indices of parts of at most PIECE elements, along the first axes, that cover an array of this shape."""
    if math.prod(shape) <= PIECE:
        yield ()
    elif step := PIECE // math.prod(shape[1:]):
        yield from ((slice(begin, begin + step),) for begin in range(0, shape[0], step))
    else:
        yield from ((first, *rest) for first in range(shape[0]) for rest in blocks(shape[1:]))


def move(source, to):
    """Copies, in blocks."""
    for block in blocks(source.shape):
        to[block] = source[block]
    return to


def copied(array, dtype, order="K"):
    """A copy in a native type, made in blocks."""
    return move(array, np.empty_like(array, dtype=dtype.newbyteorder("="), order=order, subok=False))


def once(array):
    """A view with one element along axes of stride 0, however long they are: all are the same."""
    return array[tuple(slice(0, 1) if step == 0 else slice(None) for step in array.strides)]


def extremes(array):
    """The least and the largest of an array of integers that is not empty."""
    array = once(array)
    found = [(int(array[block].min()), int(array[block].max())) for block in blocks(array.shape)]
    return min(low for low, _ in found), max(high for _, high in found)


def converted(name, array, dtype):
    """`array` in `dtype`, native, aligned, with strides of whole elements: itself if it is so already."""
    if array.dtype == dtype and is_regular(array):
        return array
    if dtype.kind == "i" and array.dtype.kind == "u" and array.dtype.itemsize >= dtype.itemsize and array.size:
        largest = extremes(array)[1]
        if largest > np.iinfo(dtype).max:
            raise OverflowError(f"{name} holds {largest}, which does not fit into {dtype}")
    return np.broadcast_to(copied(once(array), dtype), array.shape)


def is_regular(array):
    """Whether the core can read the array where it is."""
    return array.flags.aligned and array.dtype.isnative and not any(step % array.itemsize for step in array.strides)


def check_out(out, shape, dtype, **inputs):
    """`out`, if the result may be written to it."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an ndarray, not {shown(out)}")
    _refuse_subclass("out", out)
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}, but the result has {shape}")
    if out.dtype != dtype:
        raise ValueError(f"out has dtype {out.dtype}, but the result has {dtype}")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    if overlaps_itself(out):
        raise ValueError(f"out overlaps itself: its strides are {out.strides} for shape {out.shape}")
    for name, array in inputs.items():
        if array is not None and overlap(out, array):
            raise ValueError(f"out overlaps {name} in memory")
    return out


def overlaps_itself(array):
    """Whether two of its elements share memory; when that is too hard to tell, yes."""
    if array.flags.c_contiguous:  # as is every array without elements
        return False
    # Axes sorted by stride, each beyond the reach of those before it: every array that is made without stride tricks.
    reach = array.itemsize
    for step, size in sorted((abs(step), size) for step, size in zip(array.strides, array.shape, strict=True) if size > 1):
        if step < reach:
            break
        reach = step * (size - 1) + reach
    else:
        return False
    # Two elements that meet differ first on some axis; moved along it and those before, one of them is at 0.
    while array.ndim:
        if overlap(array[:1], array[1:]):
            return True
        array = array[0]
    return False


def overlap(a, b):
    """Whether the arrays share an element; when that is too hard to tell, yes."""
    try:
        return np.shares_memory(a, b, max_work=1000)
    except np.exceptions.TooHardError:
        return True
