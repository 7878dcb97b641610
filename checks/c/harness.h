/* What the C programs of the checks share: random geometries and arrays, the definition of convolution to compare with, and
 * what is printed when something is wrong.
 *
 * The two bounds of im2colx/_geometry.py are given by the compiler's command line, as BOUND_ELEMENTS and BOUND_EXTENT. */
#ifndef HARNESS_H
#define HARNESS_H

#include "im2colx.h"

#include <complex.h>
#include <stdint.h>
#include <stdio.h>

__extension__ typedef __int128 wide; /* in which no product of two sizes wraps */
typedef double complex value;        /* holds the small integers of every element type */

#ifndef CMPLX /* glibc withholds it from clang */
#define CMPLX(real, imaginary) __builtin_complex((double)(real), (double)(imaginary))
#endif

enum { AXES = IM2COLX_AXES, ARRAY_AXES = 2 + IM2COLX_AXES };

/* ---- Random numbers: each call has its own, so that its number alone repeats it ---- */

typedef struct {
    uint64_t state;
} randoms;

randoms randoms_of(uint64_t seed, uint64_t number);
uint64_t draw(randoms *r);
ptrdiff_t between(randoms *r, ptrdiff_t low, ptrdiff_t high); /* both included */
int one_in(randoms *r, int count);
/* 0 to 2^bits, at most 2^60: a power of two, one more or less, or a number of so many random bits. */
ptrdiff_t boundary(randoms *r, int bits);

/* ---- Geometries ---- */

/* Fills in the output for `behind` zeros behind the image. Returns 0 if im2colx/_geometry.py would refuse it. */
int complete(im2colx_geometry *g, const ptrdiff_t behind[AXES]);
im2colx_geometry small_geometry(randoms *r);
/* Few elements and outputs, but strides, pads and dilations up to the bounds. */
im2colx_geometry giant_geometry(randoms *r);
/* Whatever is legal: arrays of this size need not fit into memory. */
im2colx_geometry any_geometry(randoms *r);
void print_geometry(FILE *to, const im2colx_geometry *g);

/* What happens on an axis. */
wide position(const im2colx_geometry *g, int axis, ptrdiff_t o, ptrdiff_t k);
/* The next index of a row-major walk; 0 after the last. */
int advance(const ptrdiff_t count[], int axes, ptrdiff_t at[]);

/* ---- Arrays ---- */

typedef struct {
    im2colx_tensor tensor;
    im2colx_type type;
    ptrdiff_t count[ARRAY_AXES]; /* outer, channel, space */
    char *memory, *before;       /* exactly as large as the strides reach; and what it held */
    size_t bytes;
} array;

typedef enum { FIRST, LAST, ANY } strides_kind;

/* Counts of x, w and y. */
void counts_of(const im2colx_geometry *g, char which, ptrdiff_t count[ARRAY_AXES]);
/* Contiguous, channels first or last, or with any strides. An input holds small integers, and may have strides of zero;
 * an output holds bytes of ones, which are not a number. */
array make_array(randoms *r, im2colx_type type, char which, const ptrdiff_t count[ARRAY_AXES], strides_kind kind, int is_input);
void free_array(array *a);
value get(const array *a, const ptrdiff_t at[ARRAY_AXES]);
void put(array *a, const ptrdiff_t at[ARRAY_AXES], value v);
int same(value a, value b); /* nan is nan */
/* Whether nothing has changed but, if `is_output`, the elements themselves. */
int is_intact(const array *a, int is_output);

value load(im2colx_type type, const void *from);
void store(im2colx_type type, void *to, value v);
const char *type_name(im2colx_type type);
int is_complex(im2colx_type type);

/* The definition: what the call must write, in the row-major order of the target's counts. */
value *define(const im2colx_call *call, const array *x, const array *w, const array *y);
value times(im2colx_type type, value a, value b);

/* A plain product in the place of BLAS. */
im2colx_matmul matmul_of(im2colx_type type);

/* ---- Failures ---- */

/* Prints the message and what `describing` says; the sanitizers' reports are followed by it too. Counts. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
int failures(void);
extern int is_alone; /* there is but one caller, so that what goes wrong in a worker of the pool is its call */
void describe_by(void (*describe)(FILE *to, const void *what), const void *what); /* of this thread */

#endif
