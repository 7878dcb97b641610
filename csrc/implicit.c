/* "implicit": convolution without a patch matrix or a tile of it. The microkernels read x through the index map.
 *
 * Two orientations of the same sum (microkernels/microkernel.h):
 *
 *   pixels in lanes    channels first. A vector holds neighbouring outputs of a row; with the padded rows of x one after
 *                      another, a run of outputs goes on from row to row, so that a tap is a constant shift of it. The few
 *                      outputs that fall between two rows are computed and dropped at the store. w is read where it lies.
 *   filters in lanes   any layout. A vector holds neighbouring filters, from panels of w [q][lanes]; x is only broadcast, so
 *                      outputs may lie anywhere and none is wasted. With channels last w is such a panel already;
 *                      otherwise a plan has packed it, or a piece of it is packed when it is needed.
 *
 * x is read where it lies if nothing is padded; otherwise each task copies the padded rows that it needs (slab.h).
 * The gradient with respect to x is this convolution again, of the gradient of y with the filters turned round, one for each
 * stride phase of x. The gradient with respect to w is in implicit_weight.c.
 *
 * Bits do not depend on threads, batch or alignment: an output is one sum over q in a fixed order, cut into pieces at fixed
 * places. (A plan that leaves out rows of padding adds up the rest in another order than one that may not.)
 */
#include "implicit.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* A slab of one thread: about a second-level cache of 1 MiB. Smaller ones copy more rows twice; ResNet and VGG layers took 2
 * to 5 % longer with half of it, and 2 % longer with twice as much. */
enum { SLAB_BYTES = 1088 << 10 };
/* Panels of at most this many bytes are packed once for a call. */
enum { PACK_FIRST_BYTES = 256 << 10 };
/* A workspace up to this size is on the stack: a tiny call takes less than an allocation. */
enum { SMALL_WORKSPACE = 8 << 10 };
/* Outputs at once with filters in lanes: with a panel of 256 bytes a row, 64 KiB of sums. */
enum { BAND_PIXELS = 256 };

/* ---- A convolution and its tasks --------------------------------------------------------------------------------- */

typedef struct {
    const im2colx_call *call;
    const im2colx_geometry *g;
    const microkernel *kernel;
    const char *packed;       /* panels of w, or NULL */
    int is_last;
    int is_filters;           /* filters in lanes */
    int is_slab;              /* x is copied; otherwise read where it lies */
    int skips_rows;           /* taps above and below the image are left out: every weight is finite */
    int packs_first;          /* a small w is packed before the tasks, not by each of them */
    int is_w_panel;           /* w is a panel as it lies: filters are neighbours, and whole vectors */
    ptrdiff_t size;           /* bytes of an element */
    ptrdiff_t w_group;        /* elements of w from group to group */
    slab_layout layout;
    offset_tables tables;
    ptrdiff_t band[IM2COLX_AXES]; /* outputs of a task: all of some axes, a part of others */
    ptrdiff_t bands[IM2COLX_AXES];
    ptrdiff_t filter_parts, tasks;
    int threads;
    ptrdiff_t slab_elements, scratch_elements, panel_elements; /* of a thread */
    char *slabs, *scratches, *panels;
} convolution;

/* Cuts the outputs into bands, rows first, until a slab fits and there are `least` of them. */
static void cut_bands(convolution *s, ptrdiff_t least)
{
    const im2colx_geometry *g = s->g;
    for (int axis = 0; axis < IM2COLX_AXES; axis++) s->band[axis] = g->output[axis];
    for (;;) {
        s->layout = layout_of_slab(g, g->channels, s->band, !s->is_filters, s->is_last, s->size);
        ptrdiff_t count = 1;
        for (int axis = 0; axis < IM2COLX_AXES; axis++) count *= divide_up(g->output[axis], s->band[axis]);
        if ((!s->is_slab || s->layout.elements * s->size <= SLAB_BYTES) && count >= least) break;
        int axis = 0;
        while (axis < IM2COLX_AXES - 1 && s->band[axis] == 1) axis++;
        if (s->band[axis] == 1) break;
        s->band[axis] = divide_up(s->band[axis], 2);
    }
    for (int axis = 0; axis < IM2COLX_AXES; axis++) {
        s->bands[axis] = divide_up(g->output[axis], s->band[axis]);
        s->band[axis] = divide_up(g->output[axis], s->bands[axis]);
    }
    s->layout = s->is_slab ? layout_of_slab(g, g->channels, s->band, !s->is_filters, s->is_last, s->size)
                           : layout_of_image(g, &s->call->x);
    /* Whole vectors are read beyond the last element of a run. */
    s->slab_elements = s->is_slab ? divide_up(s->layout.elements + MICRO_VECTORS * s->kernel->lanes, 16) * 16 : 0;
}

/* What a task computes: some outputs of one image, for some filters of one group. */
typedef struct {
    ptrdiff_t n, g, filter_part;
    ptrdiff_t first[IM2COLX_AXES], count[IM2COLX_AXES]; /* outputs */
    const char *x;                                      /* what tap 0 of the first output reads */
} piece;

static piece take_piece(const convolution *s, ptrdiff_t task, int worker)
{
    piece p;
    p.filter_part = task % s->filter_parts;
    task /= s->filter_parts;
    for (int axis = IM2COLX_AXES - 1; axis >= 0; axis--) {
        p.first[axis] = task % s->bands[axis] * s->band[axis];
        p.count[axis] = min_size(s->band[axis], s->g->output[axis] - p.first[axis]);
        task /= s->bands[axis];
    }
    p.g = task % s->g->groups;
    p.n = task / s->g->groups;
    im2colx_tensor x = s->call->x;
    x.data = (char *)x.data + (p.n * x.outer + p.g * s->g->channels * x.channel) * s->size;
    if (s->is_slab) {
        char *slab = s->slabs + worker * s->slab_elements * s->size;
        fill_slab(s->g, &s->layout, &x, s->g->channels, p.first, s->kernel, slab);
        p.x = slab;
    } else {
        ptrdiff_t offset = 0;
        for (int axis = 0; axis < IM2COLX_AXES; axis++)
            offset += p.first[axis] * s->layout.step[axis] - s->g->pad[axis] * x.space[axis];
        p.x = (char *)x.data + offset * s->size;
    }
    return p;
}

/* Chunks `begin` to begin + count of the sum. */
static micro_sum part_of_sum(const offset_tables *o, int is_weight_left, ptrdiff_t begin, ptrdiff_t count)
{
    micro_sum sum = {.chunks = min_size(count, o->chunks - begin), .length = o->length};
    sum.last_length = begin + sum.chunks == o->chunks ? o->last_length : o->length;
    sum.a_chunk = (is_weight_left ? o->w_chunk : o->x_chunk) + begin;
    sum.b_chunk = (is_weight_left ? o->x_chunk : o->w_chunk) + begin;
    sum.a_inner = is_weight_left ? o->w_inner : o->x_inner;
    sum.b_inner = is_weight_left ? o->x_inner : o->w_inner;
    return sum;
}

static char *y_at(const convolution *s, const piece *p, ptrdiff_t f, ptrdiff_t o0, ptrdiff_t o1)
{
    const im2colx_tensor *y = &s->call->y;
    return (char *)y->data + (p->n * y->outer + (p->g * s->g->filters + f) * y->channel + (p->first[0] + o0) * y->space[0]
                              + (p->first[1] + o1) * y->space[1] + p->first[2] * y->space[2]) * s->size;
}

static const char *bias_at(const convolution *s, const piece *p, ptrdiff_t f)
{
    return s->call->bias ? (const char *)s->call->bias + (p->g * s->g->filters + f) * s->size : NULL;
}

/* ---- Pixels in lanes ---------------------------------------------------------------------------------------------- */

/* A run of outputs: `rows` rows of `columns` outputs, `pitch` elements apart in x, and so `length` elements long. */
typedef struct {
    ptrdiff_t rows, columns, pitch, length;
    ptrdiff_t o0, o1;
} output_run;

/* Where the outputs of a tile go that begins `start` elements into the run and uses `used` of them. */
static micro_places places_of(const output_run *run, ptrdiff_t start, ptrdiff_t used, ptrdiff_t y_pitch, int lanes)
{
    micro_places places = {.vectors = (int)divide_up(used, lanes)};
    ptrdiff_t row = start / run->pitch, column = start % run->pitch;
    for (int j = 0; j < places.vectors; j++) {
        places.to[j] = column < run->columns ? row * y_pitch + column : (row + 1) * y_pitch;
        const ptrdiff_t end = min_size(lanes, used - j * lanes);
        for (ptrdiff_t lane = 0; lane < end;) { /* the rest of a row, at once */
            const ptrdiff_t n = min_size(run->pitch - column, end - lane), kept = min_size(n, run->columns - column);
            if (kept > 0) places.keep[j] |= (unsigned)(((1ull << kept) - 1) << lane);
            lane += n;
            column += n;
            if (column == run->pitch) {
                column = 0;
                row++;
            }
        }
    }
    return places;
}

/* Rows of y that do not follow one another, or with strides: row by row. */
static void store_by_rows(const convolution *s, const output_run *run, ptrdiff_t start, ptrdiff_t used, const char *c,
                          ptrdiff_t ldc, ptrdiff_t mr, char *y)
{
    const im2colx_tensor *t = &s->call->y;
    for (ptrdiff_t v = 0; v < used;) {
        const ptrdiff_t row = (start + v) / run->pitch, column = (start + v) % run->pitch;
        const ptrdiff_t n = min_size(used - v, run->pitch - column), kept = min_size(n, run->columns - column);
        if (kept > 0)
            s->kernel->store(c + v * s->size, ldc, mr, kept, y + (row * t->space[1] + column * t->space[2]) * s->size,
                             t->channel, t->space[2]);
        v += n;
    }
}

static void compute_run(const convolution *s, const piece *p, const output_run *run, char *scratch, im2colx_job *job)
{
    const microkernel *kernel = s->kernel;
    const im2colx_tensor *y = &s->call->y;
    const ptrdiff_t size = s->size, lanes = kernel->lanes, at_once = piece_chunks(&s->tables);
    const ptrdiff_t f_begin = even_cut(s->g->filters, s->filter_parts, p->filter_part);
    const ptrdiff_t f_end = even_cut(s->g->filters, s->filter_parts, p->filter_part + 1);
    const ptrdiff_t blocks = divide_up(f_end - f_begin, MICRO_ROWS);
    const ptrdiff_t vectors = divide_up(run->length, lanes), tiles = divide_up(vectors, kernel->vectors);
    const char *x = p->x + (run->o0 * s->layout.step[0] + run->o1 * s->layout.step[1]) * size;
    const int is_packed_y = y->space[2] == 1 && (run->rows == 1 || y->space[1] == run->columns);
    const int is_dense = is_packed_y && (run->rows == 1 || run->pitch == run->columns);
    for (ptrdiff_t tile = 0; tile < tiles; tile++) {
        const ptrdiff_t nv = even_cut(vectors, tiles, tile + 1) - even_cut(vectors, tiles, tile);
        ptrdiff_t start = even_cut(vectors, tiles, tile) * lanes;
        /* The last tile moves back to end with the run: x or y may end there. */
        if (start + nv * lanes > run->length && run->length >= nv * lanes) start = run->length - nv * lanes;
        const ptrdiff_t used = min_size(nv * lanes, run->length - start);
        const int is_direct = is_dense && used == nv * lanes;
        const ptrdiff_t ldc = is_direct ? y->channel : nv * lanes;
        const micro_places places = places_of(run, start, used, y->space[1], (int)lanes);
        if (im2colx_stopped(job)) return;
        for (ptrdiff_t block = 0; block < blocks; block++) {
            const ptrdiff_t f = f_begin + even_cut(f_end - f_begin, blocks, block);
            const ptrdiff_t mr = f_begin + even_cut(f_end - f_begin, blocks, block + 1) - f;
            const void *a[MICRO_ROWS];
            for (ptrdiff_t i = 0; i < mr; i++)
                a[i] = (const char *)s->call->w.data + (p->g * s->w_group + (f + i) * s->call->w.outer) * size;
            char *to = y_at(s, p, f, run->o0, run->o1), *c = is_direct ? to + start * size : scratch;
            const char *bias = bias_at(s, p, f);
            if (bias) kernel->fill(c, ldc, mr, nv * lanes, bias, 1, 0);
            for (ptrdiff_t chunk = 0; chunk < s->tables.chunks; chunk += at_once) {
                const micro_sum sum = part_of_sum(&s->tables, 1, chunk, at_once);
                kernel->function[mr - 1][nv - 1](&sum, a, x + start * size, c, ldc, bias || chunk);
            }
            if (is_direct) continue;
            if (is_packed_y) kernel->store_kept(c, ldc, mr, &places, to, y->channel);
            else store_by_rows(s, run, start, used, c, ldc, mr, to);
        }
    }
}

static void pixels_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const convolution *s = argument;
    const piece p = take_piece(s, task, worker);
    char *scratch = s->scratches + worker * s->scratch_elements * s->size;
    const ptrdiff_t pitch = s->layout.step[1];
    /* Rows run together if those of x follow one another; the element behind a row is then the next one's, or is dropped. */
    const int is_joined = pitch >= p.count[2];
    output_run run = {.rows = is_joined ? p.count[1] : 1, .columns = p.count[2], .pitch = is_joined ? pitch : p.count[2]};
    run.length = (run.rows - 1) * run.pitch + run.columns;
    if (run.rows == 1) run.pitch = run.columns;
    for (run.o0 = 0; run.o0 < p.count[0]; run.o0++)
        for (run.o1 = 0; run.o1 < p.count[1]; run.o1 += run.rows) compute_run(s, &p, &run, scratch, job);
}

/* ---- Filters in lanes --------------------------------------------------------------------------------------------- */

/* Some rows of taps (on axis 1), for the pixels of a group that they reach inside the image: the others would be multiplied by
 * zero. Without that, one part with all taps and all pixels. */
typedef struct {
    range taps, pixels;
    micro_sum sum;
} group_part;

enum { MOST_PARTS = 16 };

/* The parts of the pixels begin to end of a task, and how many they are. `memory` has room for the inner tables. */
static int parts_of_group(const convolution *s, const piece *p, range pixels, group_part parts[MOST_PARTS], ptrdiff_t *memory)
{
    const offset_tables *o = &s->tables;
    const ptrdiff_t kernel = s->g->kernel[1], row = s->g->kernel[2], taps = taps_of(s->g), columns = p->count[2];
    micro_sum all = part_of_sum(o, 0, 0, o->chunks);
    if (!s->is_w_panel || s->packed) { /* in a panel, column follows column */
        all.b_chunk = o->w_chunk + o->chunks;
        all.b_inner = o->w_chunk + 2 * o->chunks;
    }
    parts[0] = (group_part){{0, kernel}, pixels, all};
    if (!s->skips_rows || p->count[0] > 1) return 1;
    int count = 0;
    for (ptrdiff_t k = 0; k < kernel; k++) {
        const range rows = outputs_inside(s->g, 1, k);
        const range reached = {clamp_size((rows.begin - p->first[1]) * columns, pixels.begin, pixels.end),
                               clamp_size((rows.end - p->first[1]) * columns, pixels.begin, pixels.end)};
        if (count && parts[count - 1].pixels.begin == reached.begin && parts[count - 1].pixels.end == reached.end)
            parts[count - 1].taps.end = k + 1;
        else if (count == MOST_PARTS)
            return parts[0] = (group_part){{0, kernel}, pixels, all}, 1;
        else
            parts[count++] = (group_part){{k, k + 1}, reached, all};
    }
    for (int i = 0; i < count && count > 1; i++) {
        micro_sum *sum = &parts[i].sum;
        ptrdiff_t *a_inner = memory, *b_inner = memory + o->length, kept = 0;
        for (ptrdiff_t r = 0; r < o->length; r++) {
            const ptrdiff_t k = r % taps / row % kernel;
            if (k < parts[i].taps.begin || k >= parts[i].taps.end) continue;
            a_inner[kept] = all.a_inner[r];
            b_inner[kept++] = all.b_inner[r];
        }
        sum->a_inner = a_inner;
        sum->b_inner = b_inner;
        sum->length = kept;
        sum->last_length = o->last_length / taps * s->g->kernel[0] * range_size(parts[i].taps) * row;
        memory += kept; /* both tables move on: together the parts have as many entries as the whole */
    }
    return count;
}

static void compute_group(const convolution *s, const piece *p, range group, char *scratch, char *buffer, im2colx_job *job)
{
    const im2colx_geometry *g = s->g;
    const microkernel *kernel = s->kernel;
    const im2colx_tensor *y = &s->call->y;
    const offset_tables *o = &s->tables;
    const ptrdiff_t size = s->size, lanes = kernel->lanes, at_once = piece_chunks(o), *step = s->layout.step;
    const ptrdiff_t columns = g->channels * taps_of(g), width = panel_width(g->filters, kernel);
    const ptrdiff_t vectors = divide_up(g->filters, lanes), panels = panels_of(g->filters, kernel);
    const ptrdiff_t pixels = range_size(group);
    ptrdiff_t memory[2 * INNER], at[IM2COLX_AXES], n;
    group_part parts[MOST_PARTS];
    const int part_count = parts_of_group(s, p, group, parts, memory);
    const void *x[BAND_PIXELS]; /* what tap 0 of each pixel reads */
    unflatten(group.begin, p->count, at);
    for (ptrdiff_t i = 0; i < pixels; i++) {
        x[i] = p->x + (at[0] * step[0] + at[1] * step[1] + at[2] * step[2]) * size;
        if (++at[2] == p->count[2]) next_row(p->count, at);
    }
    for (ptrdiff_t panel = even_cut(panels, s->filter_parts, p->filter_part);
         panel < even_cut(panels, s->filter_parts, p->filter_part + 1); panel++) {
        const ptrdiff_t f = even_cut(vectors, panels, panel) * lanes;
        const ptrdiff_t nv = even_cut(vectors, panels, panel + 1) - even_cut(vectors, panels, panel);
        const ptrdiff_t filled = min_size(nv * lanes, g->filters - f);
        const char *w = (const char *)s->call->w.data + (p->g * s->w_group + f * s->call->w.outer) * size;
        const char *bias = bias_at(s, p, f);
        if (bias) kernel->fill(scratch, width, pixels, filled, bias, 0, 1);
        else if (part_count > 1) memset(scratch, 0, (size_t)(pixels * width * size));
        for (ptrdiff_t chunk = 0; chunk < o->chunks; chunk += at_once) {
            const char *b = w;
            if (s->packed) {
                b = s->packed + (p->g * panels + panel) * width * o->chunks * o->length * size;
            } else if (!s->is_w_panel) {
                const ptrdiff_t begin = chunk * o->length, end = min_size(columns, begin + at_once * o->length);
                pack_panel(o, o->w_chunk + 2 * o->chunks, kernel, w, s->call->w.outer, filled, width, begin, end, buffer);
                b = buffer - begin * width * size;
            }
            if (im2colx_stopped(job)) return;
            for (int part = 0; part < part_count; part++) {
                micro_sum sum = parts[part].sum;
                sum.chunks = min_size(at_once, o->chunks - chunk);
                if (chunk + sum.chunks < o->chunks) sum.last_length = sum.length;
                sum.a_chunk += chunk;
                sum.b_chunk += chunk;
                const ptrdiff_t first = parts[part].pixels.begin - group.begin, count = range_size(parts[part].pixels);
                const ptrdiff_t blocks = divide_up(count, MICRO_ROWS);
                for (ptrdiff_t block = 0; block < blocks; block++) {
                    const ptrdiff_t i = first + even_cut(count, blocks, block);
                    const ptrdiff_t mr = first + even_cut(count, blocks, block + 1) - i;
                    kernel->function[mr - 1][nv - 1](&sum, x + i, b, scratch + i * width * size, width,
                                                     bias || chunk || part_count > 1);
                }
            }
        }
        /* Rows of y that follow one another are one long row. */
        const int is_one_row = y->space[2] == 1 && p->count[0] == 1 && (p->count[1] == 1 || y->space[1] == p->count[2]);
        unflatten(group.begin, p->count, at);
        for (ptrdiff_t i = 0; i < pixels; i += n, next_row(p->count, at)) {
            n = is_one_row ? pixels : min_size(pixels - i, p->count[2] - at[2]);
            kernel->store(scratch + i * width * size, width, n, filled,
                          y_at(s, p, f, at[0], at[1]) + at[2] * y->space[2] * size, y->space[2], y->channel);
        }
    }
}

static void filters_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const convolution *s = argument;
    const piece p = take_piece(s, task, worker);
    const ptrdiff_t pixels = p.count[0] * p.count[1] * p.count[2];
    char *scratch = s->scratches + worker * s->scratch_elements * s->size;
    char *buffer = s->panels + worker * s->panel_elements * s->size;
    for (ptrdiff_t i = 0; i < pixels && !im2colx_stopped(job); i += BAND_PIXELS)
        compute_group(s, &p, (range){i, min_size(i + BAND_PIXELS, pixels)}, scratch, buffer, job);
}

/* ---- Choice ------------------------------------------------------------------------------------------------------- */

int needs_padding(const im2colx_geometry *g)
{
    for (int axis = 0; axis < IM2COLX_AXES; axis++) {
        const ptrdiff_t last = map_axis(g, axis, g->output[axis] - 1, g->kernel[axis] - 1);
        if (g->pad[axis] > 0 || last >= g->image[axis]) return 1;
    }
    return 0;
}

/* Cycles of one core for all of the work, by orientation: two vector products a cycle; what a store, a copied or a packed
 * element costs was measured on a Zen 5. Only which is less matters. */
static double estimate(const convolution *s)
{
    const im2colx_geometry *g = s->g;
    const double columns = (double)g->channels * (double)taps_of(g), filters = (double)g->filters;
    const double bands = (double)(s->bands[0] * s->bands[1] * s->bands[2]);
    const double slab = s->is_slab ? bands * (double)s->layout.elements * (s->layout.is_cut && g->stride[2] > 1 ? 0.5 : 0.15) : 0;
    double cycles = slab;
    if (s->is_filters) {
        const double vectors = (double)divide_up(g->filters, s->kernel->lanes), pixels = (double)outputs_of(g);
        const double narrow = vectors < 2 ? 1.5 : vectors < 3 ? 1.15 : 1.0; /* too few sums at once for the latency */
        cycles += pixels * (vectors * columns / 2 * narrow + filters * 0.3);
        if (s->packs_first)
            cycles += filters * columns / (double)max_size(1, g->batch);
        else if (!s->packed && !s->is_w_panel)
            cycles += divide_up(outputs_of(g), BAND_PIXELS) * filters * columns * 1.0;
    } else {
        const ptrdiff_t pitch = s->layout.step[1];
        const int is_joined = pitch >= s->band[2];
        const ptrdiff_t length = is_joined ? (s->band[1] - 1) * pitch + s->band[2] : s->band[2];
        const double vectors = bands * (double)s->band[0] * (is_joined ? 1.0 : (double)s->band[1])
                               * (double)divide_up(length, s->kernel->lanes);
        cycles += vectors * filters * (columns / 2 + (is_joined && pitch == s->band[2] ? 3 : 9));
    }
    return cycles;
}

static ptrdiff_t packed_bytes(const convolution *s)
{
    return (ptrdiff_t)im2colx_packed_bytes(s->g, s->call->type, s->is_last ? IM2COLX_CHANNELS_LAST : IM2COLX_CHANNELS_FIRST);
}

static void prepare(convolution *s)
{
    const im2colx_geometry *g = s->g;
    const im2colx_tensor *x = &s->call->x;
    const ptrdiff_t nr = s->kernel->lanes * s->kernel->vectors;
    s->is_slab = needs_padding(g);
    s->is_w_panel = s->call->w.outer == 1 && g->filters % s->kernel->lanes == 0;
    if (!s->is_filters) {
        const ptrdiff_t length = (g->output[1] - 1) * x->space[1] + g->output[2];
        /* Read in place only with neighbours in a row, where no vector reads beyond the end, and not with a power of two
         * from channel to channel, which would crowd a few sets of the cache. */
        s->is_slab |= g->stride[0] != 1 || g->stride[1] != 1 || g->stride[2] != 1 || x->space[2] != 1
                      || x->space[1] < g->output[2] || length < nr
                      || (x->channel * s->size % 2048 == 0 && g->channels > 8 && g->filters > MICRO_ROWS);
    }
    /* An even share for every thread: bands, and where they are few, filters. */
    const ptrdiff_t most = s->is_filters ? panels_of(g->filters, s->kernel) : divide_up(g->filters, MICRO_ROWS);
    cut_bands(s, divide_up(s->threads, max_size(1, g->batch * g->groups * most)));
    s->tasks = g->batch * g->groups * s->bands[0] * s->bands[1] * s->bands[2];
    s->filter_parts = 1;
    if (s->tasks < 8 * s->threads && s->tasks % s->threads) {
        s->filter_parts = min_size(most, s->threads);
        s->tasks *= s->filter_parts;
    }
    const ptrdiff_t width = s->is_filters ? panel_width(g->filters, s->kernel) : nr;
    ptrdiff_t chunks, length;
    cut_sum(g, s->is_last, &chunks, &length);
    s->scratch_elements = (s->is_filters ? min_size(BAND_PIXELS, s->band[0] * s->band[1] * s->band[2]) : MICRO_ROWS) * width;
    s->skips_rows &= s->is_filters && length % taps_of(g) == 0 && length <= INNER;
    const ptrdiff_t columns = max_size(1, PIECE_COLUMNS / length) * length;
    const int packs = s->is_filters && !s->packed && !s->is_w_panel;
    s->packs_first = packs && s->w_group == g->filters * s->call->w.outer && packed_bytes(s) <= PACK_FIRST_BYTES;
    s->panel_elements = packs && !s->packs_first ? width * min_size(columns, chunks * length) : 0;
}

static ptrdiff_t lines(ptrdiff_t bytes) { return divide_up(bytes, 64) * 64; }

/* Bytes of the tables, with those of a panel behind them. */
static ptrdiff_t table_bytes(const convolution *s)
{
    return lines(2 * table_entries(s->g, s->is_last) * (ptrdiff_t)sizeof(ptrdiff_t));
}

static ptrdiff_t workspace_of(const convolution *s)
{
    return table_bytes(s) + lines((s->slab_elements + s->scratch_elements + s->panel_elements) * s->size) * s->threads
           + (s->packs_first ? lines(packed_bytes(s)) : 0);
}

/* The better orientation, or the one that was asked for. `w_group`: elements of w from group to group. */
static convolution choose(const im2colx_call *call, const im2colx_implicit_options *options, ptrdiff_t w_group)
{
    convolution s = {.call = call, .g = &call->geometry, .kernel = find_microkernel(call->type)};
    s.packed = options->packed;
    s.is_last = options->order == IM2COLX_CHANNELS_LAST;
    s.size = (ptrdiff_t)im2colx_itemsize(call->type);
    s.w_group = w_group;
    s.threads = im2colx_workers(IM2COLX_MAX_THREADS, call->threads);
    s.skips_rows = options->is_finite && !s.is_last;
    s.is_filters = s.is_last || options->orientation == IM2COLX_FILTERS_IN_LANES;
    prepare(&s);
    if (s.is_last || options->orientation != IM2COLX_EITHER) return s;
    convolution other = s;
    other.is_filters = 1;
    prepare(&other);
    return estimate(&s) <= estimate(&other) ? s : other;
}

/* ---- Forward ------------------------------------------------------------------------------------------------------ */

static im2colx_status convolve(convolution *s)
{
    _Alignas(64) char small[SMALL_WORKSPACE];
    const ptrdiff_t bytes = workspace_of(s);
    char *memory = bytes <= SMALL_WORKSPACE ? small : aligned_alloc(64, (size_t)bytes);
    if (!memory) return IM2COLX_NO_MEMORY;
    s->tables = make_tables(s->g, s->is_last, &s->layout, &s->call->w, (ptrdiff_t *)memory);
    const ptrdiff_t width = panel_width(s->g->filters, s->kernel);
    ptrdiff_t *panel_chunk = s->tables.w_chunk + s->tables.chunks, *panel_inner = panel_chunk + s->tables.chunks;
    for (ptrdiff_t c = 0; c < s->tables.chunks; c++) panel_chunk[c] = c * s->tables.length * width;
    for (ptrdiff_t r = 0; r < s->tables.length; r++)
        panel_inner[r] = place_in_panel(s->g, s->is_last, s->tables.length, r) * width;
    s->slabs = memory + table_bytes(s);
    s->scratches = s->slabs + s->slab_elements * s->threads * s->size;
    s->panels = s->scratches + s->scratch_elements * s->threads * s->size;
    im2colx_status status = IM2COLX_OK;
    if (s->packs_first) {
        char *packed = memory + bytes - lines(packed_bytes(s));
        status = im2colx_pack(s->call, s->is_last ? IM2COLX_CHANNELS_LAST : IM2COLX_CHANNELS_FIRST, packed);
        s->packed = packed;
    }
    if (!status) status = im2colx_run(s->tasks, s->threads, s->is_filters ? filters_task : pixels_task, s, s->call->poll);
    if (memory != small) free(memory);
    return status;
}

/* ---- Gradient with respect to x ------------------------------------------------------------------------------------ */

static ptrdiff_t greatest_divisor(ptrdiff_t a, ptrdiff_t b)
{
    while (b) {
        const ptrdiff_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* The elements i = stride*m + phase of x, on one axis. Only taps k = k0 + step*j reach them, from outputs
 * o = m + shift - j*dilation: a convolution of stride 1 with the taps in reverse. Returns 0 if there are none. */
static int phase_axis(im2colx_call *part, const im2colx_geometry *g, int axis, ptrdiff_t phase)
{
    const ptrdiff_t s = g->stride[axis], d = g->dilation[axis], divisor = greatest_divisor(s, d), step = s / divisor;
    ptrdiff_t k0 = 0;
    while (k0 < step && (phase + g->pad[axis] - k0 * d) % s) k0++;
    if (k0 == step || k0 >= g->kernel[axis] || phase >= g->image[axis]) return 0;
    im2colx_geometry *to = &part->geometry;
    const ptrdiff_t taps = (g->kernel[axis] - 1 - k0) / step + 1;
    to->image[axis] = g->output[axis];
    to->output[axis] = (g->image[axis] - phase - 1) / s + 1;
    to->kernel[axis] = taps;
    to->stride[axis] = 1;
    to->dilation[axis] = d / divisor;
    to->pad[axis] = (taps - 1) * to->dilation[axis] - (phase + g->pad[axis] - k0 * d) / s;
    const ptrdiff_t size = (ptrdiff_t)im2colx_itemsize(part->type);
    part->w.data = (char *)part->w.data + (k0 + (taps - 1) * step) * part->w.space[axis] * size;
    part->w.space[axis] *= -step;
    part->y.data = (char *)part->y.data + phase * part->y.space[axis] * size;
    part->y.space[axis] *= s;
    return 1;
}

/* Elements of x that no tap reaches. */
static void zero_phase(const im2colx_call *call, const ptrdiff_t phase[IM2COLX_AXES])
{
    const im2colx_geometry *g = &call->geometry;
    const size_t size = im2colx_itemsize(call->type);
    for (ptrdiff_t image = 0; image < g->batch * g->groups * g->channels; image++) {
        const ptrdiff_t n = image / (g->groups * g->channels), c = image % (g->groups * g->channels);
        for (ptrdiff_t i0 = phase[0]; i0 < g->image[0]; i0 += g->stride[0])
            for (ptrdiff_t i1 = phase[1]; i1 < g->image[1]; i1 += g->stride[1])
                for (ptrdiff_t i2 = phase[2]; i2 < g->image[2]; i2 += g->stride[2])
                    memset((char *)call->x.data + (n * call->x.outer + c * call->x.channel + i0 * call->x.space[0]
                                                   + i1 * call->x.space[1] + i2 * call->x.space[2]) * (ptrdiff_t)size, 0, size);
    }
}

static im2colx_status convolve_phase(convolution *s, void *unused)
{
    (void)unused;
    return convolve(s);
}

/* Calls `each` for every stride phase of x as a convolution of the gradient of y. */
static im2colx_status for_phases(const im2colx_call *call, const im2colx_implicit_options *options,
                                 im2colx_status (*each)(convolution *, void *), void *argument)
{
    const im2colx_geometry *g = &call->geometry;
    const im2colx_implicit_options plain = {.order = options->order, .orientation = options->orientation};
    for (ptrdiff_t phase = 0; phase < g->stride[0] * g->stride[1] * g->stride[2]; phase++) {
        ptrdiff_t at[IM2COLX_AXES];
        unflatten(phase, g->stride, at);
        im2colx_call part = *call;
        part.op = IM2COLX_FORWARD;
        part.x = call->y;
        part.y = call->x;
        part.w.outer = call->w.channel;
        part.w.channel = call->w.outer;
        part.geometry.channels = g->filters;
        part.geometry.filters = g->channels;
        int is_reached = 1;
        for (int axis = 0; axis < IM2COLX_AXES && is_reached; axis++) is_reached = phase_axis(&part, g, axis, at[axis]);
        if (!is_reached) {
            if (each == convolve_phase) zero_phase(call, at);
            continue;
        }
        convolution s = choose(&part, &plain, g->filters * call->w.outer);
        const im2colx_status status = each(&s, argument);
        if (status) return status;
    }
    return IM2COLX_OK;
}

static im2colx_status add_facts(convolution *s, void *facts_)
{
    im2colx_implicit_facts *facts = facts_;
    if ((size_t)workspace_of(s) > facts->workspace_bytes) facts->workspace_bytes = (size_t)workspace_of(s);
    facts->cycles += estimate(s) * (double)(s->g->batch * s->g->groups) + 400.0 * (double)s->tasks;
    facts->is_filters_in_lanes = s->is_filters;
    facts->is_slab = s->is_slab;
    facts->tasks += s->tasks;
    return IM2COLX_OK;
}

/* ---- Entry points --------------------------------------------------------------------------------------------------- */

im2colx_status im2colx_implicit(const im2colx_call *call, const im2colx_implicit_options *options)
{
    if (call->op == IM2COLX_GRAD_WEIGHT) return implicit_grad_weight(call, options->order, NULL);
    if (call->op == IM2COLX_GRAD_INPUT) return for_phases(call, options, convolve_phase, NULL);
    convolution s = choose(call, options, call->geometry.filters * call->w.outer);
    return convolve(&s);
}

im2colx_implicit_facts im2colx_implicit_explain(const im2colx_call *call, const im2colx_implicit_options *options)
{
    im2colx_implicit_facts facts = {.workspace_bytes = 0};
    const microkernel *kernel = find_microkernel(call->type);
    facts.isa = kernel->isa;
    facts.rows = MICRO_ROWS;
    facts.columns = kernel->lanes * kernel->vectors;
    if (call->op == IM2COLX_GRAD_WEIGHT) {
        implicit_grad_weight(call, options->order, &facts);
    } else if (call->op == IM2COLX_GRAD_INPUT) {
        for_phases(call, options, add_facts, &facts);
    } else {
        convolution s = choose(call, options, call->geometry.filters * call->w.outer);
        add_facts(&s, &facts);
    }
    return facts;
}

double im2colx_burn(im2colx_type type, ptrdiff_t rounds, ptrdiff_t *operations)
{
    const microkernel *kernel = find_microkernel(type);
    *operations = 2 * 16 * kernel->lanes;
    return kernel->burn(rounds);
}
