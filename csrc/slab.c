/* Padded copies of x, possibly cut into stride phases: see slab.h. */
#include "slab.h"

#include <string.h>

slab_layout layout_of_image(const im2colx_geometry *g, const im2colx_tensor *x)
{
    slab_layout l = {.channel = x->channel};
    for (int axis = 0; axis < IM2COLX_AXES; axis++) {
        l.space[axis] = x->space[axis];
        l.step[axis] = g->stride[axis] * x->space[axis];
        l.phases[axis] = 1;
        l.size[axis] = g->image[axis];
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
            l.step[axis] = s * stride;
        }
        l.space[axis] = stride;
        stride *= l.size[axis];
    }
    /* Phases outside: the rows of one follow one another. */
    for (int axis = IM2COLX_AXES - 1; axis >= 0; axis--) {
        l.phase[axis] = stride;
        stride *= l.phases[axis];
    }
    if (is_last) {
        l.channel = 1;
        l.elements = stride;
    } else {
        /* An odd number of cache lines from channel to channel: powers of two would share few sets of the cache. */
        const ptrdiff_t line = 64 / itemsize;
        l.channel = (divide_up(stride, line) | 1) * line;
        l.elements = channels * l.channel;
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

/* One row of one phase: `count` elements of `step` elements' distance in x, zeros outside it. */
static void fill_row(const char *row, ptrdiff_t from, ptrdiff_t step, ptrdiff_t image, ptrdiff_t x_step, ptrdiff_t count,
                     ptrdiff_t size, ptrdiff_t to_step, const microkernel *kernel, char *to)
{
    const range inside = inside_range(from, step, image, count);
    const ptrdiff_t n = inside.end - inside.begin;
    if (to_step == size) {
        memset(to, 0, (size_t)(inside.begin * size));
        memset(to + inside.end * size, 0, (size_t)((count - inside.end) * size));
        const char *source = row + (from + inside.begin * step) * x_step;
        to += inside.begin * size;
        if (step * x_step == size) memcpy(to, source, (size_t)(n * size));
        else if (step * x_step == 2 * size) kernel->copy_even(to, source, n);
        else if (size == 4) for (ptrdiff_t i = 0; i < n; i++) memcpy(to + i * 4, source + i * step * x_step, 4);
        else for (ptrdiff_t i = 0; i < n; i++) memcpy(to + i * 8, source + i * step * x_step, 8);
        return;
    }
    for (ptrdiff_t i = 0; i < count; i++) {
        if (i >= inside.begin && i < inside.end) memcpy(to + i * to_step, row + (from + i * step) * x_step, (size_t)size);
        else memset(to + i * to_step, 0, (size_t)size);
    }
}

void fill_slab(const im2colx_geometry *g, const slab_layout *l, const im2colx_tensor *x, ptrdiff_t channels,
               const ptrdiff_t first[IM2COLX_AXES], const microkernel *kernel, char *slab)
{
    const ptrdiff_t item = (ptrdiff_t)im2colx_itemsize(kernel->type);
    /* Channels that are neighbours in x and in the slab move as one wide element. */
    const int is_wide = l->channel == 1 && x->channel == 1;
    const ptrdiff_t size = is_wide ? channels * item : item;
    ptrdiff_t at[IM2COLX_AXES], step[IM2COLX_AXES], start[IM2COLX_AXES];
    for (int axis = 0; axis < IM2COLX_AXES; axis++) {
        step[axis] = l->is_cut ? g->stride[axis] : 1;
        start[axis] = first[axis] * g->stride[axis] - g->pad[axis];
    }
    for (ptrdiff_t c = 0; c < (is_wide ? 1 : channels); c++)
        for (ptrdiff_t phase = 0; phase < l->phases[0] * l->phases[1] * l->phases[2]; phase++) {
            ptrdiff_t ph[IM2COLX_AXES];
            unflatten(phase, l->phases, ph);
            for (at[0] = 0; at[0] < l->size[0]; at[0]++)
                for (at[1] = 0; at[1] < l->size[1]; at[1]++) {
                    const ptrdiff_t i0 = start[0] + ph[0] + at[0] * step[0], i1 = start[1] + ph[1] + at[1] * step[1];
                    char *to = slab + (c * l->channel + ph[0] * l->phase[0] + ph[1] * l->phase[1] + ph[2] * l->phase[2]
                                       + at[0] * l->space[0] + at[1] * l->space[1]) * item;
                    const ptrdiff_t to_step = l->space[2] * item;
                    if (!is_inside(g, 0, i0) || !is_inside(g, 1, i1)) {
                        if (to_step == size) memset(to, 0, (size_t)(l->size[2] * size));
                        else for (ptrdiff_t i = 0; i < l->size[2]; i++) memset(to + i * to_step, 0, (size_t)size);
                        continue;
                    }
                    const char *row = (const char *)x->data + (c * x->channel + i0 * x->space[0] + i1 * x->space[1]) * item;
                    if (is_wide && to_step == size) {
                        /* whole pixels: only a contiguous copy or a copy of wide elements */
                        const range inside = inside_range(start[2] + ph[2], step[2], g->image[2], l->size[2]);
                        memset(to, 0, (size_t)(inside.begin * size));
                        memset(to + inside.end * size, 0, (size_t)((l->size[2] - inside.end) * size));
                        for (ptrdiff_t i = inside.begin; i < inside.end; i++)
                            memcpy(to + i * size, row + (start[2] + ph[2] + i * step[2]) * x->space[2] * item, (size_t)size);
                    } else {
                        fill_row(row, start[2] + ph[2], step[2], g->image[2], x->space[2] * item, l->size[2], size, to_step, kernel, to);
                    }
                }
        }
}
