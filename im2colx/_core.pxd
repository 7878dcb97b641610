"""A mirror of csrc/im2colx.h, in its order."""

from libc.stddef cimport ptrdiff_t, size_t

from im2colx._blas cimport matmul_function

cdef extern from "im2colx.h" nogil:
    enum:
        IM2COLX_AXES
        IM2COLX_MAX_THREADS
        IM2COLX_STATUSES
        IM2COLX_IMPLICIT_BYTES

    ctypedef enum im2colx_status:
        IM2COLX_OK
        IM2COLX_NO_MEMORY
        IM2COLX_INTERRUPTED
        IM2COLX_OVERFLOW
        IM2COLX_FORKED

    ctypedef enum im2colx_type:
        IM2COLX_F32
        IM2COLX_F64
        IM2COLX_C64
        IM2COLX_C128
        IM2COLX_I32
        IM2COLX_I64
        IM2COLX_WIDE64

    ctypedef enum im2colx_op:
        IM2COLX_FORWARD
        IM2COLX_GRAD_INPUT
        IM2COLX_GRAD_WEIGHT

    ctypedef enum im2colx_order:
        IM2COLX_CHANNELS_FIRST
        IM2COLX_CHANNELS_LAST

    ctypedef struct im2colx_geometry:
        ptrdiff_t batch, groups, channels, filters
        ptrdiff_t[3] image, kernel, output, stride, dilation, pad

    int im2colx_is_bounded(const im2colx_geometry *geometry)

    ctypedef struct im2colx_tensor:
        void *data
        ptrdiff_t outer, channel
        ptrdiff_t[3] space

    ctypedef int (*im2colx_poll)() noexcept nogil

    ctypedef struct im2colx_call:
        im2colx_geometry geometry
        im2colx_type type
        im2colx_op op
        im2colx_tensor x, w, y
        const void *bias
        int threads
        im2colx_poll poll

    ctypedef struct im2colx_product_options:
        matmul_function matmul
        im2colx_order order
        ptrdiff_t largest
        size_t workspace_bytes
        int whole

    im2colx_status im2colx_loops(const im2colx_call *call)
    im2colx_status im2colx_product(const im2colx_call *call, const im2colx_product_options *options)
    size_t im2colx_product_workspace(const im2colx_call *call, const im2colx_product_options *options)

    ctypedef enum im2colx_orientation:
        IM2COLX_EITHER
        IM2COLX_PIXELS_IN_LANES
        IM2COLX_FILTERS_IN_LANES

    ctypedef struct im2colx_implicit_options:
        im2colx_order order
        im2colx_orientation orientation
        const void *packed
        int is_finite

    im2colx_status im2colx_implicit(const im2colx_call *call, const im2colx_implicit_options *options)
    im2colx_status im2colx_finite_weights(const im2colx_call *call, int *is_finite)
    size_t im2colx_packed_bytes(const im2colx_geometry *geometry, im2colx_type type)
    im2colx_status im2colx_pack(const im2colx_call *call, im2colx_order order, void *packed)

    ctypedef struct im2colx_implicit_facts:
        size_t workspace_bytes
        ptrdiff_t convolutions
        int is_too_many
        double cycles, multiply_adds
        const char *isa
        int rows, columns, is_filters_in_lanes, is_slab
        ptrdiff_t tasks

    im2colx_implicit_facts im2colx_implicit_explain(const im2colx_call *call, const im2colx_implicit_options *options)
    double im2colx_burn(im2colx_type type, ptrdiff_t rounds, ptrdiff_t *operations)

    ctypedef enum im2colx_pass_kind:
        IM2COLX_SGD
        IM2COLX_MOMENTUM
        IM2COLX_ADAM
        IM2COLX_RELU
        IM2COLX_RELU_GRADIENT

    ctypedef struct im2colx_pass_call:
        im2colx_type type
        im2colx_pass_kind kind "pass"
        const void *source "in"
        void *out[3]
        ptrdiff_t count
        double rate
        double[2] keep
        double eps
        int threads
        im2colx_poll poll

    im2colx_status im2colx_pass(const im2colx_pass_call *call)

    ctypedef struct im2colx_matrix:
        const void *data
        ptrdiff_t row, column

    ctypedef struct im2colx_gemm_call:
        im2colx_type type
        ptrdiff_t m, n, k
        im2colx_matrix a, b
        void *c
        ptrdiff_t c_row
        const im2colx_pass_call *step
        void *workspace
        int threads
        im2colx_poll poll

    size_t im2colx_gemm_workspace(const im2colx_gemm_call *call)
    im2colx_status im2colx_gemm(const im2colx_gemm_call *call)
    void im2colx_matmul_i32(int, int, ptrdiff_t, ptrdiff_t, ptrdiff_t, const void *, ptrdiff_t, const void *,
                            ptrdiff_t, int, void *, ptrdiff_t) noexcept
    void im2colx_matmul_i64(int, int, ptrdiff_t, ptrdiff_t, ptrdiff_t, const void *, ptrdiff_t, const void *,
                            ptrdiff_t, int, void *, ptrdiff_t) noexcept
    im2colx_status im2colx_im2col(const im2colx_geometry *geometry, const im2colx_tensor *x, size_t itemsize,
                                  im2colx_order order, ptrdiff_t begin, ptrdiff_t end, int transposed, void *patches,
                                  int threads, im2colx_poll poll)
    im2colx_status im2colx_col2im(const im2colx_geometry *geometry, const im2colx_tensor *x, im2colx_type type,
                                  im2colx_order order, const void *patches, int threads, im2colx_poll poll)
    im2colx_status im2colx_gram_add(matmul_function matmul, im2colx_type type, ptrdiff_t rows, ptrdiff_t columns,
                                    const void *tile, int transposed, int accumulate, void *gram, int threads,
                                    im2colx_poll poll)
    im2colx_status im2colx_gram_finish(im2colx_type type, ptrdiff_t columns, int transposed, void *gram, int threads,
                                       im2colx_poll poll)
    im2colx_status im2colx_csr(const im2colx_geometry *geometry, im2colx_order order, int circular, size_t itemsize,
                               const void *w, size_t index_bytes, void *indptr, void *indices, void *data, int threads,
                               im2colx_poll poll)
    const char *im2colx_isa_name(int level)
    const char *im2colx_isa()
    int im2colx_set_isa(const char *name)
    const char *im2colx_compiler()
