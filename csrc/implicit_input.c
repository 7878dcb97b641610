/* The gradient with respect to x: a convolution of the gradient of y with the filters turned round, one of stride 1 for each
 * stride phase of x. No sums meet in an element, as those of col2im do. */
#include "implicit.h"

#include <string.h>

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

im2colx_status implicit_grad_input(const im2colx_call *call, const im2colx_implicit_options *options,
                                   im2colx_implicit_facts *facts_only)
{
    const im2colx_geometry *g = &call->geometry;
    const im2colx_implicit_options plain = {.order = options->order, .orientation = options->orientation,
                                            .is_finite = options->is_finite};
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
        im2colx_status status = IM2COLX_OK;
        if (is_reached) {
            convolution s = choose_convolution(&part, &plain, g->filters * call->w.outer);
            if (facts_only) add_facts(&s, facts_only);
            else status = convolve(&s);
        } else if (!facts_only) {
            zero_phase(call, at);
        }
        if (status) return status;
    }
    return IM2COLX_OK;
}
