/* The gradient with respect to x: a convolution of the gradient of y with the filters turned round, one of stride 1 for each
 * stride phase of x that a tap reaches. No sums meet in an element, as those of col2im do. */
#include "implicit.h"

#include <string.h>

/* ---- Phases --------------------------------------------------------------------------------------------------------- */

/* The elements i = stride*m + phase of x, on one axis, m = 0, 1, ... Only taps k = tap + step*j reach them, from outputs
 * o = m + shift - j*dilation: a convolution of stride 1 with the taps in reverse. */
typedef struct {
    ptrdiff_t phase, tap;
} reached_phase;

/* An axis has at most this many taps to look at, and phases to list; with more it is too many. */
enum { MOST_LOOKS = 1024 };

typedef struct {
    ptrdiff_t count;
    reached_phase phases[MOST_PHASES];
} axis_phases;

/* From tap to tap the phase moves by dilation modulo stride: until it repeats, each tap has a phase of its own. Returns 0 if
 * there are too many. */
static int find_phases(const im2colx_geometry *g, int axis, axis_phases *found)
{
    const ptrdiff_t s = g->stride[axis], d = g->dilation[axis] % s, period = s / greatest_divisor(s, d);
    const ptrdiff_t taps = min_size(g->kernel[axis], period);
    found->count = 0;
    if (taps > MOST_LOOKS) return 0;
    ptrdiff_t phase = (s - g->pad[axis] % s) % s;
    for (ptrdiff_t tap = 0; tap < taps; tap++, phase = phase < s - d ? phase + d : phase - (s - d)) {
        if (phase >= g->image[axis]) continue;
        if (found->count == MOST_PHASES) return 0;
        found->phases[found->count++] = (reached_phase){phase, tap};
    }
    return 1;
}

/* Makes `part` the convolution for a phase on one axis. */
static void take_phase(im2colx_call *part, const im2colx_geometry *g, int axis, reached_phase reached)
{
    const ptrdiff_t s = g->stride[axis], d = g->dilation[axis], divisor = greatest_divisor(s, d), step = s / divisor;
    const ptrdiff_t taps = (g->kernel[axis] - 1 - reached.tap) / step + 1;
    const ptrdiff_t size = (ptrdiff_t)im2colx_itemsize(part->type);
    im2colx_geometry *to = &part->geometry;
    to->image[axis] = g->output[axis];
    to->output[axis] = (g->image[axis] - reached.phase - 1) / s + 1;
    to->kernel[axis] = taps;
    to->stride[axis] = 1;
    to->dilation[axis] = d / divisor;
    to->pad[axis] = (taps - 1) * to->dilation[axis] - (reached.phase + g->pad[axis] - reached.tap * d) / s;
    part->w.data = (char *)part->w.data + (reached.tap + (taps - 1) * step) * part->w.space[axis] * size;
    part->w.space[axis] *= taps > 1 ? -step : 0; /* a step without a second tap may be huge, and so may a stride */
    part->y.data = (char *)part->y.data + reached.phase * part->y.space[axis] * size;
    part->y.space[axis] *= to->output[axis] > 1 ? s : 0;
}

/* ---- What no tap reaches ---------------------------------------------------------------------------------------------- */

typedef struct {
    const im2colx_call *call;
    ptrdiff_t size, rows; /* bytes of an element; rows of a task */
} zeroing;

static ptrdiff_t image_rows(const im2colx_geometry *g)
{
    return g->batch * g->groups * g->channels * g->image[0] * g->image[1];
}

/* Some rows of x, of which a channel of an image has image[0] * image[1]. */
static void zero_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const zeroing *s = argument;
    const im2colx_geometry *g = &s->call->geometry;
    const im2colx_tensor *x = &s->call->x;
    const ptrdiff_t plane = g->image[0] * g->image[1], channels = g->groups * g->channels;
    const ptrdiff_t end = min_size((task + 1) * s->rows, image_rows(g));
    (void)worker;
    for (ptrdiff_t row = task * s->rows; row < end && !im2colx_stopped(job); row++) {
        const ptrdiff_t n = row / plane / channels, c = row / plane % channels;
        char *to = (char *)x->data + (n * x->outer + c * x->channel + row % plane / g->image[1] * x->space[0]
                                      + row % g->image[1] * x->space[1]) * s->size;
        if (x->space[2] == 1) memset(to, 0, (size_t)(g->image[2] * s->size));
        else for (ptrdiff_t i = 0; i < g->image[2]; i++) memset(to + i * x->space[2] * s->size, 0, (size_t)s->size);
    }
}

/* Elements of a task: far below the poll's period, and far above the cost of taking one. */
enum { ZERO_ELEMENTS = 256 << 10 };

/* Cycles for an element, between those of a cache and of memory. */
#define ZERO_CYCLES 0.5

static im2colx_status zero_image(const im2colx_call *call)
{
    const im2colx_geometry *g = &call->geometry;
    zeroing s = {call, (ptrdiff_t)im2colx_itemsize(call->type), max_size(1, ZERO_ELEMENTS / max_size(1, g->image[2]))};
    return im2colx_run(divide_up(image_rows(g), s.rows), call->threads, zero_task, &s, call->poll);
}

/* ---- Entry ---------------------------------------------------------------------------------------------------------- */

im2colx_status implicit_grad_input(const im2colx_call *call, const im2colx_implicit_options *options,
                                   im2colx_implicit_facts *facts_only)
{
    const im2colx_geometry *g = &call->geometry;
    axis_phases axes[IM2COLX_AXES];
    ptrdiff_t count[IM2COLX_AXES], phases = 1;
    int is_partly_reached = 0;
    for (int axis = 0; axis < IM2COLX_AXES; axis++) {
        if (!find_phases(g, axis, axes + axis) || (phases *= axes[axis].count) > MOST_PHASES) {
            if (!facts_only) return im2colx_loops(call);
            facts_only->is_too_many = 1;
            return IM2COLX_OK;
        }
        count[axis] = axes[axis].count;
        is_partly_reached |= axes[axis].count < min_size(g->stride[axis], g->image[axis]);
    }
    im2colx_implicit_options plain = {.order = options->order, .orientation = options->orientation,
                                      .is_finite = options->is_finite};
    im2colx_status status = IM2COLX_OK;
    if (is_partly_reached && facts_only)
        facts_only->cycles += ZERO_CYCLES * (double)image_rows(g) * (double)g->image[2];
    else if (is_partly_reached) status = zero_image(call);
    for (ptrdiff_t phase = 0; phase < phases && !status; phase++) {
        ptrdiff_t at[IM2COLX_AXES];
        unflatten(phase, count, at);
        im2colx_call part = *call;
        part.op = IM2COLX_FORWARD;
        part.x = call->y;
        part.y = call->x;
        part.w.outer = call->w.channel;
        part.w.channel = call->w.outer;
        part.geometry.channels = g->filters;
        part.geometry.filters = g->channels;
        for (int axis = 0; axis < IM2COLX_AXES; axis++) take_phase(&part, g, axis, axes[axis].phases[at[axis]]);
        convolution s = choose_convolution(&part, &plain, g->filters * call->w.outer, OUTSIDE_IS_NOTHING);
        if (facts_only) {
            add_facts(&s, facts_only);
            continue;
        }
        /* Zeros in place of outputs that do not exist are harmless only to finite weights; where one is not, the loops know. */
        if (s.multiplies_outside && !plain.is_finite) {
            status = im2colx_finite_weights(call, &plain.is_finite);
            if (status || !plain.is_finite) return status ? status : im2colx_loops(call);
        }
        status = convolve(&s);
    }
    return status;
}
