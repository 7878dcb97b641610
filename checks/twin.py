"""What a call must give: the slow twin (im2colx/_reference.py) on exact numbers, once for each question."""

import functools
import math

import numpy as np
from arrays import logical

from im2colx import _reference as reference

# In which the twin computes: nothing is rounded, and no BLAS leaves a product with zero out.
EXACT = {"complex": np.complex128, "special": np.longdouble, "normal": np.float64}


def exact(values):
    kind = "extreme" if values.kind.startswith("extreme") else values.kind
    return logical(values, object if kind == "extreme" else EXACT.get(kind, np.int64))


def summed(*dtypes):
    """The documented dtype of a result: what small and large integers are summed in, else what NumPy promotes to."""
    dtypes = [np.dtype(dtype).newbyteorder("=") for dtype in dtypes]
    if all(dtype.kind in "biu" for dtype in dtypes):
        return np.dtype(np.int32 if max(dtype.itemsize for dtype in dtypes) <= 2 else np.int64)
    return np.result_type(*dtypes)


def _remembered(function):
    return functools.lru_cache(maxsize=64)(function)


def _quiet(function):
    @functools.wraps(function)
    def call(*arguments):
        with np.errstate(all="ignore"):
            return function(*arguments)

    return call


def _arguments(scene):
    return scene.case.geometry


@_remembered
@_quiet
def forward(x, w, scene):
    """y with all axes, without bias."""
    if not scene.case.n:  # NumPy cannot tell the last size of nothing
        case = scene.case
        return np.zeros((0, case.f, *scene.output) if scene.layout == "NCHW" else (0, *scene.output, case.f), exact(x).dtype)
    return reference.conv2d(scene.full_image(exact(x)), scene.full_weight(exact(w)), *_arguments(scene), None, scene.layout)


@_remembered
@_quiet
def grad_input(y, w, scene):
    shape = scene.case.x_shape(scene.layout)
    return reference.conv2d_grad_input(
        scene.full_image(exact(y)), scene.full_weight(exact(w)), shape, *_arguments(scene), scene.layout
    )


@_remembered
@_quiet
def grad_weight(x, y, scene):
    shape = scene.case.w_shape(scene.layout)
    return reference.conv2d_grad_weight(
        scene.full_image(exact(x)), scene.full_image(exact(y)), shape, *_arguments(scene), scene.layout
    )


@_remembered
def phi(x, scene):
    stride, pad, dilation, _ = _arguments(scene)
    return reference.im2col(scene.full_image(exact(x)), scene.case.kernel, stride, pad, dilation, scene.layout)


@_remembered
@_quiet
def col2im(patches, scene):
    stride, pad, dilation, _ = _arguments(scene)
    shape = scene.case.x_shape(scene.layout)
    return reference.col2im(exact(patches), shape, scene.case.kernel, stride, pad, dilation, scene.layout)


@_quiet
def gram(x, scene):
    rows = phi(x, scene)
    return rows.conj().T @ rows


@_quiet
def product(a, b):
    return a @ b


@_remembered
def matrix(w, scene, circular=False):
    """The matrix of the convolution of one image."""
    shape = (1, *scene.case.x_shape(scene.layout)[1:])
    return reference.conv_matrix(scene.full_weight(exact(w)), shape, *_arguments(scene), scene.layout, circular)


def entry(scene, p, q):
    """Eq. 8 for one entry, in Python's integers: (n, c, i, j), or None in the padding."""
    case, (oh, ow) = scene.case, scene.output
    taps = math.prod(case.kernel)
    n, r = divmod(p, oh * ow)
    c, tap = divmod(q, taps) if scene.layout == "NCHW" else divmod(q, case.c)[::-1]
    place = []
    for axis, (o, k) in enumerate(zip(divmod(r, ow), divmod(tap, case.kernel[1]), strict=True)):
        place.append(o * case.stride[axis] + k * case.dilation[axis] - case.pad[axis][0])
    return (n, c, *place) if 0 <= place[0] < case.h and 0 <= place[1] < case.w else None


# ---- Comparing ------------------------------------------------------------------------------------------------------


def differs(result, wanted, dtype, scalar=False):
    """What is wrong with a result that must equal `wanted` in every element, nan with nan; None if nothing is."""
    if scalar:
        if not isinstance(result, np.generic):
            return f"is a {type(result).__name__}, not a NumPy scalar"
    elif type(result) is not np.ndarray:
        return f"is a {type(result).__name__}, not an ndarray"
    if result.shape != wanted.shape:
        return f"has shape {result.shape}, but must have {wanted.shape}"
    if result.dtype != dtype:
        return f"has dtype {result.dtype}, but must have {dtype}"
    if overflows(wanted, dtype):
        return f"was returned, but {wanted.min()} to {wanted.max()} do not fit into {dtype}"
    with np.errstate(all="ignore"):
        right = wanted.astype(dtype)
        equal = result == right
        if equal.all():
            return None
        if result.dtype.kind in "fc":
            equal = equal | (np.isnan(result) & np.isnan(right))
            if equal.all():
                return None
    at = tuple(int(i) for i in np.argwhere(~np.asarray(equal))[0])
    count = int(equal.size - np.count_nonzero(equal))
    return f"at {at} is {result[at]!r}, but must be {right[at]!r}; {count} of {equal.size} elements differ"


def near(result, wanted, tolerance, terms):
    """As `differs`, for floats that are rounded: by `tolerance` of the largest, and as sums of `terms`, which may cancel, are."""
    result, wanted = np.asarray(result), np.asarray(wanted)
    if result.shape != wanted.shape:
        return f"has shape {result.shape}, but must have {wanted.shape}"
    worst = np.abs(result - wanted).max(initial=0)
    if not worst <= tolerance * np.abs(wanted).max(initial=0) + 16 * np.finfo(float).eps * np.abs(terms).sum():
        return f"is {result}, but must be {wanted}"
    return None


def overflows(wanted, dtype):
    """Whether an integer result does not fit into its type, so that OverflowError is right."""
    if dtype.kind != "i" or wanted.dtype.kind != "O" or not wanted.size:
        return False
    limits = np.iinfo(dtype)
    return wanted.min() < limits.min or wanted.max() > limits.max
