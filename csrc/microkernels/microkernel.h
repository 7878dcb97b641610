/* The microkernel: a tile of a matrix product whose operands are read through tables of offsets.
 *
 *     c[i][lane]  =  sum over q of  a[i][a_offset(q)] * b[b_offset(q) + lane]        (added to c, if `accumulate`)
 *
 *     0 <= i < mr rows       one number of a for each row, broadcast to all lanes
 *     0 <= lane < nv*lanes   neighbours in b, one to four vectors
 *
 * Both orientations of a convolution are this one sum. Pixels in lanes: a is the weights, a row a filter, and b the image, a
 * tap a shift. Filters in lanes: a is the image, a row a pixel, and b the weights, with their filters side by side. The
 * gradient of the weights has a row for each column of Phi and sums over pixels.
 *
 * q runs through chunks of neighbours: q = (s, r), offset(q) = chunk[s] + inner[r], for a and b alike. So the index map of
 * a whole convolution is two short tables.
 *
 * Units are elements. Nothing needs more alignment than an element has. Rows of c lie anywhere; all of nv*lanes
 * elements are written, and without `accumulate` they are never read. b is read as whole vectors: up to nv*lanes elements
 * from every b_offset(q).
 */
#ifndef IM2COLX_MICROKERNEL_H
#define IM2COLX_MICROKERNEL_H

#include "cpu.h"
#include "im2colx.h"

enum { MICRO_ROWS = 6, MICRO_VECTORS = 4 };

typedef struct {
    ptrdiff_t chunks, length;         /* the last chunk may be shorter: */
    ptrdiff_t last_length;
    const ptrdiff_t *a_chunk, *b_chunk; /* chunks of them */
    const ptrdiff_t *a_inner, *b_inner; /* length of them */
} micro_sum;

/* Which elements of a row of c go to y, vector by vector: those in `keep` move together to `to`, in their order. */
typedef struct {
    int vectors;
    unsigned keep[MICRO_VECTORS];
    ptrdiff_t to[MICRO_VECTORS];
} micro_places;

typedef void (*micro_function)(const micro_sum *sum, const void *const *a, const void *b, void *const *c, int accumulate);

/* One row: an element type on an instruction set. */
typedef struct {
    const char *isa;
    int level; /* of cpu.h */
    im2colx_type type;
    int lanes;   /* elements of a vector */
    int vectors; /* nv at most, as many as the registers hold beside mr = 6 */
    micro_function function[MICRO_ROWS][MICRO_VECTORS]; /* [mr - 1][nv - 1] */
    /* `rounds` times sixteen vector multiply-adds in registers; returns something that depends on all of them. */
    double (*burn)(ptrdiff_t rounds);
    /* to[i] = from[2*i], for 0 <= i < count */
    void (*copy_even)(void *to, const void *from, ptrdiff_t count);
    /* Whether none of `count` neighbours is inf or nan. */
    int (*all_finite)(const void *from, ptrdiff_t count);
    /* to[j] = from[j*step] for j < count, and zero for count <= j < width */
    void (*pack_row)(const void *from, ptrdiff_t step, ptrdiff_t count, ptrdiff_t width, void *to);
    /* c[i][j] = value[i*row_step + j*lane_step] */
    void (*fill)(void *c, ptrdiff_t ldc, ptrdiff_t rows, ptrdiff_t columns, const void *value, ptrdiff_t row_step,
                 ptrdiff_t lane_step);
    /* y[i*ldy + places] = the kept elements of row i of c */
    void (*store_kept)(const void *c, ptrdiff_t ldc, ptrdiff_t rows, const micro_places *places, void *y, ptrdiff_t ldy);
    /* y[i*row_step + j*lane_step] = c[i][j] */
    void (*store)(const void *c, ptrdiff_t ldc, ptrdiff_t rows, ptrdiff_t columns, void *y, ptrdiff_t row_step,
                  ptrdiff_t lane_step);
} microkernel;

/* The best row for the type at or below the level in force; NULL for a type that has none. */
const microkernel *find_microkernel(im2colx_type type);

#endif
