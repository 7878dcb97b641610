"""From checked arguments to a result: recipes (cached), their execution, and Plan."""

import functools
from typing import NamedTuple

import numpy as np

from im2colx import _blas, _core
from im2colx._geometry import (
    Geometry,
    check_dtype,
    check_out,
    converted,
    copied,
    extremes,
    integer,
    is_from_signal,
    is_regular,
    move,
    operand,
    resolve,
    result_dtypes,
    shape,
    shown,
)
from im2colx._methods import DEFAULT_WORKSPACE, Method, check_method, check_precision, choose, loop_steps
from im2colx._threads import resolve_threads

# What an operation writes, and what it reads.
_TARGET = {"forward": "y", "grad_input": "x", "grad_weight": "w"}
_INT64_MAX, _INT128_SAFE = 2**63 - 1, 2**126


class Recipe(NamedTuple):
    """How one operation on one geometry and type is done: found once, then cached."""

    op: str
    geometry: Geometry
    method: Method
    findings: dict
    threads: int
    problem: _core.Problem


# A recipe is about a kilobyte; least recently used ones go.
@functools.lru_cache(maxsize=256)
def recipe(op, geometry, typecode, method, workspace, threads, precision="standard"):
    """The recipe for arrays of `typecode` ("f4", "f8", "c8", "c16", "i4", "i8"; "wide" for checked int64).

    Whatever decides a result is an argument here, and so part of the key; a recipe never changes.
    """
    if typecode == "wide":
        chosen, findings = choose("naive", op, geometry, "i8", workspace)
    else:
        chosen, findings = choose(method, op, geometry, typecode, workspace)
    work = loop_steps(op, geometry) if chosen.kind == "loops" else geometry.multiply_adds
    threads = max(1, min(threads, work // chosen.grain))
    if chosen.is_blas and typecode[0] != "i" and not _blas.CONTROLS_THREADS:
        threads = 1  # this BLAS starts threads of its own, and cannot be told not to
    tile = DEFAULT_WORKSPACE if workspace is None else workspace
    problem = _core.Problem(geometry, op, typecode, chosen.kind, tile, threads, work)
    while chosen.kind == "implicit" and workspace is not None and threads > 1 and problem.workspace_nbytes() > workspace:
        threads -= 1  # each has a copy of rows of its own; the method has declined if one is too many
        problem = _core.Problem(geometry, op, typecode, chosen.kind, tile, threads, work)
    return Recipe(op, geometry, chosen, findings, threads, problem)


def check_workspace(workspace, itemsize):
    """`workspace` in bytes; at least one element must fit."""
    return None if workspace is None else integer("workspace", workspace, itemsize)


def check_bias(bias, geometry):
    """`bias` as an array of one number a filter, or None."""
    if bias is None:
        return None
    bias = operand("bias", bias)
    if geometry.given == "plane" and bias.ndim == 0:
        bias = bias.reshape(1)
    if bias.shape != (geometry.filters,):
        raise ValueError(f"bias has shape {bias.shape}, but must be ({geometry.filters},): one number for each filter of w")
    return bias


# ---- Exact integers -------------------------------------------------------------------------------------------------


def _magnitude(array):
    """The largest absolute value that an integer or bool array holds."""
    if array is None or array.size == 0:
        return 0
    low, high = extremes(array)
    return max(high, -low)


def _widest(array):
    """The largest absolute value that an array of this type can hold, or one more."""
    if array is None:
        return 0
    return 1 if array.dtype.kind == "b" else 2 ** (8 * array.itemsize - (array.dtype.kind == "i"))


def _typecode_for(bound_of_types, bound_of_values, accumulator):
    """The type whose sums cannot wrap: the accumulator, or the next wider one.  `bound_of_values()` reads the arrays."""
    limit = np.iinfo(accumulator).max
    if bound_of_types <= limit:
        return accumulator.str[1:]
    bound = bound_of_values()
    if bound <= limit:
        return accumulator.str[1:]
    if bound <= _INT64_MAX:
        return "i8"
    if bound < _INT128_SAFE:
        return "wide"
    raise OverflowError(f"sums may reach {bound}, more than 128 bits hold")


def _product_typecode(op, geometry, a, b, bias, accumulator):
    """For sums of products of the entries of two arrays, plus a bias."""
    terms = {
        "forward": geometry.columns,
        "grad_input": geometry.filters // geometry.groups * geometry.taps,
        "grad_weight": geometry.rows,
    }[op]
    return _typecode_for(
        terms * _widest(a) * _widest(b) + _widest(bias),
        lambda: terms * _magnitude(a) * _magnitude(b) + _magnitude(bias),
        accumulator,
    )


def integer_sum_typecode(terms, array, accumulator):
    """For sums of `terms` entries of one array; there is no 128-bit path for those."""
    if terms == 1:  # no sum: what fits as an entry fits as a result
        return accumulator.str[1:]
    typecode = _typecode_for(terms * _widest(array), lambda: terms * _magnitude(array), accumulator)
    if typecode == "wide":
        raise OverflowError(f"sums of {terms} entries may reach {terms * _magnitude(array)}, more than int64 holds")
    return typecode


def integer_squares_typecode(terms, array, accumulator):
    """For sums of at most `terms` products of two entries of an array (C, N, H, W), each entry at most once a factor.

    By Cauchy-Schwarz no sum, and no part of it, is beyond the sum of squares of one channel.
    """

    def bound():
        squares = np.einsum("cnij,cnij->c", array, array, dtype=np.float64)  # each rounded by less than one in 10**6
        return min(terms * _magnitude(array) ** 2, int(1.000001 * squares.max()))

    typecode = _typecode_for(terms * _widest(array) ** 2, bound, accumulator)
    if typecode == "wide":
        raise OverflowError(f"sums of squares may reach {bound()}, more than int64 holds: pass floats")
    return typecode


def narrowed(array, dtype):
    """int64 sums as int32, or an OverflowError."""
    low, high = extremes(array)
    limits = np.iinfo(dtype)
    if low < limits.min or high > limits.max:
        worst = high if high > limits.max else low
        raise OverflowError(f"a result is {worst}, which does not fit into {dtype}: pass 32- or 64-bit integers")
    return copied(array, dtype)


# ---- Execution ------------------------------------------------------------------------------------------------------


def execute(
    op, geometry, x=None, w=None, y=None, bias=None, out=None, method="auto", workspace=None, threads=None,
    precision="standard", packed=None, problem=None,
):  # fmt: skip
    """Runs an operation on the caller's arrays (two of x, w, y) and returns the third, in the caller's shape.

    The arrays have been checked against the geometry; what is checked here is what depends on their types.  `packed` is w
    as a problem packed it, and `problem` the one to run instead of the recipe's: those of a plan.
    """
    check_method(method)
    threads = resolve_threads(threads)
    inputs = {name: array for name, array in (("x", x), ("w", w), ("y", y)) if array is not None}
    names = {"x": "x", "w": "w", "y": "grad_y"}
    compute, result = result_dtypes(*(a.dtype for a in (*inputs.values(), bias) if a is not None))
    workspace = check_workspace(workspace, compute.itemsize)
    target = _TARGET[op]
    target_shape = getattr(geometry, f"{target}_shape")
    given_shape = geometry.given_weight() if target == "w" else geometry.given_image(target_shape)
    if out is not None:
        check_out(out, given_shape, result, **{names[name]: array for name, array in inputs.items()}, bias=bias)
    # Before anything is converted or allocated: what the method declines.
    steps = recipe(op, geometry, compute.str[1:], method, workspace, threads, precision)

    typecode, dtype = compute.str[1:], compute
    if geometry.batch and compute.kind == "i":
        typecode = _product_typecode(op, geometry, *inputs.values(), bias, compute)
        if typecode != compute.str[1:]:
            dtype = np.dtype(np.int64)
            steps = recipe(op, geometry, typecode, "naive" if typecode == "wide" else method, workspace, threads, precision)
    arrays = {name: converted(names[name], array, dtype) for name, array in inputs.items()}
    is_product = steps.method.kind in ("tile", "whole")
    for name in ("x", "w", "y"):
        if name in arrays:
            arrays[name] = geometry.full_weight(arrays[name]) if name == "w" else geometry.full_image(arrays[name])
            if is_product and name != "x" and not arrays[name].flags.c_contiguous:
                arrays[name] = copied(arrays[name], dtype, "C")
    if bias is not None:
        bias = np.ascontiguousarray(converted("bias", bias, dtype))

    # Not into `out` itself where an OverflowError may end the call: it is written whole or not at all.
    is_direct = out is not None and dtype == result and typecode != "wide" and is_regular(out) and out.flags.c_contiguous
    if is_direct:
        array = out.view(np.ndarray)
        array = geometry.full_weight(array) if target == "w" else geometry.full_image(array)
    else:
        array = np.empty(target_shape, dtype)
    if not geometry.batch:
        array.fill(0)
    arrays[target] = array
    if geometry.batch and array.size:
        (problem or steps.problem).run(arrays["x"], arrays["w"], arrays["y"], bias, packed)
        if dtype.kind == "i" and dtype != result:
            array = narrowed(array, result)
    if is_direct:
        return out
    array = array.reshape(given_shape)
    if out is None:
        return array if array.dtype == result else copied(array, result)
    return move(array, out)


# ---- Plan -----------------------------------------------------------------------------------------------------------


class Plan(_core.PreparedCall):
    """A convolution prepared for one shape and one set of weights: made by `plan_conv2d`, called like a function.

    ``plan(x, out=None)`` gives the convolution of `x`, an array of the plan's shape and dtype, as `conv2d` gives it;
    `out`, if given, must be of the result's shape and dtype, writeable, and not overlap `x`.  It raises ValueError for
    another shape or an unfit `out`, and TypeError for another dtype.

    Attributes
    ----------
    method : str
        The method that was chosen.
    workspace_nbytes : int
        Bytes that the method allocates in a call besides the result, for a contiguous `x` of the type that is computed in.
    nbytes : int
        Bytes that the plan itself holds: its own copy of the weights, packed too if the method wants that, and the bias.
    x_shape, y_shape : tuple of int
    dtype : dtype
        Of the `x` that it takes, in either byte order.
    """

    def __init__(self, geometry, w, bias, dtype, method, precision, threads):
        self._geometry = geometry
        self._dtype = dtype.newbyteorder("=")
        self._compute, self._result = result_dtypes(*(d for d in (dtype, w.dtype, bias.dtype if bias is not None else None) if d))
        # Integers keep their type: its range tells which sums are safe.
        self._w, self._bias = (
            None if array is None else copied(array, array.dtype if self._compute.kind == "i" else self._compute, "C")
            for array in (w, bias)
        )
        self._threads, self._precision = threads, precision
        self._recipe = recipe("forward", geometry, self._compute.str[1:], method, None, threads, precision)
        self._packed, problem = None, self._recipe.problem
        if self._recipe.method.kind == "implicit":
            w = geometry.full_weight(self._w)
            if problem.finite_weights(w):
                # A problem of its own: what is known of these weights is not known of others.
                problem = _core.Problem(
                    geometry, "forward", self._compute.str[1:], "implicit", 0, self._recipe.threads, is_finite=True
                )
            if problem.explain(True)["lanes"] == "filters":
                self._packed = problem.pack(w)
            else:
                problem = self._recipe.problem
        is_quick = geometry.given == "batch" and self._dtype == self._compute and self._compute.str[1:] in ("f4", "f8")
        self._problem = problem
        self.prepare(problem, self._w, self._bias, self._packed, is_quick)
        for array in (self._w, self._bias, self._packed):
            if array is not None:
                array.flags.writeable = False

    @property
    def method(self):
        return self._recipe.method.name

    @property
    def dtype(self):
        return self._dtype

    @property
    def x_shape(self):
        return self._geometry.given_image(self._geometry.x_shape)

    @property
    def y_shape(self):
        return self._geometry.given_image(self._geometry.y_shape)

    @property
    def workspace_nbytes(self):
        if not self._geometry.batch:
            return 0
        if self._recipe.method.kind == "implicit":
            return self._problem.explain(self._packed is not None)["workspace_nbytes"]
        return self._recipe.problem.workspace_nbytes()

    @property
    def nbytes(self):
        return sum(array.nbytes for array in (self._w, self._bias, self._packed) if array is not None)

    def long_call(self, x, out):
        """A call in full: every check, every error."""
        x = operand("x", x)
        if x.shape != self.x_shape:
            raise ValueError(f"x has shape {x.shape}, but the plan was made for {self.x_shape}")
        if x.dtype.newbyteorder("=") != self._dtype:
            raise TypeError(f"x has dtype {x.dtype}, but the plan was made for {self._dtype}")
        is_rounded = self._result != self._compute  # float16: computed in float32 from prepared weights
        if is_rounded and out is not None:
            check_out(out, self.y_shape, self._result, x=x)
        y = execute(
            "forward", self._geometry, x=x, w=self._w, bias=self._bias, out=None if is_rounded else out,
            method=self.method, threads=self._threads, precision=self._precision, packed=self._packed,
            problem=None if self._packed is None else self._problem,
        )  # fmt: skip
        if not is_rounded:
            return y
        if out is None:
            return copied(y, self._result)
        return move(y, out)

    def explain(self):
        """What the plan does and why, as text.

        Returns
        -------
        str
        """
        g = self._geometry
        lines = [
            f"conv2d of x {self.x_shape} with w {g.given_weight()} to {self.y_shape}, {self.dtype}",
            f"  stride {g.stride}, pad {g.pad}, dilation {g.dilation}, groups {g.groups}, "
            f"layout {'NHWC' if g.channels_last else 'NCHW'}",
            f"  patch matrix: {g.rows} x {g.columns}" + (f" for each of {g.groups} groups" if g.groups > 1 else ""),
            f"  multiply-adds: {g.multiply_adds:,}",
            f"  method: {self.method}, threads: {self._recipe.threads}, workspace: {self.workspace_nbytes:,} bytes, "
            f"weights held: {self.nbytes:,} bytes",
        ]
        if self._recipe.method.kind == "implicit":
            facts = self._problem.explain(self._packed is not None)
            rows = "rows of x copied with their padding" if facts["copies_rows"] else "x read where it lies"
            if facts["multiply_adds"] < g.multiply_adds:
                rows = "x copied" if facts["copies_rows"] else rows
                share = facts["multiply_adds"] / g.multiply_adds
                rows += f", the padding left out ({share:.1%} of the multiply-adds remain)"
            lines.append(
                f"    {facts['isa']} microkernel of {facts['rows']} x {facts['columns']}, {facts['lanes']} in lanes, {rows}, "
                f"{facts['tasks']} tasks"
            )
        lines += [f"    {name}: {finding}" for name, finding in self._recipe.findings.items()]
        return "\n".join(lines)

    def __repr__(self):
        return f"<Plan x {self.x_shape} {self.dtype} -> {self.y_shape}, method {self.method!r}>"


def plan_conv2d(
    x_shape, w, stride=1, pad=0, dilation=1, groups=1, *,
    bias=None, layout="NCHW", dtype=None, method="auto", precision="standard", threads=None,
):  # fmt: skip
    """Prepare a convolution for repeated use: arguments checked, method chosen and weights copied once.

    Parameters
    ----------
    x_shape : tuple of int
        Shape of the arrays that the plan will be called with.
    w : array_like
        The weights, as in `conv2d`.  Copied: later changes of `w` do not change the plan.
    stride, pad, dilation, groups, bias, layout, method, precision, threads
        As in `conv2d`.
    dtype : dtype, optional
        Of the arrays that the plan will be called with.  By default that of `w`.

    Returns
    -------
    Plan
        ``plan(x, out=None)`` gives what ``conv2d(x, w, ...)`` gives.

    Raises
    ------
    ValueError, TypeError
        As `conv2d`, at once.

    Examples
    --------
    >>> import numpy as np
    >>> import im2colx
    >>> w = np.ones((4, 3, 3, 3), np.float32)
    >>> plan = im2colx.plan_conv2d((1, 3, 8, 8), w, pad=1)
    >>> plan(np.ones((1, 3, 8, 8), np.float32)).shape
    (1, 4, 8, 8)
    >>> plan.y_shape
    (1, 4, 8, 8)
    """
    w = operand("w", w)
    geometry = resolve(shape("x_shape", x_shape, (2, 3, 4)), w.shape, stride, pad, dilation, groups, layout, "x_shape")
    bias = check_bias(bias, geometry)
    check_method(method)
    check_precision(precision)
    try:
        dtype = w.dtype if dtype is None else np.dtype(dtype)
    except Exception as error:
        if is_from_signal(error):
            raise
        raise TypeError(f"dtype must be a NumPy dtype, not {shown(dtype)}") from error
    check_dtype("x", dtype)
    return Plan(geometry, w, bias, dtype, method, precision, resolve_threads(threads))
