"""The C kernels that training uses: products with large weights, the optimizers' steps, the rectifier; and their memory.

The only module of `im2colx.nn` that goes past the public interface.  Threads are those of `im2colx.set_num_threads`, and no
result depends on how many they are.
"""

import math

import numpy as np

from im2colx import _core, get_num_threads

Pass = _core.Pass

PART = 1 << 17  # elements that are converted to a wider type at a time: 1 MB in float64, which stays in cache
LINE = 64  # bytes of a cache line, and of the longest vector: one that straddles two lines takes twice as long


def empty(shape, dtype, memory=np.empty):
    """An array with arbitrary contents that begins on a cache line (`numpy.empty` does not promise that)."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    block = memory(size + LINE, np.uint8)
    start = -block.ctypes.data % LINE
    return block[start : start + size].view(dtype).reshape(shape)


def copy(array):
    """A copy of `array` that begins on a cache line."""
    result = empty(array.shape, array.dtype)
    result[...] = array
    return result


def zeros(shape, dtype):
    """An array of zeros that begins on a cache line.  Its pages come when they are first used, where Ctrl-C is heard."""
    return empty(shape, dtype, np.zeros)


class Room:
    """Arrays that are asked for again and again, in memory that is allocated once, and again only for a larger one."""

    def __init__(self):
        self._arrays = {}

    def __reduce__(self):
        return Room, ()  # a copy, or what is pickled, begins empty: a copied array would not begin on a cache line

    def __call__(self, name, shape, dtype):
        """The array of that name, with arbitrary contents; the one handed out before under that name is overwritten."""
        size = math.prod(shape)
        array = self._arrays.get(name)
        if array is None or array.size < size or array.dtype != dtype:
            array = self._arrays[name] = empty((size,), dtype)
        return array[:size].reshape(shape)

    def workspace(self, size):
        return self("workspace", (size,), np.uint8)


class Product:
    """A gradient that is not computed yet: ``left @ right``, of an optimizer's choice whole or step by step.

    It is good until the next forward of the layer that made it.  `dtype` is that of the array that it is for.
    """

    def __init__(self, left, right, room, dtype):
        self.left, self.right, self.room = left, right, room
        self.shape, self.dtype = (left.shape[0], right.shape[1]), dtype

    def factors(self):
        """Both as they are stored: for `suits`."""
        return _stored(self.left), _stored(self.right)

    def into(self, out):
        """Compute it into `out`, which is returned."""
        return matmul(self.left, self.right, out, self.room)


def suits(*arrays):
    """Whether C takes these arrays: all of one dtype, float32 or float64, C-contiguous and aligned."""
    dtype = arrays[0].dtype
    return dtype in (np.float32, np.float64) and all(
        array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned for array in arrays)


def _stored(matrix):
    return matrix.T if matrix.flags.f_contiguous else matrix


def matmul(a, b, out, room=None):
    """out = a @ b, for matrices; C where it takes them, as it does all that the layers make, else NumPy.  Returns `out`."""
    if suits(_stored(a), _stored(b), out):
        _core.gemm(a, b, out, get_num_threads(), room=room and room.workspace)
    else:
        np.matmul(a, b, out=out)
    return out


def sum_in(dtype, gradient, a, b, out, room):
    """Write into `out` the sum of ``gradient(a, b, out)`` over the rows of a and b, computed in `dtype` and rounded once."""
    total = room("total", out.shape, dtype)
    total[...] = 0
    rows = max(1, PART // max(a[0].size, b[0].size)) if len(a) else 1
    for begin in range(0, len(a), rows):
        wide = []
        for name, array in (("wide a", a[begin : begin + rows]), ("wide b", b[begin : begin + rows])):
            wide.append(room(name, array.shape, dtype))
            wide[-1][...] = array
        part = room("part", out.shape, dtype)
        gradient(*wide, part)
        total += part
    out[...] = total


def step_along(gradient, step, out):
    """Change the arrays `out` by the pass `step`, which reads a gradient; a `Product` is never in memory as a whole.

    All of them suit C.
    """
    if isinstance(gradient, Product):
        room = gradient.room.workspace
        _core.gemm(gradient.left, gradient.right, out[0], get_num_threads(), step, tuple(out[1:]), room)
    else:
        step.run(gradient, tuple(out), get_num_threads())


_RELU, _RELU_GRADIENT = Pass("relu"), Pass("relu_gradient")


def relu(x, out):
    """out = max(x, 0); `out` may be x."""
    if suits(x, out):
        _RELU.run(x, (out,), get_num_threads())
    else:
        np.maximum(x, 0, out=out)


def relu_gradient(y, grad_y, out):
    """out = grad_y where y > 0, else 0; `out` may be grad_y."""
    if suits(y, grad_y, out):
        _RELU_GRADIENT.run(y, (out, grad_y), get_num_threads())
    else:
        np.copyto(out, np.where(y > 0, grad_y, 0))
