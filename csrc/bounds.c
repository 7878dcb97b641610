/* The bounds that the C core relies on, in one place. im2colx/_geometry.py lets nothing through that is beyond them; a geometry
 * that is, from wherever, is refused before anything is computed from it.
 *
 * Elements of x, w and y          at most 2^48 each, a size of 0 counted as 1
 * Stride, dilation, pad           at most 2^50 each
 * Spans on an axis                (output - 1)*stride + (kernel - 1)*dilation at most 2^50
 *
 * So on one axis no sum of positions wraps, and no array is too large. What these bounds do not cover are products across axes
 * of spans, of strides, or of the sizes of different arrays (columns times patches): such products are formed in double, or by
 * limited_product (index_map.h), or not at all. The stride of an axis of one element may be anything in NumPy; the border to
 * Python (fill_tensor in im2colx/_core.pyx) replaces it by that of a contiguous array. Every other stride is that of memory.
 */
#include "index_map.h"

#define LARGEST_EXTENT ((ptrdiff_t)1 << 50)

static int is_within(ptrdiff_t value, ptrdiff_t least, ptrdiff_t most) { return value >= least && value <= most; }

static int is_array(ptrdiff_t a, ptrdiff_t b, ptrdiff_t c, const ptrdiff_t space[IM2COLX_AXES])
{
    ptrdiff_t count = 1;
    const ptrdiff_t sizes[] = {a, b, c, space[0], space[1], space[2]};
    for (int i = 0; i < 3 + IM2COLX_AXES; i++)
        if (sizes[i] < 0 || __builtin_mul_overflow(count, max_size(1, sizes[i]), &count)) return 0;
    return count <= TOO_LARGE;
}

int im2colx_is_bounded(const im2colx_geometry *g)
{
    if (g->groups < 1 || g->channels < 1 || g->filters < 1) return 0;
    for (int axis = 0; axis < IM2COLX_AXES; axis++) {
        ptrdiff_t outputs, taps, both;
        if (g->kernel[axis] < 1 || g->output[axis] < 1) return 0;
        if (!is_within(g->stride[axis], 1, LARGEST_EXTENT) || !is_within(g->dilation[axis], 1, LARGEST_EXTENT)) return 0;
        if (!is_within(g->pad[axis], 0, LARGEST_EXTENT)) return 0;
        if (__builtin_mul_overflow(g->output[axis] - 1, g->stride[axis], &outputs)) return 0;
        if (__builtin_mul_overflow(g->kernel[axis] - 1, g->dilation[axis], &taps)) return 0;
        if (__builtin_add_overflow(outputs, taps, &both) || both > LARGEST_EXTENT) return 0;
    }
    return is_array(g->batch, g->groups, g->channels, g->image) && is_array(g->groups, g->filters, g->channels, g->kernel)
           && is_array(g->batch, g->groups, g->filters, g->output);
}
