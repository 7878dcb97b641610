/* The C core of im2colx, as Cython sees it: convolution of arrays with any strides, computed as a matrix product.
 *
 * Letters (one meaning everywhere):
 *   N batch   C channels   F filters   G groups   taps: kernel elements   P output positions of one image
 *   p  row of the patch matrix Phi: which patch          (0 <= p < N*P)
 *   q  column of Phi: which element of the patch         (0 <= q < C/G*taps)
 *   m, n, k  the sizes of a matrix product, and nothing else
 *
 * Space always has three axes here; a 1-D or 2-D convolution has leading axes of size 1, kernel 1, stride 1.
 * Sizes and strides count elements, never bytes, except where a name says "bytes".
 * The caller (im2colx/_geometry.py) has checked every size: all are consistent, and within the bounds of bounds.c.
 * No function here prints, calls Python, or keeps anything beyond the thread pool.
 */
#ifndef IM2COLX_H
#define IM2COLX_H

#include <stddef.h>

_Static_assert(sizeof(ptrdiff_t) == 8, "sizes are of 64 bits: see bounds.c");

enum { IM2COLX_AXES = 3, IM2COLX_MAX_THREADS = 256 };

typedef enum {
    IM2COLX_OK,
    IM2COLX_NO_MEMORY,   /* a buffer could not be allocated; nothing was written */
    IM2COLX_INTERRUPTED, /* the poll asked to stop; the output is partly written */
    IM2COLX_OVERFLOW,    /* an exact integer result does not fit its type; the output is partly written */
    IM2COLX_FORKED,      /* the process was forked from within a poll, and this is the child: its workers are gone */
    IM2COLX_STATUSES     /* how many there are */
} im2colx_status;

/* Element types. WIDE64 is int64 whose sums are kept in 128 bits and checked at the store. */
typedef enum {
    IM2COLX_F32, IM2COLX_F64, IM2COLX_C64, IM2COLX_C128, IM2COLX_I32, IM2COLX_I64, IM2COLX_WIDE64, IM2COLX_TYPES
} im2colx_type;

typedef enum { IM2COLX_FORWARD, IM2COLX_GRAD_INPUT, IM2COLX_GRAD_WEIGHT } im2colx_op;

/* Order of the columns of Phi: channels outside the taps (c, u, v) or inside them (u, v, c). */
typedef enum { IM2COLX_CHANNELS_FIRST, IM2COLX_CHANNELS_LAST } im2colx_order;

typedef struct {
    ptrdiff_t batch;                  /* N */
    ptrdiff_t groups;                 /* G */
    ptrdiff_t channels;               /* C/G, of one group */
    ptrdiff_t filters;                /* F/G, of one group */
    ptrdiff_t image[IM2COLX_AXES];    /* size of x in space */
    ptrdiff_t kernel[IM2COLX_AXES];
    ptrdiff_t output[IM2COLX_AXES];   /* size of y in space; pads behind the image follow from it */
    ptrdiff_t stride[IM2COLX_AXES];
    ptrdiff_t dilation[IM2COLX_AXES];
    ptrdiff_t pad[IM2COLX_AXES];      /* zeros before the image */
} im2colx_geometry;

/* Whether the geometry is within the bounds that everything else here relies on: see bounds.c. */
int im2colx_is_bounded(const im2colx_geometry *geometry);

/* An array of five axes: outer (image of x and y, filter of w), channel (filter of y), three of space.
 * Its strides are in elements and may be anything, zero and negative included. */
typedef struct {
    void *data;
    ptrdiff_t outer, channel, space[IM2COLX_AXES];
} im2colx_tensor;

/* Asked by the calling thread every 15 ms or so, between steps of some milliseconds: non-zero means stop. May be NULL. */
typedef int (*im2colx_poll)(void);

/* One convolution or gradient. Which tensor is written: y (forward), x (grad_input), w (grad_weight). */
typedef struct {
    im2colx_geometry geometry;
    im2colx_type type;
    im2colx_op op;
    im2colx_tensor x, w, y;
    const void *bias; /* F elements or NULL; forward only */
    int threads;      /* at most this many, the caller included */
    im2colx_poll poll;
} im2colx_call;

/* c (m x n) = a (m x k) * b (k x n), plus c if `accumulate`; all row-major with leading dimensions lda, ldb, ldc.
 * transpose_a: a is stored k x m and taken transposed, and conjugated if complex; likewise b.
 * Without `accumulate`, c is never read. Called from several threads at once. */
typedef void (*im2colx_matmul)(int transpose_a, int transpose_b, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k,
                               const void *a, ptrdiff_t lda, const void *b, ptrdiff_t ldb,
                               int accumulate, void *c, ptrdiff_t ldc);

/* Multiply-adds of one product that take some milliseconds: a long call is cut into such, so that it can be interrupted. */
ptrdiff_t im2colx_long_product(im2colx_type type);

/* How a matrix-product method works: see product.c. */
typedef struct {
    im2colx_matmul matmul;
    im2colx_order order;    /* of the columns of w as a matrix, and so of Phi */
    ptrdiff_t largest;      /* size or leading dimension that `matmul` takes */
    size_t workspace_bytes; /* bound on the tiles of all threads together; ignored when `whole` */
    int whole;              /* hold all of Phi ("im2col") instead of a tile a thread ("indexed") */
} im2colx_product_options;

size_t im2colx_itemsize(im2colx_type type);

/* The direct loops. Any strides. */
im2colx_status im2colx_loops(const im2colx_call *call);

/* Convolution as products of blocks of Phi with w.
 * w and y must be contiguous: (F, C/G, taps) and (N, F, P) for CHANNELS_FIRST, (taps, C/G, F) and (N, P, F) for
 * CHANNELS_LAST. x may have any strides, but in IM2COLX_GRAD_INPUT, where it is the result, it is contiguous likewise.
 * An alignment of the element size suffices everywhere. */
im2colx_status im2colx_product(const im2colx_call *call, const im2colx_product_options *options);

/* Bytes that im2colx_product will allocate for the same arguments. */
size_t im2colx_product_workspace(const im2colx_call *call, const im2colx_product_options *options);

/* ---- implicit: no patch matrix and no BLAS; float32 and float64 ---- */

typedef enum { IM2COLX_EITHER, IM2COLX_PIXELS_IN_LANES, IM2COLX_FILTERS_IN_LANES } im2colx_orientation;

typedef struct {
    im2colx_order order;
    im2colx_orientation orientation; /* to force one, for tests; pixels in lanes needs CHANNELS_FIRST */
    const void *packed;              /* w as im2colx_pack made it, or NULL; forward only */
    int is_finite;                   /* no weight is inf or nan: zeros of the padding need not be multiplied */
} im2colx_implicit_options;

/* Arrays may have any strides.
 * Same bits for any threads, batch, strides and orientation. */
im2colx_status im2colx_implicit(const im2colx_call *call, const im2colx_implicit_options *options);

/* Whether no weight of the call's w is inf or nan. */
im2colx_status im2colx_finite_weights(const im2colx_call *call, int *is_finite);

/* w packed for filters in lanes: how many bytes it takes, and the packing. For the instruction set in force. */
size_t im2colx_packed_bytes(const im2colx_geometry *geometry, im2colx_type type);
im2colx_status im2colx_pack(const im2colx_call *call, im2colx_order order, void *packed);

/* Bytes that a thread may take: what needs more is not for this method. */
enum { IM2COLX_IMPLICIT_BYTES = 1536 << 10 };

/* What im2colx_implicit will do. */
typedef struct {
    size_t workspace_bytes;
    ptrdiff_t convolutions; /* that it is made of; more than it does (grad_input with a large stride) if `is_too_many`, */
    int is_too_many;        /* and then nothing else here is filled in */
    double cycles;        /* of one core, estimated */
    double multiply_adds; /* fewer than the geometry's where those with the padding are left out */
    const char *isa;
    int rows, columns; /* of the largest microkernel */
    int is_filters_in_lanes, is_slab;
    ptrdiff_t tasks;
} im2colx_implicit_facts;
im2colx_implicit_facts im2colx_implicit_explain(const im2colx_call *call, const im2colx_implicit_options *options);

/* For measuring the machine: `rounds` of multiply-adds in registers, and how many floating-point operations a round is. */
double im2colx_burn(im2colx_type type, ptrdiff_t rounds, ptrdiff_t *operations);

/* ---- networks: passes over vectors, and products with large weights; float32 and float64 ---- */

enum { IM2COLX_PASS_VECTORS = 3 };

typedef enum {
    IM2COLX_SGD,           /* in g; out p:         p -= rate*g */
    IM2COLX_MOMENTUM,      /* in g; out p, v:      v = keep[0]*v - rate*g, p += v */
    IM2COLX_ADAM,          /* in g; out p, m, v:   m = keep[0]*m + (1 - keep[0])*g, v = keep[1]*v + (1 - keep[1])*g*g,
                                                   p -= rate * m/(sqrt(v) + eps) */
    IM2COLX_RELU,          /* in x; out y:         y = max(x, 0), also with y = x */
    IM2COLX_RELU_GRADIENT, /* in y; out r, g:      r = g where y > 0, else 0, also with r = g; g is only read */
    IM2COLX_PASSES
} im2colx_pass_kind;

/* A pass over vectors of `count` elements, element by element; the bits do not depend on threads or instruction set. */
typedef struct {
    im2colx_type type;
    im2colx_pass_kind pass;
    const void *in;
    void *out[IM2COLX_PASS_VECTORS];
    ptrdiff_t count;
    double rate, keep[2], eps;
    int threads;
    im2colx_poll poll;
} im2colx_pass_call;

im2colx_status im2colx_pass(const im2colx_pass_call *call);

/* A matrix as an operand of a product: element (i, j) at data[i*row + j*column], where one of the strides is 1. */
typedef struct {
    const void *data;
    ptrdiff_t row, column;
} im2colx_matrix;

/* c (m x n) = a (m x k) * b (k x n). The rows of c are c_row apart. With a step, the product is a gradient that is not
 * stored: c is stepped along it, by the pass in `step`, whose `out` begin where c does, and are as c is.
 * Same bits for any threads. */
typedef struct {
    im2colx_type type;
    ptrdiff_t m, n, k;
    im2colx_matrix a, b;
    void *c;
    ptrdiff_t c_row;
    const im2colx_pass_call *step; /* or NULL */
    void *workspace;               /* as many bytes as im2colx_gemm_workspace says, aligned to 64, or NULL: allocated */
    int threads;
    im2colx_poll poll;
} im2colx_gemm_call;

size_t im2colx_gemm_workspace(const im2colx_gemm_call *call);
im2colx_status im2colx_gemm(const im2colx_gemm_call *call);

/* Integer products for im2colx_product, where there is no BLAS. Their sums wrap: the caller bounds them first. */
void im2colx_matmul_i32(int, int, ptrdiff_t, ptrdiff_t, ptrdiff_t, const void *, ptrdiff_t, const void *, ptrdiff_t,
                        int, void *, ptrdiff_t);
void im2colx_matmul_i64(int, int, ptrdiff_t, ptrdiff_t, ptrdiff_t, const void *, ptrdiff_t, const void *, ptrdiff_t,
                        int, void *, ptrdiff_t);

/* Rows begin..end of Phi, row-major (end - begin) x (C*taps): patches[p - begin, q] = x[t(p, q)], zero where t falls into
 * the padding (Algorithm 1); or, if `transposed`, their transpose, (C*taps) x (end - begin).
 * Elements are moved, not computed with: any type of `itemsize` 1, 2, 4, 8 or 16 bytes. One group. */
im2colx_status im2colx_im2col(const im2colx_geometry *geometry, const im2colx_tensor *x, size_t itemsize,
                              im2colx_order order, ptrdiff_t begin, ptrdiff_t end, int transposed, void *patches, int threads,
                              im2colx_poll poll);

/* The adjoint: x[t(p, q)] += patches[p, q] for all p, q inside the image. x is zeroed by the caller. */
im2colx_status im2colx_col2im(const im2colx_geometry *geometry, const im2colx_tensor *x, im2colx_type type,
                              im2colx_order order, const void *patches, int threads, im2colx_poll poll);

/* gram = tile^H tile for a tile of rows of Phi, plus gram if `accumulate`: (columns, columns), row-major. The tile is
 * (rows, columns); or (columns, rows) if `transposed`, and then it is the conjugate of gram that is summed.
 * Only the upper triangle is right until im2colx_gram_finish mirrors it (and conjugates what has to be). */
im2colx_status im2colx_gram_add(im2colx_matmul matmul, im2colx_type type, ptrdiff_t rows, ptrdiff_t columns, const void *tile,
                                int transposed, int accumulate, void *gram, int threads, im2colx_poll poll);
im2colx_status im2colx_gram_finish(im2colx_type type, ptrdiff_t columns, int transposed, void *gram, int threads,
                                   im2colx_poll poll);

/* The matrix of the convolution of one image (the geometry's batch is ignored), as compressed sparse rows: row (f, o) holds
 * w[f, q] in column t(o, q) for every q of row o of Phi that lies inside x, in the order of q. Rows and columns are numbered
 * as the elements of y and x in memory, by `order`; `w` is (F, C/G*taps) in the order of Phi's columns, of any type of
 * `itemsize` 4, 8 or 16 bytes. `circular`: x is continued periodically in space instead of by zeros; then every q lies inside,
 * and columns of a row need not ascend or differ.
 * indptr (rows + 1) and indices are of `index_bytes` 4 or 8. */
im2colx_status im2colx_csr(const im2colx_geometry *geometry, im2colx_order order, int circular, size_t itemsize, const void *w,
                           size_t index_bytes, void *indptr, void *indices, void *data, int threads, im2colx_poll poll);

/* Instruction sets: the name of a level (0 is the plainest), NULL beyond what this machine has; the one in force; and to
 * lower it by name, which returns 0 for a name that is none or not of this machine. Static strings. */
const char *im2colx_isa_name(int level);
const char *im2colx_isa(void);
int im2colx_set_isa(const char *name);

/* The compiler that built this library, with its version; a static string. */
const char *im2colx_compiler(void);

#endif
