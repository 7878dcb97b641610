"""The C kernels that training uses: products with large weights, the optimizers' steps, the rectifier; and their memory.

The only module of `im2colx.nn` that goes past the public interface.  Threads are those of `im2colx.set_num_threads`, and no
result depends on how many they are.
"""

import math

import numpy as np

from im2colx import _core, get_num_threads

Pass = _core.Pass

LINE = 64  # bytes of a cache line, and of the longest vector: one that straddles two lines takes twice as long


def empty(shape, dtype):
    """An array with arbitrary contents that begins on a cache line (`numpy.empty` does not promise that)."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + size].view(dtype).reshape(shape)


def copy(array):
    """A copy of `array` that begins on a cache line."""
    result = empty(array.shape, array.dtype)
    result[...] = array
    return result


def zeros(shape, dtype):
    """An array of zeros that begins on a cache line."""
    result = empty(shape, dtype)
    result[...] = 0
    return result


class Room:
    """Arrays that are asked for again and again, in memory that is allocated once, and again only for a larger one."""

    def __init__(self):
        self._arrays = {}

    def __call__(self, name, shape, dtype):
        """The array of that name, with arbitrary contents; the one handed out before under that name is overwritten."""
        size = math.prod(shape)
        array = self._arrays.get(name)
        if array is None or array.size < size or array.dtype != dtype:
            array = self._arrays[name] = empty((size,), dtype)
        return array[:size].reshape(shape)

    def workspace(self, size):
        return self("workspace", (size,), np.uint8)


def suits(*arrays):
    """Whether C takes these arrays, which have one dtype, whole: C-contiguous, aligned, float32 or float64."""
    return all(array.dtype in (np.float32, np.float64) and array.dtype.isnative and array.flags.c_contiguous
               and array.flags.aligned for array in arrays)


def matmul(a, b, out, room=None):
    """out = a @ b, for matrices that are contiguous or transposed so; `out` is contiguous."""
    _core.gemm(a, b, out, get_num_threads(), room=room and room.workspace)


def step_along(a, b, step, out, room=None):
    """``step(a @ b, out)`` for matrices, where the product is never in memory as a whole."""
    _core.gemm(a, b, out[0], get_num_threads(), step, tuple(out[1:]), room and room.workspace)


def step_with(step, gradient, out):
    """Change the arrays `out` by the pass `step`, which reads `gradient`."""
    step.run(gradient, tuple(out), get_num_threads())


_RELU, _RELU_GRADIENT = Pass("relu"), Pass("relu_gradient")


def relu(x, out):
    """out = max(x, 0); `out` may be x."""
    _RELU.run(x, (out,), get_num_threads())


def relu_gradient(y, grad_y, out):
    """out = grad_y where y > 0, else 0; `out` may be grad_y."""
    _RELU_GRADIENT.run(y, (out, grad_y), get_num_threads())
