/* The Gram matrix of a tile of Phi, added up over tiles: Phi^H Phi without Phi.
 *
 * It is Hermitian, so only strips of it that end at the right edge are multiplied, each from its own diagonal on:
 *     +--+-----+
 *     |  |     |   strip 0
 *     +--+--+--+
 *        |  |  |   strip 1
 *        +--+--+
 * More strips leave out more of the lower triangle, fewer let BLAS pack the tile less often.
 */
#include "index_map.h"
#include "threads.h"

#include <string.h>

/* On a Zen 5, 576 columns in float32 took least with 3 to 6 strips; 72 columns no less with more than two. The cut does not
 * depend on the number of threads, or bits would. */
enum { STRIPS = 6, LEAST_STRIP = 48 };

typedef struct {
    im2colx_matmul matmul;
    ptrdiff_t size, rows, columns, strip;
    const char *tile;
    char *gram;
    int transposed, accumulate;
} gram_call;

static void strip_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const gram_call *s = argument;
    const ptrdiff_t i = task * s->strip, m = min_size(s->strip, s->columns - i), n = s->columns - i;
    char *gram = s->gram + (i * s->columns + i) * s->size;
    (void)worker, (void)job;
    if (s->transposed) {
        const char *a = s->tile + i * s->rows * s->size;
        s->matmul(0, 1, m, n, s->rows, a, s->rows, a, s->rows, s->accumulate, gram, s->columns);
    } else {
        const char *a = s->tile + i * s->size;
        s->matmul(1, 0, m, n, s->rows, a, s->columns, a, s->columns, s->accumulate, gram, s->columns);
    }
}

im2colx_status im2colx_gram_add(im2colx_matmul matmul, im2colx_type type, ptrdiff_t rows, ptrdiff_t columns, const void *tile,
                                int transposed, int accumulate, void *gram, int threads, im2colx_poll poll)
{
    gram_call s = {matmul, (ptrdiff_t)im2colx_itemsize(type), rows, columns, 0, tile, gram, transposed, accumulate};
    const ptrdiff_t most = im2colx_long_product(type) / rows / columns;
    s.strip = max_size(1, min_size(most, max_size(LEAST_STRIP, divide_up(columns, STRIPS))));
    return im2colx_run(divide_up(columns, s.strip), threads, strip_task, &s, poll);
}

/* ---- The other triangle ------------------------------------------------------------------------------------------ */

/* In squares that stay in the first-level cache, because one side of the transposition strides. */
enum { SQUARE = 32 };

typedef struct {
    ptrdiff_t n;
    int transposed;
    void *gram;
} finish_call;

/* A task: the squares of some rows above the diagonal, and their mirror images. */
#define DEFINE_FINISH(NAME, T, MIRROR)                                                       \
    static void NAME(void *argument, ptrdiff_t task, int worker, im2colx_job *job)           \
    {                                                                                        \
        const finish_call *s = argument;                                                     \
        const ptrdiff_t n = s->n, i0 = task * SQUARE;                                        \
        const int transposed = s->transposed;                                                \
        T *gram = s->gram;                                                                   \
        (void)worker, (void)transposed;                                                      \
        for (ptrdiff_t j0 = i0; j0 < n && !im2colx_stopped(job); j0 += SQUARE)               \
            for (ptrdiff_t i = i0; i < min_size(i0 + SQUARE, n); i++)                        \
                for (ptrdiff_t j = max_size(i, j0); j < min_size(j0 + SQUARE, n); j++) {     \
                    T *upper = gram + i * n + j, *lower = gram + j * n + i;                  \
                    MIRROR                                                                   \
                }                                                                            \
    }
#define MIRROR_REAL *lower = *upper;
/* The summed triangle is conjugated or its mirror image is; on the diagonal they meet, and the imaginary part is zero. */
#define MIRROR_COMPLEX                                   \
    lower->real = upper->real;                           \
    lower->imaginary = transposed ? upper->imaginary : -upper->imaginary; \
    upper->imaginary = -lower->imaginary;                \
    if (i == j) upper->imaginary = 0;

typedef struct { float real, imaginary; } complex_float;
typedef struct { double real, imaginary; } complex_double;
typedef struct { char bytes[4]; } four_bytes;
typedef struct { char bytes[8]; } eight_bytes;
DEFINE_FINISH(finish_4, four_bytes, MIRROR_REAL)
DEFINE_FINISH(finish_8, eight_bytes, MIRROR_REAL)
DEFINE_FINISH(finish_c64, complex_float, MIRROR_COMPLEX)
DEFINE_FINISH(finish_c128, complex_double, MIRROR_COMPLEX)

im2colx_status im2colx_gram_finish(im2colx_type type, ptrdiff_t columns, int transposed, void *gram, int threads, im2colx_poll poll)
{
    finish_call s = {columns, transposed, gram};
    const im2colx_work work = type == IM2COLX_C64 ? finish_c64 : type == IM2COLX_C128 ? finish_c128
                              : im2colx_itemsize(type) == 4 ? finish_4 : finish_8;
    return im2colx_run(divide_up(columns, SQUARE), threads, work, &s, poll);
}
