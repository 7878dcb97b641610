/* Padded copies of x, possibly cut into stride phases: see slab.h. */
#include "slab.h"

#include <string.h>

slab_layout layout_of_image(const im2colx_geometry *g, const im2colx_tensor *x)
{
    slab_layout l = {.channel = x->channel};
    for (int axis = 0; axis < IM2COLX_AXES; axis++) {
        l.space[axis] = x->space[axis];
        l.step[axis] = g->stride[axis] < g->image[axis] ? g->stride[axis] * x->space[axis] : 0; /* there is but one output */
    }
    return l;
}

slab_layout layout_of_slab(const im2colx_geometry *g, ptrdiff_t channels, const ptrdiff_t outputs[IM2COLX_AXES], int is_cut,
                           int is_last, ptrdiff_t itemsize)
{
    slab_layout l = {.is_cut = is_cut};
    ptrdiff_t stride = is_last ? channels : 1;
    for (int axis = IM2COLX_AXES - 1; axis >= 0; axis--) {
        const ptrdiff_t reach = (g->kernel[axis] - 1) * g->dilation[axis], s = g->stride[axis];
        if (is_cut) {
            l.phases[axis] = min_size(s, reach + 1);
            l.size[axis] = outputs[axis] + reach / s;
            l.step[axis] = stride;
        } else {
            l.phases[axis] = 1;
            l.size[axis] = (outputs[axis] - 1) * s + reach + 1;
            l.step[axis] = limited_product(s, stride);
        }
        l.space[axis] = stride;
        stride = limited_product(stride, l.size[axis]);
    }
    /* Phases outside: the rows of one follow one another. */
    for (int axis = IM2COLX_AXES - 1; axis >= 0; axis--) {
        l.phase[axis] = stride;
        stride = limited_product(stride, l.phases[axis]);
    }
    if (is_last) {
        l.channel = 1;
        l.elements = stride;
    } else {
        /* An odd number of cache lines from channel to channel: powers of two would share few sets of the cache. Channels of
         * less than a line stay side by side, or many channels of one element would take sixteen times as much. */
        const ptrdiff_t line = 64 / itemsize;
        l.channel = stride < line ? stride : (divide_up(stride, line) | 1) * line;
        l.elements = limited_product(channels, l.channel);
    }
    return l;
}

ptrdiff_t slab_tap(const im2colx_geometry *g, const slab_layout *l, const ptrdiff_t k[IM2COLX_AXES])
{
    ptrdiff_t offset = 0;
    for (int axis = 0; axis < IM2COLX_AXES; axis++) {
        const ptrdiff_t i = k[axis] * g->dilation[axis], s = l->is_cut ? g->stride[axis] : 1;
        offset += i % s * l->phase[axis] + i / s * l->space[axis];
    }
    return offset;
}

/* Rows are short: sixteen bytes at a time, the last ones overlapping, cost less than a call of memcpy. */
static inline void copy_short(char *to, const char *from, ptrdiff_t bytes)
{
    if (bytes > 1024) {
        memcpy(to, from, (size_t)bytes);
    } else if (bytes >= 16) {
        for (ptrdiff_t i = 0; i < bytes - 16; i += 16) memcpy(to + i, from + i, 16);
        memcpy(to + bytes - 16, from + bytes - 16, 16);
    } else {
        for (ptrdiff_t i = 0; i < bytes; i += 4) memcpy(to + i, from + i, 4);
    }
}

static inline void zero_short(char *to, ptrdiff_t bytes)
{
    if (bytes > 64) memset(to, 0, (size_t)bytes);
    else for (ptrdiff_t i = 0; i < bytes; i += 4) memset(to + i, 0, 4);
}

/* One row of one phase: `n` elements `x_step` bytes apart, with zeros before and behind; neighbours in
 * the slab. `kernel` is NULL for elements that are not its numbers. */
static inline void fill_row(const char *from, ptrdiff_t x_step, ptrdiff_t before, ptrdiff_t n, ptrdiff_t behind, ptrdiff_t size,
                            const microkernel *kernel, char *to)
{
    zero_short(to, before * size);
    to += before * size;
    if (x_step == size) copy_short(to, from, n * size);
    else if (kernel && x_step == 2 * size) kernel->copy_even(to, from, n);
    else for (ptrdiff_t i = 0; i < n; i++) memcpy(to + i * size, from + i * x_step, (size_t)size);
    zero_short(to + n * size, behind * size);
}

/* The same where the elements of the slab are not neighbours: channels that are not so in x. */
static void fill_spread(const char *from, ptrdiff_t x_step, ptrdiff_t before, ptrdiff_t n, ptrdiff_t behind, ptrdiff_t size,
                        ptrdiff_t to_step, char *to)
{
    for (ptrdiff_t i = 0; i < before + n + behind; i++, to += to_step) {
        if (i < before || i >= before + n) memset(to, 0, (size_t)size);
        else memcpy(to, from + (i - before) * x_step, (size_t)size);
    }
}

void fill_slab(const im2colx_geometry *g, const slab_layout *l, const im2colx_tensor *x, ptrdiff_t channels,
               const ptrdiff_t first[IM2COLX_AXES], const microkernel *kernel, char *slab)
{
    const ptrdiff_t item = (ptrdiff_t)im2colx_itemsize(kernel->type);
    /* Channels that are neighbours in x and in the slab move as one wide element. */
    const int is_wide = l->channel == 1 && x->channel == 1;
    const ptrdiff_t size = is_wide ? channels * item : item, to_step = l->space[2] * item;
    ptrdiff_t step[IM2COLX_AXES], start[IM2COLX_AXES], ph[IM2COLX_AXES];
    for (int axis = 0; axis < IM2COLX_AXES; axis++) {
        step[axis] = l->is_cut ? g->stride[axis] : 1;
        start[axis] = first[axis] * g->stride[axis] - g->pad[axis];
    }
    for (ptrdiff_t phase = 0; phase < l->phases[0] * l->phases[1] * l->phases[2]; phase++) {
        unflatten(phase, l->phases, ph);
        const range inside = inside_range(start[2] + ph[2], step[2], g->image[2], l->size[2]);
        const ptrdiff_t n = range_size(inside), i2 = start[2] + ph[2] + inside.begin * step[2];
        const ptrdiff_t x_step = n > 1 ? step[2] * x->space[2] * item : size;
        char *const to_phase = slab + (ph[0] * l->phase[0] + ph[1] * l->phase[1] + ph[2] * l->phase[2]) * item;
        for (ptrdiff_t c = 0; c < (is_wide ? 1 : channels); c++)
            for (ptrdiff_t r0 = 0; r0 < l->size[0]; r0++) {
                const ptrdiff_t i0 = start[0] + ph[0] + r0 * step[0];
                const int is_plane = is_inside(g, 0, i0);
                char *to = to_phase + (c * l->channel + r0 * l->space[0]) * item;
                for (ptrdiff_t r1 = 0; r1 < l->size[1]; r1++, to += l->space[1] * item) {
                    const ptrdiff_t i1 = start[1] + ph[1] + r1 * step[1];
                    const int is_row = is_plane && is_inside(g, 1, i1) && n;
                    const ptrdiff_t before = inside.begin, count = is_row ? n : 0, behind = l->size[2] - before - count;
                    const char *from = is_row ? (const char *)x->data + (c * x->channel + i0 * x->space[0] + i1 * x->space[1]
                                                                         + i2 * x->space[2]) * item : NULL;
                    if (to_step != size) fill_spread(from, x_step, before, count, behind, size, to_step, to);
                    else if (is_wide) fill_row(from, x_step, before, count, behind, size, NULL, to);
                    else if (item == 4) fill_row(from, x_step, before, count, behind, 4, kernel, to);
                    else fill_row(from, x_step, before, count, behind, 8, kernel, to);
                }
            }
    }
}
