/* The tables that the implicit method reads x and w through, and w packed into panels. */
#include "implicit.h"

#include <stdlib.h>
#include <string.h>

/* ---- Tables ----------------------------------------------------------------------------------------------------- */

/* How q is cut. Channels first: channels with all their taps, or the rows of a large kernel. Channels last: all of them, or
 * the channels of a tap. */
sum_cut cut_sum(const im2colx_geometry *g, int is_last)
{
    const ptrdiff_t taps = taps_of(g), columns = taps * g->channels;
    if (columns <= INNER) return (sum_cut){1, columns};
    if (is_last) return (sum_cut){taps, g->channels};
    if (taps > 2 * INNER) return (sum_cut){g->channels * g->kernel[0] * g->kernel[1], g->kernel[2]};
    const ptrdiff_t length = max_size(1, INNER / taps) * taps;
    return (sum_cut){divide_up(columns, length), length};
}

/* Offsets of q = (channel, tap) or (tap, channel) in x's layout and in w. */
static void offsets_of(const im2colx_geometry *g, int is_last, const slab_layout *x, const im2colx_tensor *w, ptrdiff_t q,
                       ptrdiff_t *in_x, ptrdiff_t *in_w)
{
    const ptrdiff_t taps = taps_of(g);
    const ptrdiff_t c = is_last ? q % g->channels : q / taps, t = is_last ? q / g->channels : q % taps;
    ptrdiff_t k[IM2COLX_AXES];
    unflatten(t, g->kernel, k);
    *in_x = c * x->channel + slab_tap(g, x, k);
    *in_w = c * w->channel + k[0] * w->space[0] + k[1] * w->space[1] + k[2] * w->space[2];
}

offset_tables make_tables(const im2colx_geometry *g, int is_last, sum_cut cut, const slab_layout *x, const im2colx_tensor *w,
                          ptrdiff_t *memory)
{
    offset_tables o = {.chunks = cut.chunks, .length = cut.length};
    o.last_length = g->channels * taps_of(g) - (o.chunks - 1) * o.length;
    o.x_inner = memory;
    o.w_inner = o.x_inner + o.length;
    o.x_chunk = o.w_inner + o.length;
    o.w_chunk = o.x_chunk + o.chunks;
    for (ptrdiff_t r = 0; r < o.length; r++) offsets_of(g, is_last, x, w, r, &o.x_inner[r], &o.w_inner[r]);
    for (ptrdiff_t s = 0; s < o.chunks; s++) offsets_of(g, is_last, x, w, s * o.length, &o.x_chunk[s], &o.w_chunk[s]);
    return o;
}

/* ---- Padding left out --------------------------------------------------------------------------------------------- */

/* Where the taps that fall inside the image change along an axis: ends of ranges of outputs, in order. */
enum { MOST_ENDS = 16 };

static int ends_of_axis(const im2colx_geometry *g, int axis, ptrdiff_t ends[MOST_ENDS])
{
    int count = 2;
    ends[0] = 0;
    ends[1] = g->output[axis];
    if (g->kernel[axis] > MOST_CLASS_TAPS) return 0;
    for (ptrdiff_t k = 0; k < g->kernel[axis]; k++) {
        const range reached = outputs_inside(g, axis, k);
        for (int side = 0; side < 2; side++) {
            const ptrdiff_t end = side ? reached.end : reached.begin;
            int at = 0;
            while (ends[at] < end) at++; /* not beyond the last, which is the output's own */
            if (ends[at] == end) continue;
            if (count == MOST_ENDS) return 0;
            memmove(ends + at + 1, ends + at, (size_t)(count - at) * sizeof *ends);
            ends[at] = end;
            count++;
        }
    }
    return count;
}

int find_classes(const im2colx_geometry *g, tap_class classes[MOST_CLASSES])
{
    ptrdiff_t ends[IM2COLX_AXES][MOST_ENDS], parts[IM2COLX_AXES], at[IM2COLX_AXES], taps = 0;
    for (int axis = 0; axis < IM2COLX_AXES; axis++) {
        parts[axis] = ends_of_axis(g, axis, ends[axis]) - 1;
        if (parts[axis] < 1) return 0;
    }
    const int count = (int)(parts[0] * parts[1] * parts[2]);
    if (count > MOST_CLASSES) return 0;
    for (int i = 0; i < count; i++) {
        tap_class c = {.taps = 1};
        unflatten(i, parts, at);
        for (int axis = 0; axis < IM2COLX_AXES; axis++) {
            c.outputs[axis] = (range){ends[axis][at[axis]], ends[axis][at[axis] + 1]};
            const range inside = taps_inside(g, axis, c.outputs[axis].begin);
            c.first[axis] = inside.begin;
            c.taps *= range_size(inside);
        }
        taps += c.taps;
        int to = i;
        for (; to > 0 && classes[to - 1].taps < c.taps; to--) classes[to] = classes[to - 1];
        classes[to] = c;
    }
    return taps <= MOST_CLASS_TAPS ? count : 0;
}

void fill_class(const im2colx_geometry *g, ptrdiff_t channels, tap_class *class, const slab_layout *x,
                const ptrdiff_t *b_all, ptrdiff_t *a, ptrdiff_t *b)
{
    range inside[IM2COLX_AXES];
    ptrdiff_t step[IM2COLX_AXES]; /* in x; a dilation without a second tap may be huge */
    for (int axis = 0; axis < IM2COLX_AXES; axis++) {
        inside[axis] = taps_inside(g, axis, class->outputs[axis].begin);
        step[axis] = range_size(inside[axis]) > 1 ? g->dilation[axis] * x->space[axis] : 0;
    }
    class->a_inner = a;
    class->b_inner = b;
    for (ptrdiff_t c = 0; c < channels; c++)
        for (ptrdiff_t k0 = inside[0].begin; k0 < inside[0].end; k0++)
            for (ptrdiff_t k1 = inside[1].begin; k1 < inside[1].end; k1++)
                for (ptrdiff_t k2 = inside[2].begin; k2 < inside[2].end; k2++) {
                    const ptrdiff_t r = ((c * g->kernel[0] + k0) * g->kernel[1] + k1) * g->kernel[2] + k2;
                    *a++ = c * x->channel + (k0 - inside[0].begin) * step[0] + (k1 - inside[1].begin) * step[1]
                           + (k2 - inside[2].begin) * step[2];
                    *b++ = b_all[r];
                }
}

/* ---- Panels of w ------------------------------------------------------------------------------------------------- */

void pack_panel(const offset_tables *o, const microkernel *kernel, const char *w, ptrdiff_t w_outer, ptrdiff_t filled,
                ptrdiff_t width, ptrdiff_t begin, ptrdiff_t end, char *to)
{
    const ptrdiff_t size = (ptrdiff_t)im2colx_itemsize(kernel->type);
    for (ptrdiff_t q = begin; q < end; q++, to += width * size)
        kernel->pack_row(w + (o->w_chunk[q / o->length] + o->w_inner[q % o->length]) * size, w_outer, filled, width, to);
}

size_t im2colx_packed_bytes(const im2colx_geometry *g, im2colx_type type)
{
    const microkernel *kernel = find_microkernel(type);
    return (size_t)(g->groups * panels_of(g->filters, kernel) * panel_width(g->filters, kernel) * g->channels * taps_of(g))
           * im2colx_itemsize(type);
}

/* Columns of a panel that are a task: some microseconds, so that packing is shared evenly and can be stopped. */
enum { PACK_COLUMNS = 1024 };

typedef struct {
    const im2colx_call *call;
    const microkernel *kernel;
    offset_tables tables;
    ptrdiff_t columns, parts; /* of a panel */
    char *packed;
} packing;

static void pack_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const packing *s = argument;
    const im2colx_geometry *g = &s->call->geometry;
    const ptrdiff_t size = (ptrdiff_t)im2colx_itemsize(s->call->type), width = panel_width(g->filters, s->kernel);
    const ptrdiff_t vectors = divide_up(g->filters, s->kernel->lanes), panels = panels_of(g->filters, s->kernel);
    const ptrdiff_t part = task % s->parts, panel = task / s->parts % panels, group = task / s->parts / panels;
    const ptrdiff_t begin = even_cut(s->columns, s->parts, part), end = even_cut(s->columns, s->parts, part + 1);
    const ptrdiff_t f = even_cut(vectors, panels, panel) * s->kernel->lanes;
    const ptrdiff_t f_end = min_size(even_cut(vectors, panels, panel + 1) * s->kernel->lanes, g->filters);
    (void)worker, (void)job;
    pack_panel(&s->tables, s->kernel, (const char *)s->call->w.data + (group * g->filters + f) * s->call->w.outer * size,
               s->call->w.outer, f_end - f, width, begin, end,
               s->packed + ((group * panels + panel) * s->columns + begin) * width * size);
}

im2colx_status im2colx_pack(const im2colx_call *call, im2colx_order order, void *packed)
{
    const im2colx_geometry *g = &call->geometry;
    const int is_last = order == IM2COLX_CHANNELS_LAST;
    const sum_cut cut = cut_sum(g, is_last);
    ptrdiff_t *memory = malloc((size_t)table_entries(cut) * sizeof(ptrdiff_t));
    if (!memory) return IM2COLX_NO_MEMORY;
    static const slab_layout none; /* only w is read */
    packing s = {.call = call, .kernel = find_microkernel(call->type), .columns = g->channels * taps_of(g), .packed = packed};
    s.tables = make_tables(g, is_last, cut, &none, &call->w, memory);
    s.parts = divide_up(s.columns, PACK_COLUMNS);
    const ptrdiff_t tasks = g->groups * panels_of(g->filters, s.kernel) * s.parts;
    const im2colx_status status = im2colx_run(tasks, call->threads, pack_task, &s, call->poll);
    free(memory);
    return status;
}
