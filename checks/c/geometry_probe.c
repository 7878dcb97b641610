/* What csrc makes of a stranger's numbers, as functions of plain numbers: for checks/geometry.py, which knows what each should
 * be in integers that do not wrap.
 *
 * A probe takes rows of INPUTS numbers and gives rows of OUTPUTS; probe_NAME_sizes says how many. A geometry is 22 numbers, in
 * the order of im2colx_geometry. */
#define _GNU_SOURCE
#include "implicit.h"

/* Functions of one file only are reached by making the file a part of this one; what it exports gets other names. */
#define implicit_grad_input probed_grad_input
#include "../../csrc/implicit_input.c"
#undef implicit_grad_input
#define im2colx_product probed_product
#define im2colx_product_workspace probed_workspace
#define im2colx_long_product probed_long_product
#include "../../csrc/product.c"

#define EXPORT __attribute__((visibility("default")))

/* With UndefinedBehaviorSanitizer: how often it has reported. */
static int reports;
EXPORT void __ubsan_on_report(void);
EXPORT void __ubsan_on_report(void) { reports++; }
EXPORT int probe_reports(void);
EXPORT int probe_reports(void) { return reports; }

#define PROBE(NAME, INPUTS, OUTPUTS)                                                            \
    static void NAME##_numbers(const ptrdiff_t in[INPUTS], ptrdiff_t out[OUTPUTS]);             \
    EXPORT extern const int probe_##NAME##_sizes[2];                                            \
    const int probe_##NAME##_sizes[2] = {INPUTS, OUTPUTS};                                      \
    EXPORT void probe_##NAME(ptrdiff_t count, const ptrdiff_t *in, ptrdiff_t *out);             \
    void probe_##NAME(ptrdiff_t count, const ptrdiff_t *in, ptrdiff_t *out)                     \
    {                                                                                           \
        for (ptrdiff_t i = 0; i < count; i++, in += (INPUTS), out += (OUTPUTS)) NAME##_numbers(in, out); \
    }                                                                                           \
    static void NAME##_numbers(const ptrdiff_t in[INPUTS], ptrdiff_t out[OUTPUTS])

enum { NUMBERS = sizeof(im2colx_geometry) / sizeof(ptrdiff_t) };

static im2colx_geometry geometry_of(const ptrdiff_t *in)
{
    im2colx_geometry g;
    memcpy(&g, in, sizeof g);
    return g;
}

/* ---- index_map.h ------------------------------------------------------------------------------------------------------ */

PROBE(divide_up, 2, 1) { out[0] = divide_up(in[0], in[1]); }
PROBE(limited_product, 2, 1) { out[0] = limited_product(in[0], in[1]); }
PROBE(limited_sum, 2, 1) { out[0] = limited_sum(in[0], in[1]); }
PROBE(greatest_divisor, 2, 1) { out[0] = greatest_divisor(in[0], in[1]); }

PROBE(inside_range, 4, 2) /* start, step, size, count */
{
    const range r = inside_range(in[0], in[1], in[2], in[3]);
    out[0] = r.begin, out[1] = r.end;
}

PROBE(unflatten, 4, 3) /* index, sizes */ { unflatten(in[0], in + 1, out); }

PROBE(next_row, 6, 4) /* sizes, at */
{
    memcpy(out, in + 3, 3 * sizeof *out);
    out[3] = next_row(in, out);
}

PROBE(axis, NUMBERS + 2, 6) /* output o and tap k of the last axis */
{
    const im2colx_geometry g = geometry_of(in);
    const ptrdiff_t o = in[NUMBERS], k = in[NUMBERS + 1];
    const range outputs = outputs_inside(&g, 2, k), taps = taps_inside(&g, 2, o);
    out[0] = map_axis(&g, 2, o, k);
    out[1] = is_inside(&g, 2, out[0]);
    out[2] = outputs.begin, out[3] = outputs.end;
    out[4] = taps.begin, out[5] = taps.end;
}

/* ---- bounds.c ----------------------------------------------------------------------------------------------------------- */

PROBE(bounded, NUMBERS, 1)
{
    const im2colx_geometry g = geometry_of(in);
    out[0] = im2colx_is_bounded(&g);
}

/* ---- implicit.h: cuts -------------------------------------------------------------------------------------------------- */

PROBE(even_cut, 3, 1) /* count, parts, i */ { out[0] = even_cut(in[0], in[1], in[2]); }

PROBE(panels, 2, 2) /* filters, type */
{
    const microkernel *kernel = find_microkernel((im2colx_type)in[1]);
    out[0] = panels_of(in[0], kernel) * kernel->vectors * kernel->lanes;
    out[1] = panel_width(in[0], kernel) * panels_of(in[0], kernel);
}

PROBE(sums, NUMBERS + 1, 4) /* channels last */
{
    const im2colx_geometry g = geometry_of(in);
    const sum_cut cut = cut_sum(&g, (int)in[NUMBERS]);
    out[0] = cut.chunks, out[1] = cut.length, out[2] = piece_chunks(cut), out[3] = table_entries(cut);
}

PROBE(classes, NUMBERS, 1 + MOST_CLASSES * 10) /* how many; of each the outputs on each axis, taps, and the first tap */
{
    const im2colx_geometry g = geometry_of(in);
    tap_class classes[MOST_CLASSES];
    const int count = find_classes(&g, classes);
    out[0] = count;
    for (int i = 0; i < MOST_CLASSES; i++) {
        ptrdiff_t *to = out + 1 + 10 * i;
        memset(to, 0, 10 * sizeof *to);
        if (i >= count) continue;
        for (int axis = 0; axis < IM2COLX_AXES; axis++) {
            to[2 * axis] = classes[i].outputs[axis].begin, to[2 * axis + 1] = classes[i].outputs[axis].end;
            to[7 + axis] = classes[i].first[axis];
        }
        to[6] = classes[i].taps;
    }
}

/* ---- slab.h ------------------------------------------------------------------------------------------------------------ */

PROBE(slab, NUMBERS + 4, 16) /* channels, cut into phases, channels last, bytes of an element: for all outputs */
{
    const im2colx_geometry g = geometry_of(in);
    const slab_layout l = layout_of_slab(&g, in[NUMBERS], g.output, (int)in[NUMBERS + 1], (int)in[NUMBERS + 2],
                                         in[NUMBERS + 3]);
    memcpy(out, l.space, sizeof l.space);
    memcpy(out + 3, l.step, sizeof l.step);
    memcpy(out + 6, l.phases, sizeof l.phases);
    memcpy(out + 9, l.size, sizeof l.size);
    out[12] = l.channel;
    out[13] = l.elements;
    out[14] = needs_padding(&g);
    /* What the last tap of the last output of the last channel reads; only where such a slab can be had. */
    out[15] = -1;
    if (l.elements >= TOO_LARGE) return;
    const ptrdiff_t last[] = {g.kernel[0] - 1, g.kernel[1] - 1, g.kernel[2] - 1};
    out[15] = slab_tap(&g, &l, last) + (in[NUMBERS] - 1) * l.channel;
    for (int axis = 0; axis < IM2COLX_AXES; axis++) out[15] += (g.output[axis] - 1) * l.step[axis];
}

/* ---- implicit_input.c: stride phases ------------------------------------------------------------------------------------ */

PROBE(phases, NUMBERS, 2 + 8 * MOST_PHASES) /* of the last axis: found, count; of each the phase, its tap, and the part */
{
    const im2colx_geometry g = geometry_of(in);
    axis_phases found;
    memset(out, 0, (2 + 8 * MOST_PHASES) * sizeof *out);
    if (!(out[0] = find_phases(&g, 2, &found))) return;
    out[1] = found.count;
    for (ptrdiff_t i = 0; i < found.count; i++) {
        im2colx_call part = {.geometry = g, .type = IM2COLX_F32};
        ptrdiff_t *to = out + 2 + 8 * i;
        take_phase(&part, &g, 2, found.phases[i]);
        to[0] = found.phases[i].phase, to[1] = found.phases[i].tap;
        to[2] = part.geometry.image[2], to[3] = part.geometry.output[2], to[4] = part.geometry.kernel[2];
        to[5] = part.geometry.dilation[2], to[6] = part.geometry.pad[2], to[7] = part.geometry.stride[2];
    }
}

/* ---- implicit.c: what a forward call takes ------------------------------------------------------------------------------ */

static im2colx_tensor contiguous(ptrdiff_t channels, const ptrdiff_t space[IM2COLX_AXES], int is_last)
{
    im2colx_tensor t = {.data = NULL};
    t.space[2] = is_last ? channels : 1;
    t.space[1] = t.space[2] * space[2];
    t.space[0] = t.space[1] * space[1];
    t.channel = is_last ? 1 : t.space[0] * space[0];
    t.outer = is_last ? t.space[0] * space[0] : t.channel * channels;
    return t;
}

static im2colx_call call_of(const ptrdiff_t *in, int is_last, im2colx_type type, im2colx_op op, int threads)
{
    im2colx_call call = {.geometry = geometry_of(in), .type = type, .op = op, .threads = threads};
    const im2colx_geometry *g = &call.geometry;
    const ptrdiff_t filters = g->groups * g->filters;
    call.x = contiguous(g->groups * g->channels, g->image, is_last);
    call.y = contiguous(filters, g->output, is_last);
    call.w = contiguous(g->channels, g->kernel, 0);
    if (is_last) {
        call.w.outer = 1, call.w.channel = filters;
        call.w.space[2] = filters * g->channels;
        call.w.space[1] = call.w.space[2] * g->kernel[2];
        call.w.space[0] = call.w.space[1] * g->kernel[1];
    }
    return call;
}

PROBE(convolution, NUMBERS + 4, 18) /* channels last, type, threads, orientation */
{
    const int is_last = (int)in[NUMBERS];
    const im2colx_call call = call_of(in, is_last, (im2colx_type)in[NUMBERS + 1], IM2COLX_FORWARD, (int)in[NUMBERS + 2]);
    const im2colx_implicit_options options = {
        .order = (im2colx_order)is_last, .orientation = (im2colx_orientation)in[NUMBERS + 3], .is_finite = 1};
    const convolution s = choose_convolution(&call, &options, call.geometry.filters * call.w.outer, OUTSIDE_IS_ZERO);
    memcpy(out, s.band, sizeof s.band);
    memcpy(out + 3, s.bands, sizeof s.bands);
    out[6] = s.tasks, out[7] = s.filter_parts, out[8] = s.is_slab, out[9] = s.layout.elements;
    out[10] = s.slab_elements, out[11] = s.scratch_elements, out[12] = s.panel_elements;
    out[13] = s.cut.chunks, out[14] = s.cut.length, out[15] = s.class_entries, out[16] = s.threads;
    out[17] = (ptrdiff_t)im2colx_implicit_explain(&call, &options).workspace_bytes;
}

PROBE(packed, NUMBERS + 1, 1) /* type */
{
    const im2colx_geometry g = geometry_of(in);
    out[0] = (ptrdiff_t)im2colx_packed_bytes(&g, (im2colx_type)in[NUMBERS]);
}

/* ---- product.c: blocks --------------------------------------------------------------------------------------------------- */

PROBE(blocks, NUMBERS + 6, 10) /* channels last, type, op, threads, workspace, whole */
{
    const int is_last = (int)in[NUMBERS], threads = (int)in[NUMBERS + 3];
    const im2colx_call call = call_of(in, is_last, (im2colx_type)in[NUMBERS + 1], (im2colx_op)in[NUMBERS + 2], threads);
    const im2colx_product_options how = {NULL, (im2colx_order)is_last, PTRDIFF_MAX, (size_t)in[NUMBERS + 4],
                                         (int)in[NUMBERS + 5]};
    const product s = choose_blocks(&call, &how);
    out[0] = s.images, out[1] = s.patches, out[2] = s.patch_step, out[3] = s.channel_step, out[4] = s.tap_step;
    out[5] = s.channel_part, out[6] = s.filter_part, out[7] = s.tile_elements, out[8] = s.threads;
    out[9] = (ptrdiff_t)workspace_of(&s);
}
