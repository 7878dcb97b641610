/* im2col, on rows of the patch matrix, and its adjoint col2im on all of it (Algorithm 1 and the transpose of it). */
#include "patches.h"
#include "threads.h"

enum { TASK_ELEMENTS = 64 << 10 };

typedef struct {
    const im2colx_geometry *g;
    const im2colx_tensor *x;
    size_t itemsize;
    patch_tile phi;          /* the rows below */
    range rows;
    ptrdiff_t patches;       /* a task, im2col */
    ptrdiff_t channels;      /* a task */
    ptrdiff_t channel_tasks; /* in all channels */
    patch_run run;
} lowering;

/* `step` lies between the columns of a patch: 1 in Phi, where a patch is a row; the number of rows in its transpose. */
static patch_tile rows_of_matrix(const im2colx_geometry *g, im2colx_order order, void *data, ptrdiff_t step)
{
    const ptrdiff_t taps = taps_of(g), patch = step == 1 ? g->channels * taps : 1;
    return order == IM2COLX_CHANNELS_LAST ? (patch_tile){data, patch, step, step * g->channels}
                                          : (patch_tile){data, patch, step * taps, step};
}

static void walk_part(const lowering *l, range patches, range channels)
{
    const patch_block block = {patches, channels, {0, taps_of(l->g)}};
    patch_tile part = l->phi;
    part.data = (char *)part.data
                + ((patches.begin - l->rows.begin) * part.patch + channels.begin * part.channel) * (ptrdiff_t)l->itemsize;
    patch_walk(l->g, l->x, l->itemsize, &block, &part, l->run);
}

static void gather_task(void *argument, ptrdiff_t task, int worker, im2colx_job *job)
{
    const lowering *l = argument;
    const ptrdiff_t begin = l->rows.begin + task / l->channel_tasks * l->patches, end = l->rows.end;
    const ptrdiff_t channel = task % l->channel_tasks * l->channels;
    (void)worker, (void)job;
    walk_part(l, (range){begin, min_size(begin + l->patches, end)},
              (range){channel, min_size(channel + l->channels, l->g->channels)});
}

im2colx_status im2colx_im2col(const im2colx_geometry *g, const im2colx_tensor *x, size_t itemsize, im2colx_order order,
                              ptrdiff_t begin, ptrdiff_t end, int transposed, void *patches, int threads, im2colx_poll poll)
{
    /* Tasks of about 64 Ki elements: far below the poll's period, and far above the cost of taking one. They are cut where
     * runs are not: in patches, and in channels only if one patch is longer than that; the other way round if transposed. */
    const ptrdiff_t taps = taps_of(g), rows = end - begin;
    lowering l = {.g = g, .x = x, .itemsize = itemsize, .rows = {begin, end}, .run = patch_gather};
    l.phi = rows_of_matrix(g, order, patches, transposed ? rows : 1);
    l.patches = max_size(1, TASK_ELEMENTS / (transposed ? taps : taps * g->channels));
    l.channels = clamp_size(TASK_ELEMENTS / (transposed ? taps * min_size(rows, l.patches) : taps), 1, g->channels);
    l.channel_tasks = divide_up(g->channels, l.channels);
    return im2colx_run(divide_up(rows, l.patches) * l.channel_tasks, threads, gather_task, &l, poll);
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
    l.phi = rows_of_matrix(g, order, (void *)patches, 1);
    l.channels = divide_up(g->channels, g->batch < threads ? threads : 1);
    l.channel_tasks = divide_up(g->channels, l.channels);
    return im2colx_run(g->batch * l.channel_tasks, threads, scatter_task, &l, poll);
}
