/* "implicit": convolution without a patch matrix or a tile of it. The microkernels read x through the index map.
 *
 * Two orientations of the same sum (microkernels/microkernel.h): pixels in lanes (implicit_pixels.c), where w is read where it
 * lies, and filters in lanes (implicit_filters.c), where it is packed. Here: what is common to them, and the choice.
 *
 * x is read where it lies if nothing is padded, or what is padded left out; otherwise each task copies the padded rows that it
 * needs (slab.h). The gradient with respect to x is this convolution again (implicit_input.c); that with respect to w is in
 * implicit_weight.c.
 *
 * Bits do not depend on threads, batch, strides or orientation: an output is one sum over q in a fixed order, cut into pieces
 * at fixed places. Left out are only zeros times finite weights, which would not change it.
 */
#include "implicit.h"

#include <stdint.h>
#include <stdlib.h>

/* A slab of one thread: about a second-level cache of 1 MiB. Smaller ones copy more rows twice; ResNet and VGG layers took 2
 * to 5 % longer with half of it, and 2 % longer with twice as much. */
enum { SLAB_BYTES = 1088 << 10 };
/* Panels of at most this many bytes are packed once for a call. */
enum { PACK_FIRST_BYTES = 256 << 10 };
/* A workspace up to this size is on the stack: a tiny call takes less than an allocation. */
enum { SMALL_WORKSPACE = 8 << 10 };
/* Multiply-adds from which it is worth finding out which taps to leave out. */
enum { WORTH_SKIPPING = 1 << 20 };
/* Outputs for a weight from which it is worth finding out whether the weights are finite: a hundredth of the work. */
enum { WORTH_LOOKING = 256 };
/* Columns of a chunk then, about: with 9 and five outputs a tile, the microkernel lost a tenth. */
enum { SKIPPING_LENGTH = 128 };

/* ---- Tasks ------------------------------------------------------------------------------------------------------- */

/* Cuts the outputs into bands, rows first, until a slab fits and there are `least` of them. */
static void cut_bands(convolution *s, ptrdiff_t least)
{
    const im2colx_geometry *g = s->g;
    for (int axis = 0; axis < IM2COLX_AXES; axis++) s->band[axis] = g->output[axis];
    for (;;) {
        s->layout = layout_of_slab(g, g->channels, s->band, !s->is_filters, s->is_last, s->size);
        ptrdiff_t count = 1;
        for (int axis = 0; axis < IM2COLX_AXES; axis++) count *= divide_up(g->output[axis], s->band[axis]);
        if ((!s->is_slab || s->layout.elements * s->size <= s->slab_bytes) && count >= least) break;
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

piece take_piece(const convolution *s, ptrdiff_t task, int worker)
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
        p.x = x.data;
    }
    return p;
}

const char *x_at(const convolution *s, const piece *p, const ptrdiff_t o[IM2COLX_AXES], const ptrdiff_t k[IM2COLX_AXES])
{
    ptrdiff_t offset = 0;
    for (int axis = 0; axis < IM2COLX_AXES; axis++)
        offset += s->is_slab ? o[axis] * s->layout.step[axis] + k[axis] * s->g->dilation[axis] * s->layout.space[axis]
                             : map_axis(s->g, axis, p->first[axis] + o[axis], k[axis]) * s->layout.space[axis];
    return p->x + offset * s->size;
}

char *y_at(const convolution *s, const piece *p, ptrdiff_t f, ptrdiff_t o0, ptrdiff_t o1)
{
    const im2colx_tensor *y = &s->call->y;
    return (char *)y->data + (p->n * y->outer + (p->g * s->g->filters + f) * y->channel + (p->first[0] + o0) * y->space[0]
                              + (p->first[1] + o1) * y->space[1] + p->first[2] * y->space[2]) * s->size;
}

const char *bias_at(const convolution *s, const piece *p, ptrdiff_t f)
{
    return s->call->bias ? (const char *)s->call->bias + (p->g * s->g->filters + f) * s->size : NULL;
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
        const im2colx_tensor *y = &s->call->y;
        const double store = y->space[2] == 1 || y->channel == 1 ? 0.3 : 1.2; /* an element at a time, if no vector fits */
        cycles += pixels * (vectors * columns * s->share / 2 * narrow + filters * store);
        if (s->packs_first)
            cycles += filters * columns / (double)max_size(1, g->batch);
        else if (!s->packed && !s->is_w_panel)
            cycles += divide_up(outputs_of(g), BAND_PIXELS_PACKING) * filters * columns
                      * (filters * columns * (double)s->size > SLAB_BYTES ? 3.0 : 1.0); /* from beyond the second level */
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
    return (ptrdiff_t)im2colx_packed_bytes(s->g, s->call->type);
}

/* Whether to leave out the taps that fall into the padding, with how many channels in a chunk, and what share of the work is
 * left. The pieces of the sum stay the same, and so do its bits. */
static void consider_skipping(convolution *s)
{
    const im2colx_geometry *g = s->g;
    const ptrdiff_t taps = taps_of(g), outputs = outputs_of(g);
    if (s->outside == OUTSIDE_IS_ZERO && !s->is_finite) return;
    if (s->is_last || !needs_padding(g) || (s->cut.chunks > 1 && s->cut.length % taps)) return;
    if ((double)outputs * (double)(taps * g->channels) * (double)g->filters < WORTH_SKIPPING) return;
    tap_class classes[MOST_CLASSES];
    const int count = find_classes(g, classes);
    if (!count) return;
    /* As many channels as make a chunk long, in whole chunks a piece. */
    const ptrdiff_t piece = s->cut.chunks == 1 ? g->channels : s->piece * s->cut.length / taps;
    ptrdiff_t channels = min_size(piece, max_size(1, SKIPPING_LENGTH / taps));
    while (s->cut.chunks > 1 && piece % channels) channels--;
    double work = 0;
    for (int i = 0; i < count; i++) {
        double pixels = 1;
        for (int axis = 0; axis < IM2COLX_AXES; axis++) pixels *= (double)range_size(classes[i].outputs[axis]);
        work += pixels * (double)classes[i].taps;
        s->class_entries += 2 * channels * classes[i].taps;
    }
    s->skips = channels;
    s->class_count = count;
    s->share = work / ((double)outputs * (double)taps);
    s->cut = (sum_cut){divide_up(g->channels, channels), channels * taps};
    s->piece = divide_up(piece, channels);
}

/* Whether channels of x as it lies share so few sets of a second-level cache (1024 sets of 64 bytes, 8 to 16 ways) that they
 * would drive one another out. Otherwise a copy does not pay: ResNet and VGG layers took 2 to 8 % longer with one. */
static int is_crowded(const convolution *s)
{
    const ptrdiff_t step = s->call->x.channel * s->size, stride = step < 0 ? -step : step;
    if (stride % 64 || stride == 0) return 0;
    return min_size(s->g->channels, s->piece) > 8 * (1024 / greatest_divisor(1024, stride / 64));
}

static ptrdiff_t lines(ptrdiff_t bytes) { return divide_up(bytes, 64) * 64; }

/* Bytes of the tables: for x and w, for a panel, for the classes, and these. */
static ptrdiff_t table_bytes(const convolution *s)
{
    const ptrdiff_t entries = table_entries(s->cut) + s->cut.chunks + s->cut.length + s->class_entries;
    return lines(entries * (ptrdiff_t)sizeof(ptrdiff_t) + (s->skips ? MOST_CLASSES : 1) * (ptrdiff_t)sizeof(tap_class));
}

static ptrdiff_t workspace_of(const convolution *s)
{
    return table_bytes(s) + lines((s->slab_elements + s->scratch_elements + s->panel_elements) * s->size) * s->threads
           + (s->packs_first ? lines(packed_bytes(s)) : 0);
}

/* Whether a run of `rows` rows of `columns` outputs is shorter than a tile: its vectors would end beyond x. */
static int is_short_run(const convolution *s, ptrdiff_t rows, ptrdiff_t columns)
{
    const ptrdiff_t length = limited_sum(limited_product(rows - 1, max_size(0, s->call->x.space[1])), columns);
    return length < s->kernel->lanes * s->kernel->vectors;
}

/* Whether x is read where it lies or copied, and with which taps. */
static void choose_source(convolution *s)
{
    const im2colx_geometry *g = s->g;
    const im2colx_tensor *x = &s->call->x;
    s->is_slab = needs_padding(g);
    s->cut = cut_sum(g, s->is_last);
    s->piece = piece_chunks(s->cut);
    s->skips = 0;
    s->class_count = 1;
    s->class_entries = 0;
    s->share = 1;
    if (s->is_filters) {
        consider_skipping(s);
        if (s->skips) s->is_slab = is_crowded(s);
    } else {
        /* Read in place only with neighbours in a row, where no vector reads beyond the end, and not with a power of two
         * from channel to channel, which would crowd a few sets of the cache. */
        s->is_slab |= g->stride[0] != 1 || g->stride[1] != 1 || g->stride[2] != 1 || x->space[2] != 1
                      || x->space[1] < g->output[2] || is_short_run(s, g->output[1], g->output[2])
                      || (x->channel * s->size % 2048 == 0 && g->channels > 8 && g->filters > MICRO_ROWS);
    }
    s->multiplies_outside = needs_padding(g) && !s->skips;
}

static void prepare(convolution *s)
{
    const im2colx_geometry *g = s->g;
    choose_source(s);
    s->is_w_panel = s->call->w.outer == 1 && g->filters % s->kernel->lanes == 0;
    const ptrdiff_t width = s->is_filters ? panel_width(g->filters, s->kernel) : s->kernel->lanes * s->kernel->vectors;
    const int packs = s->is_filters && !s->packed && !s->is_w_panel;
    s->packs_first = packs && s->w_group == g->filters * s->call->w.outer && packed_bytes(s) <= PACK_FIRST_BYTES;
    s->band_pixels = packs && !s->packs_first ? BAND_PIXELS_PACKING : BAND_PIXELS;
    const ptrdiff_t panel_columns = min_size(s->piece * s->cut.length, g->channels * taps_of(g));
    s->panel_elements = packs && !s->packs_first ? limited_product(width, panel_columns) : 0;
    s->scratch_elements = (s->is_filters ? min_size(s->band_pixels, outputs_of(g)) : MICRO_ROWS) * width;
    /* The slab takes what the rest leaves. */
    s->slab_elements = 0;
    const ptrdiff_t left = IM2COLX_IMPLICIT_BYTES - workspace_of(s) - 64 - MICRO_VECTORS * s->kernel->lanes * s->size;
    s->slab_bytes = clamp_size(left, 0, SLAB_BYTES);
    /* An even share for every thread: bands, and where they are few, filters. */
    const ptrdiff_t most = s->is_filters ? panels_of(g->filters, s->kernel) : divide_up(g->filters, MICRO_ROWS);
    const ptrdiff_t shares = g->batch * g->groups * most;
    const int is_uneven = s->is_filters && shares < 8 * s->threads && shares % s->threads; /* three panels for two threads */
    const ptrdiff_t least = is_uneven ? s->threads : divide_up(s->threads, max_size(1, shares));
    cut_bands(s, least);
    ptrdiff_t last[IM2COLX_AXES]; /* band */
    for (int axis = 0; axis < IM2COLX_AXES; axis++) last[axis] = g->output[axis] - (s->bands[axis] - 1) * s->band[axis];
    if (!s->is_filters && !s->is_slab && is_short_run(s, last[1], last[2])) {
        s->is_slab = 1;
        cut_bands(s, least);
    }
    s->tasks = g->batch * g->groups * s->bands[0] * s->bands[1] * s->bands[2];
    s->filter_parts = 1;
    if (s->tasks < 8 * s->threads && s->tasks % s->threads) {
        s->filter_parts = min_size(most, s->threads);
        s->tasks *= s->filter_parts;
    }
    if (s->is_filters) s->scratch_elements = min_size(s->band_pixels, s->band[0] * s->band[1] * s->band[2]) * width;
}

/* The better orientation, or the one that was asked for. `w_group`: elements of w from group to group. */
convolution choose_convolution(const im2colx_call *call, const im2colx_implicit_options *options, ptrdiff_t w_group,
                               outside_is outside)
{
    convolution s = {.call = call, .g = &call->geometry, .kernel = find_microkernel(call->type), .outside = outside};
    s.packed = options->packed;
    s.is_last = options->order == IM2COLX_CHANNELS_LAST;
    s.size = (ptrdiff_t)im2colx_itemsize(call->type);
    s.w_group = w_group;
    s.threads = im2colx_workers(IM2COLX_MAX_THREADS, call->threads);
    s.is_finite = options->is_finite;
    s.is_filters = s.is_last || options->orientation == IM2COLX_FILTERS_IN_LANES;
    prepare(&s);
    if (s.is_last || options->orientation != IM2COLX_EITHER) return s;
    convolution other = s;
    other.is_filters = 1;
    prepare(&other);
    const ptrdiff_t most = (ptrdiff_t)IM2COLX_IMPLICIT_BYTES * s.threads;
    if (workspace_of(&s) > most || workspace_of(&other) > most) return workspace_of(&s) <= workspace_of(&other) ? s : other;
    return estimate(&s) <= estimate(&other) ? s : other;
}

/* ---- Forward ------------------------------------------------------------------------------------------------------ */

/* Fills the tables of s, in `memory`. */
static void fill_tables(convolution *s, char *memory)
{
    const im2colx_geometry *g = s->g;
    const ptrdiff_t width = panel_width(g->filters, s->kernel);
    s->classes = (tap_class *)memory;
    ptrdiff_t *entries = (ptrdiff_t *)(s->classes + (s->skips ? MOST_CLASSES : 1));
    offset_tables *o = &s->tables;
    const slab_layout channels_only = {.channel = s->layout.channel}; /* where taps are left out, the classes know the others */
    *o = make_tables(g, s->is_last, s->cut, s->skips ? &channels_only : &s->layout, &s->call->w, entries);
    entries += table_entries(s->cut);
    if (!s->is_filters) return;
    const ptrdiff_t *b_inner = o->w_inner;
    s->b_chunk = o->w_chunk;
    if (!s->is_w_panel || s->packed) { /* in a panel, column follows column */
        ptrdiff_t *panel_chunk = entries, *panel_inner = entries + o->chunks;
        for (ptrdiff_t c = 0; c < o->chunks; c++) panel_chunk[c] = c * o->length * width;
        for (ptrdiff_t r = 0; r < o->length; r++) panel_inner[r] = r * width;
        s->b_chunk = panel_chunk;
        b_inner = panel_inner;
    }
    entries += o->chunks + o->length;
    if (!s->skips) {
        tap_class all = {.taps = taps_of(g), .a_inner = o->x_inner, .b_inner = b_inner};
        for (int axis = 0; axis < IM2COLX_AXES; axis++) all.outputs[axis] = (range){0, g->output[axis]};
        *s->classes = all;
        return;
    }
    find_classes(g, s->classes);
    for (int i = 0; i < s->class_count; i++) {
        const ptrdiff_t length = s->skips * s->classes[i].taps;
        fill_class(g, s->skips, s->classes + i, &s->layout, b_inner, entries, entries + length);
        entries += 2 * length;
    }
}

im2colx_status convolve(convolution *s)
{
    _Alignas(64) char small[SMALL_WORKSPACE];
    const ptrdiff_t bytes = workspace_of(s);
    char *memory = bytes <= SMALL_WORKSPACE ? small : aligned_alloc(64, (size_t)bytes);
    if (!memory) return IM2COLX_NO_MEMORY;
    fill_tables(s, memory);
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

/* ---- Entry points --------------------------------------------------------------------------------------------------- */

void add_facts(const convolution *s, im2colx_implicit_facts *facts)
{
    if ((size_t)workspace_of(s) > facts->workspace_bytes) facts->workspace_bytes = (size_t)workspace_of(s);
    const im2colx_geometry *g = s->g;
    const double products = (double)(g->batch * g->groups);
    facts->cycles += estimate(s) * products + 400.0 * (double)s->tasks;
    facts->multiply_adds += products * (double)outputs_of(g) * (double)(taps_of(g) * g->channels) * (double)g->filters * s->share;
    facts->is_filters_in_lanes = s->is_filters;
    facts->is_slab = s->is_slab;
    facts->tasks += s->tasks;
    facts->convolutions++;
}

im2colx_status im2colx_implicit(const im2colx_call *call, const im2colx_implicit_options *options)
{
    const im2colx_geometry *g = &call->geometry;
    if (call->op == IM2COLX_GRAD_WEIGHT) return implicit_grad_weight(call, options->order, NULL);
    if (call->op == IM2COLX_GRAD_INPUT) return implicit_grad_input(call, options, NULL);
    im2colx_implicit_options known = *options;
    im2colx_status status = IM2COLX_OK;
    if (!options->is_finite && options->order == IM2COLX_CHANNELS_FIRST && options->orientation != IM2COLX_PIXELS_IN_LANES
        && needs_padding(g) && g->batch * outputs_of(g) >= WORTH_LOOKING)
        status = im2colx_finite_weights(call, &known.is_finite);
    if (status) return status;
    convolution s = choose_convolution(call, &known, g->filters * call->w.outer, OUTSIDE_IS_ZERO);
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
        implicit_grad_input(call, options, &facts);
    } else {
        convolution s = choose_convolution(call, options, call->geometry.filters * call->w.outer, OUTSIDE_IS_ZERO);
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
