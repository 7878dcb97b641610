"""The methods: an ordered table of what each is, what it declines and why, and what it costs.

A row is all there is to a method outside the C core.  `conv2d`, the tests, the benchmarks and `info()` ask this table;
nobody keeps a second list.  To add a method: a body in csrc, a kind in `_core.Problem`, a row here.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from im2colx import _blas, _core, _isa  # noqa: F401  _isa: lowers the instruction set before the first estimate
from im2colx._geometry import resolve, result_dtypes, shown

# Beyond this many bytes an allocation cannot succeed on today's machines, and sizes in the core would overflow.
MOST_BYTES = 2**47

# Bytes of the tiles of one call, all threads together, unless `workspace` says otherwise.
DEFAULT_WORKSPACE = 4 << 20


class Method(NamedTuple):
    """A row of the table.

    `declines(op, geometry, typecode, workspace)` tells why the method cannot take a call, or None.  `seconds(op, geometry,
    typecode)` estimates one thread's time; only the order of the estimates matters.  A thread more is worth waking for
    every `grain` multiply-adds.
    """

    name: str
    kind: str  # of _core.Problem
    summary: str
    grain: int
    is_blas: bool
    declines: Callable
    seconds: Callable


def phi_nbytes(geometry, typecode):
    """Bytes of the whole patch matrix."""
    return geometry.rows * geometry.columns * geometry.groups * np.dtype(typecode).itemsize


def loop_steps(op, geometry):
    """Innermost steps of the direct loops: multiply-adds, but grad_input looks at every tap of every element of x."""
    if op == "grad_input":
        return math.prod(geometry.x_shape) * geometry.taps * (geometry.filters // geometry.groups)
    return geometry.multiply_adds


def _never(op, geometry, typecode, workspace):
    return None


@functools.lru_cache(maxsize=64)
def _implicit_facts(op, geometry, typecode):
    """What one thread of "implicit" would do, as C tells it."""
    return _core.Problem(geometry, op, typecode, "implicit", 0, 1).explain()


def _implicit_declines(op, geometry, typecode, workspace):
    if typecode not in ("f4", "f8"):
        return "its microkernels are for float32 and float64"
    facts = _implicit_facts(op, geometry, typecode)
    if facts["is_too_many"]:
        return "the stride cuts x into more phases, each a convolution of its own, than it pays to begin"
    size = facts["workspace_nbytes"]
    if size > _core.IMPLICIT_BYTES:
        return f"a thread of it needs {size:,} bytes, more than the {_core.IMPLICIT_BYTES:,} that it may take"
    if workspace is not None and size > workspace:
        return f"a thread of it needs {size:,} bytes, more than workspace={workspace:,}"
    return None


def _too_large_for_blas(op, geometry, typecode, workspace):
    if typecode[0] == "i":  # our own product
        return None
    names = {"outputs": geometry.outputs, "columns": geometry.columns, "filters": geometry.filters}
    name = max(names, key=names.get)
    if names[name] > _blas.LARGEST_SIZE:
        return f"{names[name]} {name} exceed the {_blas.INTEGER_BITS}-bit integers of SciPy's BLAS"
    return None


def _whole_phi_declines(op, geometry, typecode, workspace):
    size = phi_nbytes(geometry, typecode)
    if size > MOST_BYTES:
        return f"the patch matrix would have {size:,} bytes"
    if workspace is not None and size > workspace:
        return f"the patch matrix has {size:,} bytes, more than workspace={workspace:,}"
    return _too_large_for_blas(op, geometry, typecode, workspace)


# The estimates: nanoseconds measured on one core of a Zen 5 at 4 GHz, NumPy 2.4 and SciPy 1.17 with OpenBLAS 0.3.30.
# A multiply-add of the direct loops waits for the one before it; BLAS does 40-100 a nanosecond, less for a type twice
# as large; an element of Phi takes 0.1 to 0.3 ns to gather, and as much again to go to memory and back when Phi is whole.
# The implicit method counts its own vector instructions (csrc/implicit.c).


# What BLAS reaches on other machines, as a share: its vectors are as wide as the machine's.  It follows the machine, not
# IM2COLX_ISA.
_BLAS_SHARE = {"avx512": 1.0, "avx2": 0.55, "neon": 0.25, "sse2": 0.25}


def _loop_seconds(op, geometry, typecode):
    return (300 + 1.5 * loop_steps(op, geometry)) * 1e-9


def _tile_seconds(op, geometry, typecode):
    rate = {"f4": 60.0, "f8": 30.0, "c8": 15.0, "c16": 7.0, "i4": 2.0, "i8": 1.0}[typecode]
    if typecode[0] != "i":
        rate *= _BLAS_SHARE.get(_core.instruction_sets()[-1], 0.15)
    elements = geometry.rows * geometry.columns * geometry.groups
    products = max(1, geometry.batch) * geometry.groups
    # Besides: grad_input begins with zeros in x; grad_weight turns y round, which BLAS packs image by image.
    moved = {"forward": 0, "grad_input": 0.125 * math.prod(geometry.x_shape), "grad_weight": 0.25 * math.prod(geometry.y_shape)}
    return (500 + 400 * products + geometry.multiply_adds / rate + 0.25 * elements + moved[op]) * 1e-9


def _whole_seconds(op, geometry, typecode):
    return _tile_seconds(op, geometry, typecode) + 0.05e-9 * phi_nbytes(geometry, typecode)


def _implicit_seconds(op, geometry, typecode):
    return (300 + 0.25 * _implicit_facts(op, geometry, typecode)["cycles"]) * 1e-9


METHODS = (
    Method(
        "implicit",
        "implicit",
        "no patch matrix and no BLAS: our own microkernels read x through the index map",
        500_000,
        False,
        _implicit_declines,
        _implicit_seconds,
    ),
    Method(
        "indexed",
        "tile",
        "blocks of the patch matrix gathered by the index map (Eq. 8) into a bounded tile, each fed to BLAS",
        500_000,
        True,
        _too_large_for_blas,
        _tile_seconds,
    ),
    Method(
        "im2col",
        "whole",
        "the whole patch matrix (Algorithm 1) in memory, then BLAS",
        500_000,
        True,
        _whole_phi_declines,
        _whole_seconds,
    ),
    Method("naive", "loops", "the direct loops: the definition, and the baseline", 20_000, False, _never, _loop_seconds),
)
_BY_NAME = {method.name: method for method in METHODS}
_core._METHOD_CODES.update({name: code for code, name in enumerate(["auto", *_BY_NAME])})


def methods():
    """The names that the argument `method` takes.

    Returns
    -------
    tuple of str
        "auto" first, then every method by itself.

    Examples
    --------
    >>> import im2colx
    >>> im2colx.methods()
    ('auto', 'implicit', 'indexed', 'im2col', 'naive')
    """
    return ("auto", *_BY_NAME)


def methods_for(*dtypes):
    """The names of `methods` that take arrays of these types."""
    typecode = result_dtypes(*map(np.dtype, dtypes))[0].str[1:]
    pixel = resolve((1, 1, 1, 1), (1, 1, 1, 1), 1, 0, 1, 1, "NCHW")
    return ("auto", *(row.name for row in METHODS if row.declines("forward", pixel, typecode, None) is None))


def check_method(method):
    if not isinstance(method, str):
        raise TypeError(f"method must be a string, not {shown(method)}")
    if method not in methods():
        raise ValueError(f"method is {shown(method)}, but must be one of {', '.join(methods())}")


PRECISIONS = ("exact", "standard", "fast")


def check_precision(precision):
    if not isinstance(precision, str):
        raise TypeError(f"precision must be a string, not {shown(precision)}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {shown(precision)}, but must be one of {', '.join(PRECISIONS)}")


def choose(method, op, geometry, typecode, workspace):
    """The row for `method`, and what was found out about every row.

    Returns
    -------
    method : Method
    findings : dict
        name → why it was declined or not considered, or its estimate.

    Raises
    ------
    ValueError
        If the method that was asked for declines.
    """
    reasons = {row.name: row.declines(op, geometry, typecode, workspace) for row in METHODS}
    if method != "auto":
        if reasons[method] is not None:
            raise ValueError(f"method {method!r} cannot take this call: {reasons[method]}")
        return _BY_NAME[method], {
            name: "asked for" if name == method else reason or "not asked for" for name, reason in reasons.items()
        }
    able = [row for row in METHODS if reasons[row.name] is None]
    seconds = {row.name: row.seconds(op, geometry, typecode) for row in able}
    for name, value in seconds.items():
        reasons[name] = f"about {value * 1e6:,.1f} µs on one thread, by the estimate of im2colx/_methods.py"
    return min(able, key=lambda row: seconds[row.name]), reasons
