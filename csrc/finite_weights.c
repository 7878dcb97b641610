/* Whether all weights are finite: then a product with a zero of the padding is zero, and may be left out. */
#include "index_map.h"
#include "microkernels/microkernel.h"
#include "threads.h"

#include <stdatomic.h>

/* Weights of a task: far below the poll's period, and far above the cost of taking one. */
enum { LOOK_ELEMENTS = 256 << 10 };

typedef struct {
    const im2colx_call *call;
    const microkernel *kernel;
    const char *block; /* the weights, if they fill one block of memory; NULL: one by one */
    ptrdiff_t count;
    atomic_int is_finite;
} looking;

/* Where the weights begin, if they fill one block of memory, each once, in whatever order. */
static const char *block_of(const im2colx_call *call)
{
    const im2colx_geometry *g = &call->geometry;
    const im2colx_tensor *w = &call->w;
    const ptrdiff_t size[] = {g->groups * g->filters, g->channels, g->kernel[0], g->kernel[1], g->kernel[2]};
    const ptrdiff_t stride[] = {w->outer, w->channel, w->space[0], w->space[1], w->space[2]};
    ptrdiff_t reach = 1, first = 0, count = 1;
    for (int axis = 0; axis < 5; axis++) {
        if (size[axis] == 1) continue;
        if (stride[axis] == 0) return NULL;
        if (stride[axis] < 0) first += stride[axis] * (size[axis] - 1);
        reach += (stride[axis] < 0 ? -stride[axis] : stride[axis]) * (size[axis] - 1);
        count *= size[axis];
    }
    return reach == count ? (const char *)w->data + first * (ptrdiff_t)im2colx_itemsize(call->type) : NULL;
}

static void look_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    looking *s = argument;
    const im2colx_geometry *g = &s->call->geometry;
    const im2colx_tensor *w = &s->call->w;
    const ptrdiff_t item = (ptrdiff_t)im2colx_itemsize(s->call->type), begin = task * LOOK_ELEMENTS;
    const ptrdiff_t end = min_size(begin + LOOK_ELEMENTS, s->count);
    int is_finite = 1;
    (void)worker, (void)job;
    if (!atomic_load_explicit(&s->is_finite, memory_order_relaxed)) return;
    if (s->block) is_finite = s->kernel->all_finite(s->block + begin * item, end - begin);
    for (ptrdiff_t i = begin; i < end && !s->block && is_finite; i++) {
        ptrdiff_t k[IM2COLX_AXES];
        unflatten(i % taps_of(g), g->kernel, k);
        const ptrdiff_t filter = i / taps_of(g) / g->channels, channel = i / taps_of(g) % g->channels;
        const ptrdiff_t at = filter * w->outer + channel * w->channel + k[0] * w->space[0] + k[1] * w->space[1] + k[2] * w->space[2];
        is_finite = s->kernel->all_finite((const char *)w->data + at * item, 1);
    }
    if (!is_finite) atomic_store_explicit(&s->is_finite, 0, memory_order_relaxed);
}

im2colx_status im2colx_finite_weights(const im2colx_call *call, int *is_finite)
{
    const im2colx_geometry *g = &call->geometry;
    looking s = {.call = call, .kernel = find_microkernel(call->type), .block = block_of(call)};
    s.count = g->groups * g->filters * g->channels * taps_of(g);
    atomic_init(&s.is_finite, 1);
    const im2colx_status status = im2colx_run(divide_up(s.count, LOOK_ELEMENTS), call->threads, look_task, &s, call->poll);
    *is_finite = atomic_load(&s.is_finite);
    return status;
}
