/* What the two files of core_check share. */
#ifndef CORE_CHECK_H
#define CORE_CHECK_H

#include "im2colx.h"

#include <complex.h>
#include <stdint.h>

/* Any element of any type; small integers are exact in it. */
typedef double complex number;

#define CANARY 77 /* what memory holds before; no small integer of `small` */

typedef struct {
    im2colx_geometry g;
    im2colx_type type;
    int is_last; /* channels last */
} problem;

typedef struct {
    im2colx_type type;
    im2colx_tensor t;
    ptrdiff_t size[5]; /* outer, channel, space */
    void *memory;
    ptrdiff_t elements; /* of the memory */
} array;

extern long tried;
extern const char *doing;

/* A number from low to high, both included. */
ptrdiff_t any(ptrdiff_t low, ptrdiff_t high);

/* Says what is wrong and ends the process. `p` may be NULL. */
void fail(const problem *p, const char *what);
/* Counts a result; fails if the status is not IM2COLX_OK. */
void must(const problem *p, im2colx_status status);

number load(im2colx_type type, const void *data, ptrdiff_t i);
void store(im2colx_type type, void *data, ptrdiff_t i, number value);
/* From -3 to 3, the imaginary part too where the type has one. */
number small(im2colx_type type);
/* Memory for elements; one more, so that it is never empty. */
void *room(im2colx_type type, ptrdiff_t count);

array make_image(const problem *p, ptrdiff_t channels, const ptrdiff_t space[3], int is_spread);
array make_weights(const problem *p, int is_spread);
void fill(array *a, const number *values);
void compare(const problem *p, array *a, const number *expected);
ptrdiff_t elements_of(const array *a);

static inline ptrdiff_t taps_of(const im2colx_geometry *g) { return g->kernel[0] * g->kernel[1] * g->kernel[2]; }
static inline ptrdiff_t outputs_of(const im2colx_geometry *g) { return g->output[0] * g->output[1] * g->output[2]; }

/* ---- core_check_matrix.c ---- */

/* A plain product for im2colx_product; the library's own for integers. */
im2colx_matmul matmul_of(im2colx_type type);
void check_csr(const problem *p, const number *x, const number *w, const number *y);
void check_patches(const problem *p, const number *x);
void check_gemm(void);
void check_passes(void);

#endif
