"""The BLAS border: row-major products with the signature that csrc asks for."""

from libc.stddef cimport ptrdiff_t

ctypedef void (*matmul_function)(int, int, ptrdiff_t, ptrdiff_t, ptrdiff_t, const void *, ptrdiff_t, const void *,
                                 ptrdiff_t, int, void *, ptrdiff_t) noexcept nogil

cdef matmul_function matmul_for(str typecode)
cdef int hold_threads() except -1
cdef int release_threads() except -1
