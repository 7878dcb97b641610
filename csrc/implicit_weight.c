/* The gradient with respect to w, by the same microkernels: a row for each column q of Phi, filters in lanes, and the sum
 * runs over outputs,
 *
 *     w[f, q] = sum over p of  x[base(p) + off(q)] * y[p, f].
 *
 * A task has some channels of a group and one panel of filters. It goes through the outputs in bands: x is read where it lies
 * or from a slab, y is turned into a panel [p][lanes] (with channels last it is one), and each band's sum is added to the
 * task's part of w. The bands are the same for any number of threads, and so are the bits.
 */
#include "implicit.h"

#include <stdlib.h>
#include <string.h>

/* Outputs of a band: with a panel of 256 bytes a row, 64 KiB. */
enum { BAND = 256 };
/* Rows of a task's part of w: with the same panel, 256 KiB. */
enum { MOST_ROWS = 1024 };
enum { SLAB_ELEMENTS = 64 << 10 };

typedef struct {
    const im2colx_call *call;
    const im2colx_geometry *g;
    const microkernel *kernel;
    int is_last, is_slab, is_y_panel;
    ptrdiff_t size, taps, width, panels, parts;
    ptrdiff_t channels; /* of a task */
    ptrdiff_t band[IM2COLX_AXES], bands[IM2COLX_AXES];
    slab_layout layout;
    int threads;
    ptrdiff_t slab_elements, panel_elements, sum_elements; /* of a thread */
    ptrdiff_t bytes_each;
    char *memory;
} weight_gradient;

/* Outputs `first` to first + count as a panel, pixel after pixel, and their offsets in x. */
static void take_band(const weight_gradient *s, const char *y, ptrdiff_t filled, const ptrdiff_t first[IM2COLX_AXES],
                      const ptrdiff_t count[IM2COLX_AXES], char *panel, ptrdiff_t *x_offset, ptrdiff_t *y_offset)
{
    const im2colx_tensor *t = &s->call->y;
    const ptrdiff_t pixels = count[0] * count[1] * count[2];
    /* Rows of y that follow one another are one long row. */
    const int is_one_row = t->space[2] == 1 && count[0] == 1 && (count[1] == 1 || t->space[1] == count[2]);
    const ptrdiff_t row = is_one_row ? pixels : count[2];
    ptrdiff_t at[IM2COLX_AXES] = {0, 0, 0};
    for (ptrdiff_t i = 0; i < pixels; i++) {
        x_offset[i] = at[0] * s->layout.step[0] + at[1] * s->layout.step[1] + at[2] * s->layout.step[2];
        y_offset[i] = (first[0] + at[0]) * t->space[0] + (first[1] + at[1]) * t->space[1] + (first[2] + at[2]) * t->space[2];
        if (++at[2] == count[2]) next_row(count, at);
    }
    if (s->is_y_panel) return;
    if (t->space[2] == 1 && t->channel != 1) { /* a row of pixels for each filter becomes a row of filters for each pixel */
        for (ptrdiff_t i = 0; i < pixels; i += row)
            s->kernel->store(y + y_offset[i] * s->size, t->channel, filled, row, panel + i * s->width * s->size, 1, s->width);
        for (ptrdiff_t i = 0; i < pixels && filled < s->width; i++)
            memset(panel + (i * s->width + filled) * s->size, 0, (size_t)((s->width - filled) * s->size));
    } else {
        for (ptrdiff_t i = 0; i < pixels; i++)
            s->kernel->pack_row(y + y_offset[i] * s->size, t->channel, filled, s->width, panel + i * s->width * s->size);
    }
    for (ptrdiff_t i = 0; i < pixels; i++) y_offset[i] = i * s->width;
}

static void weight_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const weight_gradient *s = argument;
    const im2colx_geometry *g = s->g;
    const microkernel *kernel = s->kernel;
    const ptrdiff_t size = s->size, lanes = kernel->lanes;
    const ptrdiff_t panel = task % s->panels, part = task / s->panels % s->parts, group = task / s->panels / s->parts;
    const ptrdiff_t vectors = divide_up(g->filters, lanes), f = even_cut(vectors, s->panels, panel) * lanes;
    const ptrdiff_t nv = even_cut(vectors, s->panels, panel + 1) - even_cut(vectors, s->panels, panel);
    const ptrdiff_t filled = min_size(nv * lanes, g->filters - f);
    const ptrdiff_t c_begin = even_cut(g->channels, s->parts, part), c_end = even_cut(g->channels, s->parts, part + 1);
    const ptrdiff_t rows = (c_end - c_begin) * s->taps, blocks = divide_up(rows, MICRO_ROWS);
    char *slab = s->memory + worker * s->bytes_each;
    char *y_panel = slab + s->slab_elements * size, *sums = y_panel + s->panel_elements * size;
    ptrdiff_t *x_offset = (ptrdiff_t *)(sums + s->sum_elements * size), *y_offset = x_offset + BAND;
    int accumulate = 0;
    for (ptrdiff_t n = 0; n < g->batch; n++)
        for (ptrdiff_t band = 0; band < s->bands[0] * s->bands[1] * s->bands[2]; band++) {
            if (im2colx_stopped(job)) return;
            ptrdiff_t first[IM2COLX_AXES], count[IM2COLX_AXES];
            unflatten(band, s->bands, first);
            for (int axis = 0; axis < IM2COLX_AXES; axis++) {
                first[axis] *= s->band[axis];
                count[axis] = min_size(s->band[axis], g->output[axis] - first[axis]);
            }
            im2colx_tensor x = s->call->x;
            x.data = (char *)x.data + (n * x.outer + (group * g->channels + c_begin) * x.channel) * size;
            const char *source = slab;
            if (s->is_slab) {
                fill_slab(g, &s->layout, &x, c_end - c_begin, first, kernel, slab);
            } else {
                ptrdiff_t offset = 0;
                for (int axis = 0; axis < IM2COLX_AXES; axis++)
                    offset += first[axis] * s->layout.step[axis] - g->pad[axis] * x.space[axis];
                source = (char *)x.data + offset * size;
            }
            const char *y = (const char *)s->call->y.data
                            + (n * s->call->y.outer + (group * g->filters + f) * s->call->y.channel) * size;
            take_band(s, y, filled, first, count, y_panel, x_offset, y_offset);
            const ptrdiff_t zero = 0, pixels = count[0] * count[1] * count[2];
            const micro_sum sum = {1, pixels, pixels, &zero, &zero, x_offset, y_offset};
            for (ptrdiff_t block = 0; block < blocks; block++) {
                const ptrdiff_t q = even_cut(rows, blocks, block), mr = even_cut(rows, blocks, block + 1) - q;
                const void *a[MICRO_ROWS];
                void *c[MICRO_ROWS];
                for (ptrdiff_t i = 0; i < mr; i++) {
                    ptrdiff_t k[IM2COLX_AXES];
                    unflatten((q + i) % s->taps, g->kernel, k);
                    c[i] = sums + (q + i) * s->width * size;
                    a[i] = source + ((q + i) / s->taps * s->layout.channel + slab_tap(g, &s->layout, k)) * size;
                }
                kernel->function[mr - 1][nv - 1](&sum, a, s->is_y_panel ? y : y_panel, c, accumulate);
            }
            accumulate = 1;
        }
    const im2colx_tensor *w = &s->call->w;
    char *const to = (char *)w->data + ((group * g->filters + f) * w->outer + c_begin * w->channel) * size;
    if (is_filter_block(g, w)) { /* neighbours in w */
        kernel->store(sums, s->width, rows, filled, to, 1, w->outer);
        return;
    }
    for (ptrdiff_t q = 0; q < rows; q++) {
        ptrdiff_t k[IM2COLX_AXES];
        unflatten(q % s->taps, g->kernel, k);
        const ptrdiff_t offset = q / s->taps * w->channel + k[0] * w->space[0] + k[1] * w->space[1] + k[2] * w->space[2];
        kernel->store(sums + q * s->width * size, s->width, 1, filled, to + offset * size, 0, w->outer);
    }
}

im2colx_status implicit_grad_weight(const im2colx_call *call, im2colx_order order, im2colx_implicit_facts *facts_only)
{
    const im2colx_geometry *g = &call->geometry;
    weight_gradient s = {.call = call, .g = g, .kernel = find_microkernel(call->type)};
    s.is_last = order == IM2COLX_CHANNELS_LAST;
    s.is_slab = needs_padding(g);
    s.is_y_panel = call->y.channel == 1 && g->filters % s.kernel->lanes == 0;
    s.size = (ptrdiff_t)im2colx_itemsize(call->type);
    s.taps = taps_of(g);
    s.threads = im2colx_workers(IM2COLX_MAX_THREADS, call->threads);
    s.panels = panels_of(g->filters, s.kernel);
    s.width = panel_width(g->filters, s.kernel);
    /* Channels are cut until the sums fit; then, for the threads, only as far as they have something to share. */
    s.parts = min_size(g->channels, divide_up(g->channels * s.taps, MOST_ROWS));
    const ptrdiff_t tasks = g->groups * s.panels, most_channels = divide_up(g->channels, s.parts);
    if (tasks * s.parts < 8 * s.threads && tasks * s.parts % s.threads) s.parts = min_size(g->channels, s.parts * s.threads);
    s.channels = divide_up(g->channels, s.parts);
    for (int axis = 0; axis < IM2COLX_AXES; axis++) s.band[axis] = g->output[axis];
    for (;;) { /* as few outputs as it takes for the panel, and for a slab of one thread: whatever the threads */
        s.layout = layout_of_slab(g, most_channels, s.band, 0, s.is_last, s.size);
        const int fits = s.band[0] * s.band[1] * s.band[2] <= BAND && (!s.is_slab || s.layout.elements <= SLAB_ELEMENTS);
        int axis = 0;
        while (axis < IM2COLX_AXES - 1 && s.band[axis] == 1) axis++;
        if (fits || s.band[axis] == 1) break;
        s.band[axis] = divide_up(s.band[axis], 2);
    }
    for (int axis = 0; axis < IM2COLX_AXES; axis++) s.bands[axis] = divide_up(g->output[axis], s.band[axis]);
    s.layout = s.is_slab ? layout_of_slab(g, s.channels, s.band, 0, s.is_last, s.size) : layout_of_image(g, &call->x);
    s.slab_elements = s.is_slab ? divide_up(s.layout.elements, 16) * 16 : 0;
    s.panel_elements = s.is_y_panel ? 0 : BAND * s.width;
    s.sum_elements = limited_product(divide_up(s.channels * s.taps * s.width, 16), 16);
    s.bytes_each = (s.slab_elements + s.panel_elements + s.sum_elements) * s.size + 2 * BAND * (ptrdiff_t)sizeof(ptrdiff_t);
    s.bytes_each = divide_up(s.bytes_each, 64) * 64;
    const size_t bytes = (size_t)(s.bytes_each * s.threads);
    if (facts_only) {
        const double vectors = (double)divide_up(g->filters, s.kernel->lanes), columns = (double)(g->channels * s.taps);
        const double outputs = (double)(g->batch * g->groups) * (double)outputs_of(g);
        facts_only->workspace_bytes = bytes;
        /* A vector of filters is packed in 10 cycles, an output's places cost 60; one vector alone waits for its sums. */
        facts_only->cycles = outputs * (vectors * (columns / 2 * (vectors < 2 ? 1.5 : 1) + 10) + 60);
        facts_only->multiply_adds = outputs * columns * (double)g->filters;
        facts_only->tasks = tasks * s.parts;
        facts_only->convolutions = 1;
        return IM2COLX_OK;
    }
    if (!(s.memory = aligned_alloc(64, bytes))) return IM2COLX_NO_MEMORY;
    const im2colx_status status = im2colx_run(tasks * s.parts, s.threads, weight_task, &s, call->poll);
    free(s.memory);
    return status;
}
