/* The index map (Eq. 8): Phi[p, q] = x[t(p, q)].
 *
 * A patch p is an image and an output position o; a column q is a channel c and a tap k. On each axis of space
 *     i = o*stride + k*dilation - pad                                                     (Eq. 1-4)
 * so t is separable: the offset of t(p, q) in x is base(p) + off(q), and what lies outside 0 <= i < image is zero.
 */
#ifndef IM2COLX_INDEX_MAP_H
#define IM2COLX_INDEX_MAP_H

#include "im2colx.h"

typedef struct {
    ptrdiff_t begin, end; /* begin <= i < end */
} range;

static inline ptrdiff_t range_size(range r) { return r.end - r.begin; }

static inline ptrdiff_t min_size(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static inline ptrdiff_t max_size(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
static inline ptrdiff_t clamp_size(ptrdiff_t i, ptrdiff_t low, ptrdiff_t high) { return max_size(low, min_size(i, high)); }
/* a/b rounded up, for b > 0; zero for a <= 0, which is all that a clamp to 0 needs. */
static inline ptrdiff_t divide_up(ptrdiff_t a, ptrdiff_t b) { return a > 0 ? (a - 1) / b + 1 : 0; }

/* Sizes beyond this are one size, "too large": with a few small factors more they still do not wrap. It is the bound on the
 * elements of an array (im2colx.h), so what is larger cannot be had anyway. */
#define TOO_LARGE ((ptrdiff_t)1 << 48)

/* a*b and a + b of sizes that a caller's numbers lead to and nobody has bounded, such as the spans of two axes. */
static inline ptrdiff_t limited_product(ptrdiff_t a, ptrdiff_t b)
{
    ptrdiff_t product;
    return __builtin_mul_overflow(a, b, &product) || product > TOO_LARGE ? TOO_LARGE : product;
}
static inline ptrdiff_t limited_sum(ptrdiff_t a, ptrdiff_t b)
{
    ptrdiff_t sum;
    return __builtin_add_overflow(a, b, &sum) || sum > TOO_LARGE ? TOO_LARGE : sum;
}

static inline ptrdiff_t greatest_divisor(ptrdiff_t a, ptrdiff_t b)
{
    while (b) {
        const ptrdiff_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static inline ptrdiff_t taps_of(const im2colx_geometry *g) { return g->kernel[0] * g->kernel[1] * g->kernel[2]; }
static inline ptrdiff_t outputs_of(const im2colx_geometry *g) { return g->output[0] * g->output[1] * g->output[2]; }

/* Where output o and tap k fall on an axis of x; outside it in the padding. */
static inline ptrdiff_t map_axis(const im2colx_geometry *g, int axis, ptrdiff_t o, ptrdiff_t k)
{
    return o * g->stride[axis] + k * g->dilation[axis] - g->pad[axis];
}

static inline int is_inside(const im2colx_geometry *g, int axis, ptrdiff_t i) { return i >= 0 && i < g->image[axis]; }

/* Values o of `step*o + start` that fall inside 0 <= . < size, cut to 0 <= o < count. */
static inline range inside_range(ptrdiff_t start, ptrdiff_t step, ptrdiff_t size, ptrdiff_t count)
{
    return (range){min_size(divide_up(-start, step), count), min_size(divide_up(size - start, step), count)};
}

/* The outputs of an axis whose tap k lies inside the image, and the taps of an output that do. */
static inline range outputs_inside(const im2colx_geometry *g, int axis, ptrdiff_t k)
{
    return inside_range(k * g->dilation[axis] - g->pad[axis], g->stride[axis], g->image[axis], g->output[axis]);
}
static inline range taps_inside(const im2colx_geometry *g, int axis, ptrdiff_t o)
{
    return inside_range(o * g->stride[axis] - g->pad[axis], g->dilation[axis], g->image[axis], g->kernel[axis]);
}

/* A flat row-major index over three axes, and its successor. Returns non-zero when it wraps to the start. */
static inline void unflatten(ptrdiff_t index, const ptrdiff_t size[IM2COLX_AXES], ptrdiff_t at[IM2COLX_AXES])
{
    at[2] = index % size[2];
    at[1] = index / size[2] % size[1];
    at[0] = index / size[2] / size[1];
}
static inline int next_row(const ptrdiff_t size[IM2COLX_AXES], ptrdiff_t at[IM2COLX_AXES])
{
    at[2] = 0;
    if (++at[1] < size[1]) return 0;
    at[1] = 0;
    if (++at[0] < size[0]) return 0;
    at[0] = 0;
    return 1;
}

#endif
