"""The only user of ``scipy.linalg.cython_blas``.

Three things are settled here and nowhere else.

*Order.*  BLAS thinks column-major, we row-major.  A row-major ``C = A B`` is, read column by column,
``C.T = B.T A.T``: the operands change places, and so do m and n.

*Integers.*  SciPy may be built with 32 or 64 bit BLAS integers.  The functions are therefore taken at run time from
the table of capsules that Cython modules export (``__pyx_capi__``); a capsule's name is the C signature, which tells
the width.  One build of this package works with either kind.

*Threads.*  Our own pool shares out blocks, so BLAS must not start threads of its own meanwhile.  OpenBLAS, which
SciPy's wheels carry, can be told; the setting belongs to the process, so it is counted up and down and put back.
"""

import ctypes
import os

import scipy
from scipy.linalg import cython_blas

cimport cython
from cpython.pycapsule cimport PyCapsule_GetName, PyCapsule_GetPointer
from libc.stdint cimport int64_t

ctypedef void (*gemm_int)(char *, char *, int *, int *, int *, const void *, const void *, int *, const void *, int *,
                          const void *, void *, int *) noexcept nogil
ctypedef void (*gemm_int64)(char *, char *, int64_t *, int64_t *, int64_t *, const void *, const void *, int64_t *,
                            const void *, int64_t *, const void *, void *, int64_t *) noexcept nogil
ctypedef int (*get_threads_function)() noexcept nogil
ctypedef void (*set_threads_function)(int) noexcept nogil

cdef void *_sgemm = NULL
cdef void *_dgemm = NULL
cdef void *_cgemm = NULL
cdef void *_zgemm = NULL
cdef bint _is_int64 = False

# One and zero as real or complex numbers of either precision.
cdef float[2] _one_single = [1, 0]
cdef float[2] _zero_single = [0, 0]
cdef double[2] _one_double = [1, 0]
cdef double[2] _zero_double = [0, 0]


def _signature(name):
    return PyCapsule_GetName(cython_blas.__pyx_capi__[name]).decode()


cdef void *_function(str name) except NULL:
    capsule = cython_blas.__pyx_capi__[name]
    return PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule))


def _integer_bits(signature):
    """Width of the integers in the signature of a gemm: the third argument is m."""
    m = signature.split("(", 1)[1].split(",")[2].split()[0]
    try:
        return {"int": 32, "int64_t": 64, "long": 64}[m]
    except KeyError:
        raise ImportError(f"scipy.linalg.cython_blas has integers of an unknown type: {signature}") from None


INTEGER_BITS = _integer_bits(_signature("sgemm"))
_is_int64 = INTEGER_BITS == 64
_sgemm = _function("sgemm")
_dgemm = _function("dgemm")
_cgemm = _function("cgemm")
_zgemm = _function("zgemm")


# ---- Products ---------------------------------------------------------------------------------------------------------
# Workers of the pool run these while the caller may hold the GIL, so no tracer may wait for it here.

@cython.linetrace(False)
cdef inline void _gemm(void *function, char transpose, const void *one, const void *zero, int transpose_a,
                       int transpose_b, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *a, ptrdiff_t lda,
                       const void *b, ptrdiff_t ldb, int accumulate, void *c, ptrdiff_t ldc) noexcept nogil:
    cdef char plain = c'N'
    cdef char *first = &transpose if transpose_b else &plain
    cdef char *second = &transpose if transpose_a else &plain
    cdef const void *beta = one if accumulate else zero
    cdef int m32, n32, k32, lda32, ldb32, ldc32
    cdef int64_t m64, n64, k64, lda64, ldb64, ldc64
    if _is_int64:
        m64, n64, k64, lda64, ldb64, ldc64 = m, n, k, lda, ldb, ldc
        (<gemm_int64>function)(first, second, &n64, &m64, &k64, one, b, &ldb64, a, &lda64, beta, c, &ldc64)
    else:
        # LARGEST_SIZE below keeps calls away that do not fit.
        m32, n32, k32, lda32, ldb32, ldc32 = <int>m, <int>n, <int>k, <int>lda, <int>ldb, <int>ldc
        (<gemm_int>function)(first, second, &n32, &m32, &k32, one, b, &ldb32, a, &lda32, beta, c, &ldc32)


LARGEST_SIZE = 2 ** (INTEGER_BITS - 1) - 1  # of any argument of a product


@cython.linetrace(False)
cdef void _matmul_f32(int ta, int tb, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *a, ptrdiff_t lda,
                      const void *b, ptrdiff_t ldb, int accumulate, void *c, ptrdiff_t ldc) noexcept nogil:
    _gemm(_sgemm, c'T', _one_single, _zero_single, ta, tb, m, n, k, a, lda, b, ldb, accumulate, c, ldc)


@cython.linetrace(False)
cdef void _matmul_f64(int ta, int tb, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *a, ptrdiff_t lda,
                      const void *b, ptrdiff_t ldb, int accumulate, void *c, ptrdiff_t ldc) noexcept nogil:
    _gemm(_dgemm, c'T', _one_double, _zero_double, ta, tb, m, n, k, a, lda, b, ldb, accumulate, c, ldc)


@cython.linetrace(False)
cdef void _matmul_c64(int ta, int tb, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *a, ptrdiff_t lda,
                      const void *b, ptrdiff_t ldb, int accumulate, void *c, ptrdiff_t ldc) noexcept nogil:
    _gemm(_cgemm, c'C', _one_single, _zero_single, ta, tb, m, n, k, a, lda, b, ldb, accumulate, c, ldc)


@cython.linetrace(False)
cdef void _matmul_c128(int ta, int tb, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const void *a, ptrdiff_t lda,
                       const void *b, ptrdiff_t ldb, int accumulate, void *c, ptrdiff_t ldc) noexcept nogil:
    _gemm(_zgemm, c'C', _one_double, _zero_double, ta, tb, m, n, k, a, lda, b, ldb, accumulate, c, ldc)


cdef matmul_function matmul_for(str typecode):
    """The product for 'f4', 'f8', 'c8' or 'c16', or NULL: there is no BLAS for other types."""
    if typecode == "f4":
        return _matmul_f32
    if typecode == "f8":
        return _matmul_f64
    if typecode == "c8":
        return _matmul_c64
    if typecode == "c16":
        return _matmul_c128
    return NULL


# ---- Threads ----------------------------------------------------------------------------------------------------------

cdef get_threads_function _get_threads = NULL
cdef set_threads_function _set_threads = NULL
cdef int _holders = 0  # guarded by the GIL, as all of this section
cdef int _before = 1


def _find_thread_control():
    """Addresses of OpenBLAS's two functions in the library that cython_blas is linked to, and its own description."""
    try:
        library = ctypes.CDLL(cython_blas.__file__)  # symbols of its dependencies are found through it
    except (OSError, TypeError):
        return None
    for prefix in ("scipy_", ""):
        for suffix in ("", "64_", "_64"):
            try:
                functions = [library[f"{prefix}openblas_{verb}_num_threads{suffix}"] for verb in ("get", "set")]
                config = library[f"{prefix}openblas_get_config{suffix}"]
            except AttributeError:
                continue
            config.restype = ctypes.c_char_p
            return (*(ctypes.cast(f, ctypes.c_void_p).value for f in functions), config().decode().strip())
    return None


_found = _find_thread_control()
if _found is not None:
    _get_threads = <get_threads_function><size_t>_found[0]
    _set_threads = <set_threads_function><size_t>_found[1]
CONTROLS_THREADS = _found is not None


cdef int hold_threads() except -1:
    """From here to release_threads, BLAS stays in the thread that calls it."""
    global _holders, _before
    if _set_threads != NULL:
        if _holders == 0:
            _before = _get_threads()
            if _before != 1:
                _set_threads(1)
        _holders += 1
    return 0


cdef int release_threads() except -1:
    global _holders
    if _set_threads != NULL and _holders > 0:  # 0: forked since hold_threads, and reset
        _holders -= 1
        if _holders == 0 and _before != 1:
            _set_threads(_before)
    return 0


def _reset_in_child():
    # The threads that were inside a product when the process was forked do not exist in the child.
    global _holders
    if _holders:
        _holders = 0
        _set_threads(_before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)


# ---- For info() and the tests -------------------------------------------------------------------------------------------

def describe():
    """What BLAS this is, as a dict."""
    try:
        built = scipy.show_config(mode="dicts")["Build Dependencies"]["blas"]
        name, version = built["name"], built["version"]
    except (TypeError, KeyError):
        name, version = "unknown", "unknown"
    return {
        "name": name,
        "version": version,
        "running": _found[2] if _found is not None else "unknown",
        "integer_bits": INTEGER_BITS,
        "threads_controlled": CONTROLS_THREADS,
    }


def matmul(a, b, c, bint transpose_a=False, bint transpose_b=False, bint accumulate=False):
    """C-contiguous c = a @ b, transposed and conjugated where asked, through the same border as the kernels.

    For tests: the arrays must be aligned, C-contiguous, two-dimensional and of one type that BLAS has.
    """
    cdef matmul_function function = matmul_for(c.dtype.str[1:])
    m, n = c.shape
    k = a.shape[0] if transpose_a else a.shape[1]
    if function == NULL or (k, m)[::1 if transpose_a else -1] != a.shape \
            or (n, k)[::1 if transpose_b else -1] != b.shape:
        raise ValueError(f"no product of {a.shape} and {b.shape} into {c.shape} of {c.dtype}")
    cdef size_t pa = a.ctypes.data, pb = b.ctypes.data, pc = c.ctypes.data
    function(transpose_a, transpose_b, m, n, k, <void *>pa, a.shape[1], <void *>pb, b.shape[1], accumulate,
             <void *>pc, c.shape[1])
