/* The tables that the implicit method reads x and w through, and w packed into panels. */
#include "implicit.h"

#include <stdlib.h>

/* ---- Tables ----------------------------------------------------------------------------------------------------- */

/* How q is cut. Channels first: channels with all their taps, or the rows of a large kernel. Channels last: all of them, or
 * the channels of a tap. */
void cut_sum(const im2colx_geometry *g, int is_last, ptrdiff_t *chunks, ptrdiff_t *length)
{
    const ptrdiff_t taps = taps_of(g), columns = taps * g->channels;
    if (columns <= INNER) {
        *chunks = 1;
        *length = columns;
    } else if (is_last) {
        *chunks = taps;
        *length = g->channels;
    } else if (taps > 2 * INNER) {
        *chunks = g->channels * g->kernel[0] * g->kernel[1];
        *length = g->kernel[2];
    } else {
        *length = max_size(1, INNER / taps) * taps;
        *chunks = divide_up(columns, *length);
    }
}

ptrdiff_t table_entries(const im2colx_geometry *g, int is_last)
{
    ptrdiff_t chunks, length;
    cut_sum(g, is_last, &chunks, &length);
    return 2 * (chunks + length);
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

offset_tables make_tables(const im2colx_geometry *g, int is_last, const slab_layout *x, const im2colx_tensor *w,
                          ptrdiff_t *memory)
{
    offset_tables o;
    cut_sum(g, is_last, &o.chunks, &o.length);
    o.last_length = g->channels * taps_of(g) - (o.chunks - 1) * o.length;
    o.x_inner = memory;
    o.w_inner = o.x_inner + o.length;
    o.x_chunk = o.w_inner + o.length;
    o.w_chunk = o.x_chunk + o.chunks;
    for (ptrdiff_t r = 0; r < o.length; r++) offsets_of(g, is_last, x, w, r, &o.x_inner[r], &o.w_inner[r]);
    for (ptrdiff_t s = 0; s < o.chunks; s++) offsets_of(g, is_last, x, w, s * o.length, &o.x_chunk[s], &o.w_chunk[s]);
    return o;
}

/* ---- Panels of w ------------------------------------------------------------------------------------------------- */

/* Where column r of a chunk lies in the chunk of a panel. Rows of taps are outermost, so that a part of them (group_part) is
 * one stretch of memory: the prefetchers of the caches follow no gaps. */
ptrdiff_t place_in_panel(const im2colx_geometry *g, int is_last, ptrdiff_t length, ptrdiff_t r)
{
    const ptrdiff_t taps = taps_of(g), row = g->kernel[2], channels = length / taps;
    if (is_last || length % taps) return r;
    const ptrdiff_t c = r / taps, k0 = r % taps / row / g->kernel[1], k1 = r % taps / row % g->kernel[1], k2 = r % row;
    return ((k1 * channels + c) * g->kernel[0] + k0) * row + k2;
}

/* Columns `begin` to `end` of a panel, whole chunks of it: to[place of q][lane] = w[f + lane][q], zero beyond `filled`. */
void pack_panel(const offset_tables *o, const ptrdiff_t *place, const microkernel *kernel, const char *w,
                       ptrdiff_t w_outer, ptrdiff_t filled, ptrdiff_t width, ptrdiff_t begin, ptrdiff_t end, char *to)
{
    const ptrdiff_t size = (ptrdiff_t)im2colx_itemsize(kernel->type);
    for (ptrdiff_t q = begin; q < end; q++) {
        const ptrdiff_t chunk = q / o->length, r = q % o->length, offset = o->w_chunk[chunk] + o->w_inner[r];
        kernel->pack_row(w + offset * size, w_outer, filled, width, to + (chunk * o->length * width - begin * width + place[r]) * size);
    }
}

size_t im2colx_packed_bytes(const im2colx_geometry *g, im2colx_type type, im2colx_order order)
{
    const microkernel *kernel = find_microkernel(type);
    ptrdiff_t chunks, length;
    cut_sum(g, order == IM2COLX_CHANNELS_LAST, &chunks, &length);
    return (size_t)(g->groups * panels_of(g->filters, kernel) * panel_width(g->filters, kernel) * chunks * length)
           * im2colx_itemsize(type);
}

im2colx_status im2colx_pack(const im2colx_call *call, im2colx_order order, void *packed)
{
    const im2colx_geometry *g = &call->geometry;
    const microkernel *kernel = find_microkernel(call->type);
    const ptrdiff_t size = (ptrdiff_t)im2colx_itemsize(call->type), columns = g->channels * taps_of(g);
    const ptrdiff_t vectors = divide_up(g->filters, kernel->lanes), panels = panels_of(g->filters, kernel);
    const ptrdiff_t width = panel_width(g->filters, kernel);
    const int is_last = order == IM2COLX_CHANNELS_LAST;
    ptrdiff_t *memory = malloc((size_t)(2 * table_entries(g, is_last)) * sizeof(ptrdiff_t));
    if (!memory) return IM2COLX_NO_MEMORY;
    const slab_layout none = {.phases = {1, 1, 1}};
    const offset_tables tables = make_tables(g, is_last, &none, &call->w, memory);
    ptrdiff_t *place = memory + table_entries(g, is_last);
    for (ptrdiff_t r = 0; r < tables.length; r++) place[r] = place_in_panel(g, is_last, tables.length, r) * width;
    for (ptrdiff_t group = 0; group < g->groups; group++)
        for (ptrdiff_t panel = 0; panel < panels; panel++) {
            const ptrdiff_t f = even_cut(vectors, panels, panel) * kernel->lanes;
            const ptrdiff_t end = even_cut(vectors, panels, panel + 1) * kernel->lanes;
            pack_panel(&tables, place, kernel, (const char *)call->w.data + (group * g->filters + f) * call->w.outer * size,
                       call->w.outer, min_size(end, g->filters) - f, width, 0, columns,
                       (char *)packed + (group * panels + panel) * width * tables.chunks * tables.length * size);
        }
    free(memory);
    return IM2COLX_OK;
}
