/* im2col and its adjoint col2im on the whole patch matrix (Algorithm 1 and the transpose of it). */
#include "patches.h"
#include "threads.h"

enum { TASK_ELEMENTS = 256 << 10 };

typedef struct {
    const im2colx_geometry *g;
    const im2colx_tensor *x;
    size_t itemsize;
    patch_tile phi;
    ptrdiff_t patches;       /* a task, im2col */
    ptrdiff_t channels;      /* a task */
    ptrdiff_t channel_tasks; /* in all channels */
    patch_run run;
} lowering;

static patch_tile whole_matrix(const im2colx_geometry *g, im2colx_order order, void *data)
{
    const ptrdiff_t taps = taps_of(g), columns = g->channels * taps;
    return order == IM2COLX_CHANNELS_LAST ? (patch_tile){data, columns, 1, g->channels}
                                          : (patch_tile){data, columns, taps, 1};
}

static void walk_part(const lowering *l, range patches, range channels)
{
    const patch_block block = {patches, channels, {0, taps_of(l->g)}};
    patch_tile part = l->phi;
    part.data = (char *)part.data
                + (patches.begin * part.patch + channels.begin * part.channel) * (ptrdiff_t)l->itemsize;
    patch_walk(l->g, l->x, l->itemsize, &block, &part, l->run);
}

static void gather_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const lowering *l = argument;
    const ptrdiff_t begin = task / l->channel_tasks * l->patches, end = l->g->batch * outputs_of(l->g);
    const ptrdiff_t channel = task % l->channel_tasks * l->channels;
    (void)worker, (void)job;
    walk_part(l, (range){begin, min_size(begin + l->patches, end)},
              (range){channel, min_size(channel + l->channels, l->g->channels)});
}

im2colx_status im2colx_im2col(const im2colx_geometry *g, const im2colx_tensor *x, size_t itemsize, im2colx_order order,
                              void *patches, int threads, im2colx_poll poll)
{
    /* Tasks of about 256 Ki elements: well below the poll's period, and far above the cost of taking one. A patch may be
     * longer than that by itself: then its channels are shared out. */
    lowering l = {.g = g, .x = x, .itemsize = itemsize, .phi = whole_matrix(g, order, patches), .run = patch_gather};
    l.patches = max_size(1, TASK_ELEMENTS / (g->channels * taps_of(g)));
    l.channels = clamp_size(TASK_ELEMENTS / taps_of(g), 1, g->channels);
    l.channel_tasks = divide_up(g->channels, l.channels);
    return im2colx_run(divide_up(g->batch * outputs_of(g), l.patches) * l.channel_tasks, threads, gather_task, &l, poll);
}

/* Overlapping patches add up in one image and channel, so these are what the threads share out. */
static void scatter_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const lowering *l = argument;
    const ptrdiff_t outputs = outputs_of(l->g), image = task / l->channel_tasks;
    const ptrdiff_t begin = task % l->channel_tasks * l->channels;
    const range channels = {begin, min_size(begin + l->channels, l->g->channels)};
    const ptrdiff_t step = max_size(1, TASK_ELEMENTS / (range_size(channels) * taps_of(l->g)));
    (void)worker;
    for (ptrdiff_t p = 0; p < outputs && !im2colx_stopped(job); p += step)
        walk_part(l, (range){image * outputs + p, image * outputs + min_size(p + step, outputs)}, channels);
}

im2colx_status im2colx_col2im(const im2colx_geometry *g, const im2colx_tensor *x, im2colx_type type, im2colx_order order,
                              const void *patches, int threads, im2colx_poll poll)
{
    lowering l = {.g = g, .x = x, .itemsize = im2colx_itemsize(type), .run = patch_scatter(type)};
    l.phi = whole_matrix(g, order, (void *)patches);
    l.channels = divide_up(g->channels, g->batch < threads ? threads : 1);
    l.channel_tasks = divide_up(g->channels, l.channels);
    return im2colx_run(g->batch * l.channel_tasks, threads, scatter_task, &l, poll);
}
